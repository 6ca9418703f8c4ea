//! A relay in this process, on loopback: it serves given frames the way a real one does.
//!
//! `demo`, `mock-relay` and the tests use it. It holds the frames that it was given and nothing
//! per connection but a place among them; a client that does not read is not sent to.

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

/// After a failure to accept, which is a lack of file descriptors more often than not.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the relay serves, and how it behaves.
#[derive(Clone, Debug)]
pub struct Options {
    pub listen: SocketAddr,
    /// Events per second on each connection; `None`: as fast as the socket takes them.
    pub rate: Option<NonZeroU32>,
    /// Serve the frames again and again; `None`: once.
    pub repeat: Option<Repeat>,
    /// Close a connection properly once it has been sent everything, rather than wait for more.
    pub close_at_end: bool,
    /// Cut each connection off, without a closing handshake, after this many frames.
    pub drop_after: Option<u64>,
    /// Whether the event at the cursor is sent again. Real servers differ.
    pub inclusive: bool,
    /// The oldest seq that is still held; what came before is outdated.
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

/// How a short recording becomes a long one.
#[derive(Clone, Copy, Debug)]
pub struct Repeat {
    /// How often the frames are served altogether.
    pub times: u64,
    /// The frame with this seq instead of its own, so that seqs go on rising; `None` leaves it as
    /// it is.
    pub renumber: fn(&[u8], u64) -> Option<Vec<u8>>,
}

/// A running relay. Dropping it ends it.
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
    /// Listens, and serves `frames` to whoever comes.
    ///
    /// # Errors
    /// Where the address cannot be listened on.
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

    /// Where a source finds it.
    pub fn url(&self) -> String {
        format!("ws://{}{PATH}", self.address)
    }

    /// Appends a frame: live clients are sent it at once, and later ones by their cursor.
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
        // A panic of the relay has been printed; there is nothing else to stop.
        let _ = task.await;
    }
}

// === impl Server ===

impl Server {
    /// Runs until it is dropped, and its connections with it.
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
