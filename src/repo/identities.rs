//! Keeps the identities that were looked up in the database, and takes them from there at a start.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use crate::identity::Identities;
use crate::store::StoreError;
use crate::store::identity_store::IdentityStore;

/// The identities of one transaction: few, so that the transactions of events hardly wait for it.
const PER_TRANSACTION: usize = 1000;
/// Identities beyond the capacity are deleted after so many were saved.
const PER_TRIM: usize = 5000;
const LOAD_DEADLINE: Duration = Duration::from_secs(15);
const SAVE_DEADLINE: Duration = Duration::from_secs(5);

/// The cache of identities, and the table that it is kept in.
pub(super) struct KeptIdentities {
    identities: Identities,
    store: Arc<dyn IdentityStore>,
    saved_since_trim: AtomicUsize,
}

impl KeptIdentities {
    pub(super) fn new(identities: Identities, store: Arc<dyn IdentityStore>) -> Self {
        Self {
            identities,
            store,
            // The capacity may be lower than in the run before.
            saved_since_trim: AtomicUsize::new(PER_TRIM),
        }
    }

    /// Fills the cache from the table. If that fails, every account is looked up again.
    pub(super) async fn restore(&self) {
        let load = self.store.load_identities(self.identities.capacity());
        match timeout(LOAD_DEADLINE, load)
            .await
            .unwrap_or(Err(StoreError::Deadline))
        {
            Ok(stored) if stored.is_empty() => {}
            Ok(stored) => {
                let restored = self.identities.restore(stored);
                tracing::info!(restored, "identities read from the database");
            }
            Err(error) => tracing::warn!(
                %error,
                "the stored identities cannot be read; every account is looked up again"
            ),
        }
    }

    /// Writes all identities that are not saved yet, in short transactions. What cannot be saved now
    /// waits for the next call.
    pub(super) async fn save(&self) -> Result<(), StoreError> {
        while self.identities.has_unsaved() {
            let take = || self.identities.take_unsaved(PER_TRANSACTION);
            let saved = timely(self.store.save_identities(&take)).await?;
            self.identities.note_saved();
            self.saved_since_trim.fetch_add(saved, Ordering::Relaxed);
        }
        if self.saved_since_trim.load(Ordering::Relaxed) >= PER_TRIM {
            timely(self.store.trim_identities(self.identities.capacity())).await?;
            self.saved_since_trim.store(0, Ordering::Relaxed);
        }
        Ok(())
    }
}

async fn timely<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    timeout(SAVE_DEADLINE, work)
        .await
        .unwrap_or(Err(StoreError::Deadline))
}
