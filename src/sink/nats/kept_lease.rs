//! A lease as this consumer holds it: the key in the bucket of leases, and its last revision.

use std::time::Duration;

use async_nats::jetstream::kv;
use tokio::time::Instant;

use super::connection::{Connection, unavailable};
use super::lease::{LEASE, Lease};
use crate::sink::SinkError;

/// How often it is renewed.
pub(super) const RENEW_INTERVAL: Duration = Duration::from_secs(1);

/// A lease that this consumer holds until another one writes over it.
pub(super) struct KeptLease {
    connection: Connection,
    store: kv::Store,
    key: String,
    pub(super) lease: Lease,
    revision: u64,
    renewed_at: Instant,
}

impl KeptLease {
    /// Writes `lease` over the one with `revision`; 0 means that there is none. `None` if another
    /// consumer was faster.
    pub(super) async fn take(
        connection: Connection,
        store: kv::Store,
        key: String,
        lease: Lease,
        revision: u64,
    ) -> Result<Option<Self>, SinkError> {
        let mut kept = Self {
            connection,
            store,
            key,
            lease,
            revision,
            renewed_at: Instant::now(),
        };
        Ok(kept.write().await?.then_some(kept))
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Holds it for longer, and writes what has changed.
    ///
    /// # Errors
    /// If another consumer holds it.
    pub(super) async fn renew(&mut self) -> Result<(), SinkError> {
        match self.write().await? {
            true => Ok(()),
            false => Err(SinkError::unavailable(
                "another consumer has taken the partition over",
            )),
        }
    }

    pub(super) async fn renew_if_due(&mut self) -> Result<(), SinkError> {
        match self.renewed_at.elapsed() >= RENEW_INTERVAL {
            true => self.renew().await,
            false => Ok(()),
        }
    }

    /// Gives it back, so that another consumer can take it. If that fails, it ends by itself.
    pub(super) async fn give_back(mut self) {
        self.lease.holder = None;
        self.lease.hand = None;
        let _ends_by_itself = self.write().await;
    }

    /// Returns whether it is still this consumer's.
    async fn write(&mut self) -> Result<bool, SinkError> {
        let value = serde_json::to_vec(&self.lease).map_err(SinkError::unavailable)?;
        let writing = async {
            let updated = self.store.update(&self.key, value.into(), self.revision);
            match updated.await {
                Ok(revision) => Ok(Some(revision)),
                Err(error) => match error.kind() {
                    kv::UpdateErrorKind::WrongLastRevision => Ok(None),
                    _ => Err(unavailable("cannot write a lease", error)),
                },
            }
        };
        // What is not written within a lease is another consumer's.
        let Some(revision) = self.connection.run_within(LEASE, writing).await? else {
            return Ok(false);
        };
        self.revision = revision;
        self.renewed_at = Instant::now();
        Ok(true)
    }
}
