//! The connection that the consumers of a process share, and the stream that they read.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::stream::{Info, Stream};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::connection::Connection;
use super::options::NatsOptions;
use super::streams::{self, Side};
use crate::sink::SinkError;

/// How long a failure to connect is the answer to all who ask.
const FAILURE_LIFETIME: Duration = Duration::from_millis(500);

/// Connects when it is asked, and once for all who ask.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) options: Arc<NatsOptions>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    connection: Option<Connection>,
    stream: Option<Stream<Info>>,
    failed: Option<(Instant, SinkError)>,
}

/// A connection, and the stream as it was checked.
#[derive(Clone)]
pub(super) struct Linked {
    pub(super) connection: Connection,
    pub(super) stream: Stream<Info>,
}

impl Link {
    pub(super) fn new(options: NatsOptions) -> Self {
        Self {
            options: Arc::new(options),
            state: Arc::default(),
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
        let linked = state.connect(&self.options).await;
        state.failed = linked
            .as_ref()
            .err()
            .map(|error| (Instant::now(), error.clone()));
        linked
    }

    /// Has the stream checked again, since something failed.
    pub(super) async fn doubt(&self) {
        self.state.lock().await.stream = None;
    }
}

impl State {
    async fn connect(&mut self, options: &NatsOptions) -> Result<Linked, SinkError> {
        let connection = match self.connection.take().filter(|held| !held.is_lost()) {
            Some(connection) => connection,
            None => {
                self.stream = None;
                Connection::open(options).await?
            }
        };
        let connection = self.connection.insert(connection).clone();
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => streams::ensure(&connection, &options.layout, Side::Consumer).await?,
        };
        Ok(Linked {
            connection,
            stream: self.stream.insert(stream).clone(),
        })
    }
}
