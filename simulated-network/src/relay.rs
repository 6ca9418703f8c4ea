//! The relay: serves the network's log over WebSocket, by the rules for cursors, and misbehaves
//! when told to.

use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::handshake::server::{
    Callback, ErrorResponse, Request, Response,
};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

use crate::frame::{self, LogEntry};

#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// How many of the newest entries are held; `None` is all.
    pub window: Option<usize>,
    /// Replay begins with the cursor's own event, and not behind it.
    pub inclusive: bool,
    /// Says neither `OutdatedCursor` nor `FutureCursor`, as the relay in production
    /// (bluesky-social/indigo#1328): the one begins at the oldest entry, the other at what comes.
    pub is_tacit: bool,
}

/// A relay on a port of loopback. Dropping it cuts off its clients.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    state: watch::Sender<State>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    options: Options,
    log: Vec<LogEntry>,
    /// Sessions of an older generation are cut off.
    generation: u64,
    is_stalled: bool,
    sessions: u64,
}

/// What a session does next.
enum Next {
    Cut,
    Send(Bytes),
    Wait,
}

/// Where in the log a client begins.
#[derive(Debug, PartialEq, Eq)]
enum Start {
    At(usize),
    Future,
    Outdated(usize),
}

impl Relay {
    /// Listens, with nothing in its log.
    ///
    /// # Errors
    /// Where loopback has no port to give.
    pub async fn start(options: Options) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (state, _) = watch::channel(State {
            options,
            log: Vec::new(),
            generation: 0,
            is_stalled: false,
            sessions: 0,
        });
        let accepting = tokio::spawn(accept(listener, state.clone()));
        Ok(Self {
            address,
            state,
            accepting,
        })
    }

    pub fn url(&self) -> String {
        format!("ws://{}/xrpc/com.atproto.sync.subscribeRepos", self.address)
    }

    /// Sends these entries to everybody who follows.
    pub fn append(&self, entries: &[LogEntry]) {
        self.state
            .send_modify(|state| state.log.extend_from_slice(entries));
    }

    /// Cuts off all clients, without a closing handshake. They may come again.
    pub fn drop_connections(&self) {
        self.state.send_modify(|state| state.generation += 1);
    }

    /// Says nothing more, or goes on. Pings go unanswered meanwhile.
    pub fn stall(&self, is_stalled: bool) {
        self.state
            .send_modify(|state| state.is_stalled = is_stalled);
    }

    /// Forgets its log and cuts off all clients, as a relay that was set up again. What is appended
    /// next begins a new sequence (`Network::restart_sequence`).
    pub fn forget(&self) {
        self.state.send_modify(|state| {
            state.log.clear();
            state.generation += 1;
        });
    }

    /// How many clients have come so far.
    pub fn sessions(&self) -> u64 {
        self.state.borrow().sessions
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
        self.drop_connections();
    }
}

impl State {
    fn start(&self, cursor: Option<u64>) -> Start {
        let window = self.options.window.unwrap_or(usize::MAX);
        let oldest = self.log.len().saturating_sub(window);
        let seqs = || self.log[oldest..].iter().filter_map(|entry| entry.seq);
        let Some(cursor) = cursor else {
            return Start::At(self.log.len());
        };
        if cursor > seqs().last().unwrap_or(0) {
            return match self.options.is_tacit {
                true => Start::At(self.log.len()),
                false => Start::Future,
            };
        }
        // Seqs have holes, so the entry before the window tells whether anything is missing.
        let forgotten = self.log[..oldest].iter().filter_map(|entry| entry.seq);
        if cursor > 0 && forgotten.last().is_some_and(|last| cursor < last) {
            return match self.options.is_tacit {
                true => Start::At(oldest),
                false => Start::Outdated(oldest),
            };
        }
        let is_wanted = |seq| match self.options.inclusive {
            true => seq >= cursor,
            false => seq > cursor,
        };
        let held = &self.log[oldest..];
        let first = held
            .iter()
            .position(|entry| entry.seq.is_some_and(is_wanted));
        Start::At(first.map_or(self.log.len(), |first| oldest + first))
    }

    fn next(&self, index: usize, generation: u64) -> Next {
        if self.generation != generation {
            return Next::Cut;
        }
        match self.log.get(index) {
            Some(entry) if !self.is_stalled => Next::Send(entry.frame.clone()),
            _ => Next::Wait,
        }
    }
}

