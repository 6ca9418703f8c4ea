//! A relay in this process, on loopback. It serves given frames in the way of a real relay.
//!
//! `demo`, `mock-relay` and the tests use it. It holds the given frames, and for each connection
//! only a position among them. It sends nothing to a client that does not read.

mod log;
mod messages;
mod session;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use log::Log;

const PATH: &str = "/xrpc/com.atproto.sync.subscribeRepos";

/// Further clients wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 64;

/// The pause after a failed accept, which usually means that no file descriptors are left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The relay's frames and behaviour.
#[derive(Clone, Debug)]
pub struct Options {
    pub listen: SocketAddr,
    /// Events per second on each connection; `None`: as fast as the socket takes them.
    pub rate: Option<NonZeroU32>,
    /// Serve the frames again and again; `None`: once.
    pub repeat: Option<Repeat>,
    /// Close a connection with a closing handshake after everything was sent, instead of waiting
    /// for further frames.
    pub close_at_end: bool,
    /// Cut each connection, without a closing handshake, after this many frames.
    pub drop_after: Option<u64>,
    /// Whether the event at the cursor is sent again. Real servers differ.
    pub inclusive: bool,
    /// The oldest seq that is still held. Cursors before it are outdated.
    pub window_start: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            rate: None,
            repeat: None,
            close_at_end: false,
            drop_after: None,
            inclusive: false,
            window_start: None,
        }
    }
}

/// Repeats a short recording to make a long one.
#[derive(Clone, Copy, Debug)]
pub struct Repeat {
    /// The total number of times that the frames are served.
    pub times: u64,
    /// Gives the frame another seq, so that seqs continue to ascend; `None` keeps the frame
    /// unchanged.
    pub renumber: fn(&[u8], u64) -> Option<Vec<u8>>,
}

/// A running relay. It stops when it is dropped.
#[derive(Debug)]
pub struct MockRelay {
    address: SocketAddr,
    log: Arc<Log>,
    connections: Arc<AtomicU64>,
    stop: DropGuard,
    task: JoinHandle<()>,
}

struct Server {
    listener: TcpListener,
    log: Arc<Log>,
    options: Options,
    connections: Arc<AtomicU64>,
}

// === impl MockRelay ===

impl MockRelay {
    /// Listens, and serves `frames` to all clients.
    ///
    /// # Errors
    /// If it cannot listen on the address.
    pub async fn start(frames: Vec<Bytes>, options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let log = Arc::new(Log::new(frames, &options));
        let connections = Arc::default();
        let server = Server {
            listener,
            log: Arc::clone(&log),
            options,
            connections: Arc::clone(&connections),
        };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            stopped.run_until_cancelled(server.run()).await;
        });
        Ok(Self {
            address,
            log,
            connections,
            stop: stop.drop_guard(),
            task,
        })
    }

    /// The URL of the relay.
    pub fn url(&self) -> String {
        format!("ws://{}{PATH}", self.address)
    }

    /// Appends a frame. Connected clients receive it at once, later ones according to their cursor.
    pub fn push(&self, frame: Bytes) {
        self.log.push(frame);
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Cuts all connections and frees the port.
    pub async fn stop(self) {
        let Self { stop, task, .. } = self;
        drop(stop);
        // A panic of the relay was printed already.
        let _ = task.await;
    }
}

// === impl Server ===

impl Server {
    /// Runs until it is dropped. Its connections end with it.
    async fn run(self) {
        let mut sessions = JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = sessions.join_next() => {}
                accepted = self.listener.accept(), if sessions.len() < MAX_CONNECTIONS => {
                    let Ok((stream, _)) = accepted else {
                        sleep(ACCEPT_PAUSE).await;
                        continue;
                    };
                    self.connections.fetch_add(1, Ordering::Relaxed);
                    let (log, options) = (Arc::clone(&self.log), self.options.clone());
                    sessions.spawn(session::serve(stream, log, options));
                }
            }
        }
    }
}
