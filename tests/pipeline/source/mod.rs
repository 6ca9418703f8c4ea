//! A source that fails in every way of a socket: the worker closes the connection, logs the reason,
//! dials again with growing delays, and loses nothing.

mod breaks;
mod refusals;
mod silence;
mod unreadable;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use huddle_firehose::config::Config;
use huddle_firehose::source::firehose::websocket::WebSocketOptions;
use huddle_firehose::testing::fault::Faults;
use test_support::connection_losses::{Loss, Losses};
use test_support::observed_source::Observed;
use test_support::recorded_frames::{frames, last_seq};
use test_support::running_worker::{Worker, undisturbed};
use test_support::scripted_server::{Request, Server};
use test_support::tables::{Database, assert_same_tables};

/// The number of frames before the failure.
const SOME: usize = 100;

fn options() -> WebSocketOptions {
    WebSocketOptions {
        connect_deadline: Duration::from_millis(300),
        ping_interval: Duration::from_millis(5),
        ..WebSocketOptions::default()
    }
}

async fn worker_at(server: &Server, config: Config, database: &Database) -> Worker {
    let source = Observed::with_options(&server.url("/"), options());
    let store = database.store().await;
    Worker::start_at(config, source, store, Faults::default()).await
}

struct Survived {
    losses: Vec<Loss>,
    /// The cursor of each connection.
    cursors: Vec<Option<u64>>,
    database: Database,
}

impl Survived {
    fn reasons(&self) -> Vec<&str> {
        let losses = self.losses.iter();
        losses.map(|loss| loss.reason.as_str()).collect()
    }
}

/// Serves `frames` to a worker. Its first `times` connections get `fault` instead.
async fn survive<F>(
    config: Config,
    frames: Vec<Bytes>,
    times: usize,
    fault: impl Fn(Request, Arc<[Bytes]>) -> F + Send + Sync + 'static,
) -> Survived
where
    F: Future<Output = ()> + Send + 'static,
{
    let database = Database::new();
    let end = last_seq(&frames);
    let frames: Arc<[Bytes]> = frames.into();
    let fault = Arc::new(fault);
    let server = Server::start(move |request: Request| {
        let (frames, fault) = (frames.clone(), fault.clone());
        async move {
            match request.number < times {
                true => fault(request, frames).await,
                false => request.serve(&frames).await,
            }
        }
    })
    .await;
    let losses = Losses::listen();
    let worker = worker_at(&server, config, &database).await;
    worker.reaches(end).await;
    worker.assert_restarted(&[]);
    worker.drain().await;
    let cursors = server.cursors();
    assert!(cursors.is_sorted(), "a cursor went back: {cursors:?}");
    Survived {
        losses: losses.so_far(),
        cursors,
        database,
    }
}

/// Like [`survive`] with the recording. Asserts that the tables are as without a failure.
async fn survive_unharmed<F>(
    config: Config,
    times: usize,
    fault: impl Fn(Request, Arc<[Bytes]>) -> F + Send + Sync + 'static,
) -> Survived
where
    F: Future<Output = ()> + Send + 'static,
{
    let survived = survive(config, frames(), times, fault).await;
    assert_same_tables(&survived.database.tables().await, undisturbed().await);
    survived
}
