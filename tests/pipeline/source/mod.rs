//! A source that goes wrong in every way that a socket has: the worker gives the connection up,
//! says why, dials again with growing delays, and loses nothing.

mod breaks;
mod refusals;
mod silence;
mod unreadable;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use huddle_firehose::config::Config;
use huddle_firehose::protocol::skim::seq_of;
use huddle_firehose::source::websocket::WebSocketOptions;
use huddle_firehose::supervision::fault::Faults;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::losses::{Loss, Losses};
use crate::observed::Observed;
use crate::server::{Request, Server};
use crate::support::{Worker, frames, last_seq, undisturbed};
use crate::tables::{Database, assert_same_tables};

/// So many frames come before something goes wrong.
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

// === What a relay does ===

/// What follows the cursor of a request.
fn behind(frames: &[Bytes], cursor: Option<u64>) -> &[Bytes] {
    let is_known = |frame: &Bytes| seq_of(frame).is_some_and(|seq| Some(seq) <= cursor);
    let known = frames.iter().rposition(is_known);
    &frames[known.map_or(0, |last| last + 1)..]
}

/// Sends frames behind the cursor, at most so many, and leaves the rest to the caller.
async fn serve_some(
    request: Request,
    frames: &[Bytes],
    most: usize,
) -> Option<WebSocketStream<TcpStream>> {
    let wanted = behind(frames, request.cursor());
    let mut socket = request.upgrade().await;
    for frame in wanted.iter().take(most) {
        socket.feed(Message::Binary(frame.clone())).await.ok()?;
    }
    socket.flush().await.ok()?;
    Some(socket)
}

/// Serves as a relay should, until the client leaves.
async fn serve(request: Request, frames: &[Bytes]) {
    if let Some(mut socket) = serve_some(request, frames, frames.len()).await {
        while let Some(Ok(_)) = socket.next().await {}
    }
}

// === What the worker makes of it ===

struct Survived {
    losses: Vec<Loss>,
    /// What each connection so far was to begin with.
    cursors: Vec<Option<u64>>,
    database: Database,
}

impl Survived {
    fn reasons(&self) -> Vec<&str> {
        let losses = self.losses.iter();
        losses.map(|loss| loss.reason.as_str()).collect()
    }
}

/// Serves `frames` to a worker, which gets `fault` instead for its first `times` connections.
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
                false => serve(request, &frames).await,
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
    assert!(cursors.is_sorted(), "asked for again: {cursors:?}");
    Survived {
        losses: losses.so_far(),
        cursors,
        database,
    }
}

/// As [`survive`], of the recording, which comes out as if nothing had been wrong.
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