async fn accept(listener: TcpListener, state: watch::Sender<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = state.clone();
        // An error is a client that went away.
        tokio::spawn(async move { serve(stream, state).await.ok() });
    }
}

async fn serve(stream: TcpStream, state: watch::Sender<State>) -> Result<(), tungstenite::Error> {
    let mut cursor = None;
    let mut socket = accept_hdr_async(stream, ReadCursor(&mut cursor)).await?;
    state.send_modify(|state| state.sessions += 1);
    let mut changes = state.subscribe();
    let (start, generation) = {
        let state = changes.borrow();
        (state.start(cursor), state.generation)
    };
    let mut index = match start {
        Start::At(index) => index,
        Start::Future => {
            socket
                .send(Message::Binary(frame::error("FutureCursor")))
                .await?;
            return close(socket).await;
        }
        Start::Outdated(index) => {
            socket
                .feed(Message::Binary(frame::info("OutdatedCursor")))
                .await?;
            index
        }
    };
    loop {
        let next = changes.borrow_and_update().next(index, generation);
        match next {
            Next::Cut => return Ok(()),
            Next::Send(frame) => {
                socket.feed(Message::Binary(frame)).await?;
                index += 1;
            }
            Next::Wait => {
                socket.flush().await?;
                let is_stalled = changes.borrow().is_stalled;
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() {
                        return Ok(());
                    },
                    message = socket.next(), if !is_stalled => match message {
                        None | Some(Ok(Message::Close(_)) | Err(_)) => return Ok(()),
                        Some(Ok(_)) => {}
                    },
                }
            }
        }
    }
}

/// Closes, and waits until the client has taken everything.
async fn close(mut socket: WebSocketStream<TcpStream>) -> Result<(), tungstenite::Error> {
    socket.close(None).await?;
    while let Some(Ok(_)) = socket.next().await {}
    Ok(())
}

/// Takes the cursor out of a request; what is no number counts as none.
struct ReadCursor<'a>(&'a mut Option<u64>);

impl Callback for ReadCursor<'_> {
    fn on_request(self, request: &Request, response: Response) -> Result<Response, ErrorResponse> {
        let mut pairs = request.uri().query().unwrap_or_default().split('&');
        *self.0 = pairs.find_map(|pair| pair.strip_prefix("cursor=")?.parse().ok());
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seqs 10, 20, … 60.
    fn state(window: Option<usize>, inclusive: bool) -> State {
        let entry = |seq| LogEntry {
            seq: Some(seq),
            frame: Bytes::new(),
        };
        State {
            options: Options {
                window,
                inclusive,
                ..Options::default()
            },
            log: (1..=6).map(|number| entry(number * 10)).collect(),
            generation: 0,
            is_stalled: false,
            sessions: 0,
        }
    }

    #[test]
    fn a_cursor_within_the_window_begins_at_or_behind_its_event() {
        assert_eq!(state(None, false).start(Some(20)), Start::At(2));
        assert_eq!(state(None, true).start(Some(20)), Start::At(1));
        assert_eq!(state(None, false).start(Some(25)), Start::At(2));
        assert_eq!(state(None, false).start(Some(60)), Start::At(6));
    }

    #[test]
    fn no_cursor_is_live_and_zero_is_the_oldest() {
        assert_eq!(state(Some(3), false).start(None), Start::At(6));
        assert_eq!(state(Some(3), false).start(Some(0)), Start::At(3));
    }

    #[test]
    fn a_cursor_is_outdated_only_where_something_after_it_is_gone() {
        assert_eq!(state(Some(3), false).start(Some(20)), Start::Outdated(3));
        assert_eq!(state(Some(3), false).start(Some(30)), Start::At(3));
        assert_eq!(state(Some(3), false).start(Some(40)), Start::At(4));
    }

    #[test]
    fn a_tacit_relay_says_nothing_about_cursors() {
        let mut state = state(Some(3), false);
        state.options.is_tacit = true;
        assert_eq!(state.start(Some(20)), Start::At(3));
        assert_eq!(state.start(Some(61)), Start::At(6));
    }

    #[test]
    fn a_cursor_beyond_the_newest_event_is_in_the_future() {
        assert_eq!(state(None, false).start(Some(61)), Start::Future);
    }
}
