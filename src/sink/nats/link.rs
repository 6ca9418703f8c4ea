//! The connection that the consumers of a process share, and the stream that they read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream::kv;
use async_nats::jetstream::stream::{Info, Stream};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::connection::Connection;
use super::lease::LEASE;
use super::options::{Layout, NatsOptions};
use super::streams::{self, Side};
use crate::sink::SinkError;

/// How long a failure to connect is the answer to all who ask.
const FAILURE_LIFETIME: Duration = Duration::from_millis(500);

/// Connects when it is asked, and once for all who ask.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) options: Arc<NatsOptions>,
    state: Arc<Mutex<State>>,
    /// Something failed since the stream and the buckets were looked up.
    is_in_doubt: Arc<AtomicBool>,
}

#[derive(Default)]
struct State {
    connection: Option<Connection>,
    found: Option<Found>,
    failed: Option<(Instant, SinkError)>,
}

/// The stream as it was checked, and the buckets. They are looked up again after an error only.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) stream: Stream<Info>,
    pub(super) feeds: kv::Store,
    pub(super) leases: kv::Store,
    pub(super) members: kv::Store,
}

/// A connection, and what there is.
#[derive(Clone)]
pub(super) struct Linked {
    pub(super) connection: Connection,
    pub(super) found: Found,
}

impl Link {
    pub(super) fn new(options: NatsOptions) -> Self {
        Self {
            options: Arc::new(options),
            state: Arc::default(),
            is_in_doubt: Arc::default(),
        }
    }

    pub(super) async fn get(&self) -> Result<Linked, SinkError> {
        let mut state = self.state.lock().await;
        let failed = state.failed.as_ref();
        if let Some((at, error)) = failed.filter(|(at, _)| at.elapsed() < FAILURE_LIFETIME) {
            tracing::trace!(
                ago_ms = at.elapsed().as_millis() as u64,
                "not connected anew yet"
            );
            return Err(error.clone());
        }
        if self.is_in_doubt.swap(false, Ordering::Relaxed) {
            state.found = None;
        }
        let linked = state.connect(&self.options).await;
        state.failed = linked
            .as_ref()
            .err()
            .map(|error| (Instant::now(), error.clone()));
        linked
    }

    /// Has the stream checked and the buckets looked up again, since something failed.
    pub(super) fn doubt(&self) {
        self.is_in_doubt.store(true, Ordering::Relaxed);
    }
}

impl State {
    async fn connect(&mut self, options: &NatsOptions) -> Result<Linked, SinkError> {
        let connection = match self.connection.take().filter(|held| !held.is_lost()) {
            Some(connection) => connection,
            None => {
                self.found = None;
                Connection::open(options).await?
            }
        };
        let connection = self.connection.insert(connection).clone();
        let found = match self.found.take() {
            Some(found) => found,
            None => Found::look_up(&connection, &options.layout).await?,
        };
        Ok(Linked {
            connection,
            found: self.found.insert(found).clone(),
        })
    }
}

impl Found {
    async fn look_up(connection: &Connection, layout: &Layout) -> Result<Self, SinkError> {
        let stream = streams::ensure(connection, layout, Side::Consumer).await?;
        let bucket = async |name, lifetime| {
            let opening = streams::bucket(&connection.context, layout, name, lifetime);
            connection.run(opening).await
        };
        Ok(Self {
            feeds: bucket(layout.feeds(), None).await?,
            leases: bucket(layout.leases(), None).await?,
            members: bucket(layout.members(), Some(LEASE)).await?,
            stream,
        })
    }
}
