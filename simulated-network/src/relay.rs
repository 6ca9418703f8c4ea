//! The relay: serves a feed over WebSocket, and misbehaves if a test requests it.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::handshake::server::{
    Callback, ErrorResponse, Request, Response,
};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

pub use crate::feed::Options;
use crate::feed::{Feed, Next};
use crate::frame::LogEntry;

/// The first bytes of a request for the stream.
const STREAM: &[u8] = b"GET /xrpc/com.atproto.sync.subscribeRepos";

/// A relay on a loopback port. Dropping it disconnects its clients.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    feed: Feed,
    accepting: JoinHandle<()>,
}

impl Relay {
    /// Starts a relay with an empty log.
    ///
    /// # Errors
    /// If loopback has no free port.
    pub async fn start(options: Options) -> std::io::Result<Self> {
        Self::start_as(options, None).await
    }

    /// Like [`Self::start`]; other requests than those for the stream are forwarded to the server
    /// at `http`.
    ///
    /// # Errors
    /// As [`Self::start`]. As [`Self::start`].
    pub async fn start_before(http: SocketAddr, options: Options) -> std::io::Result<Self> {
        Self::start_as(options, Some(http)).await
    }

    async fn start_as(options: Options, http: Option<SocketAddr>) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let feed = Feed::new(options);
        let accepting = tokio::spawn(accept(listener, feed.clone(), http));
        Ok(Self {
            address,
            feed,
            accepting,
        })
    }

    pub fn url(&self) -> String {
        format!("ws://{}/xrpc/com.atproto.sync.subscribeRepos", self.address)
    }

    /// Sends these entries to all followers.
    pub fn append(&self, entries: &[LogEntry]) {
        self.feed.append(entries);
    }

    /// Disconnects all clients without a closing handshake. They may connect again.
    pub fn drop_connections(&self) {
        self.feed.cut();
    }

    /// Stops sending, or continues. Meanwhile pings are not answered.
    pub fn stall(&self, is_stalled: bool) {
        self.feed.stall(is_stalled);
    }

    /// See [`Feed::forget`].
    pub fn forget(&self) {
        self.feed.forget();
    }

    /// The number of clients so far.
    pub fn sessions(&self) -> u64 {
        self.feed.followers()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
        self.drop_connections();
    }
}

async fn accept(listener: TcpListener, feed: Feed, http: Option<SocketAddr>) {
    while let Ok((stream, _)) = listener.accept().await {
        let feed = feed.clone();
        // An error means that the client has gone away.
        tokio::spawn(async move {
            match http {
                Some(http) if !asks_for_stream(&stream).await => forward(stream, http).await.ok(),
                _ => serve(stream, feed).await.ok(),
            }
        });
    }
}

/// Whether the request is for the stream. The peeked bytes stay in the socket.
async fn asks_for_stream(stream: &TcpStream) -> bool {
    let mut seen = [0; STREAM.len()];
    // Clients send the beginning of the request in one piece.
    let length = stream.peek(&mut seen).await.unwrap_or_default();
    seen[..length] == *STREAM
}

async fn forward(mut client: TcpStream, http: SocketAddr) -> std::io::Result<()> {
    let mut server = TcpStream::connect(http).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

async fn serve(stream: TcpStream, feed: Feed) -> Result<(), tungstenite::Error> {
    let mut cursor = None;
    let mut socket = accept_hdr_async(stream, ReadCursor(&mut cursor)).await?;
    let mut follower = feed.follow(cursor);
    loop {
        match follower.step() {
            Next::Close => return close(socket).await,
            Next::Cut => return Ok(()),
            Next::Say(entry) => socket.feed(message(entry)?).await?,
            Next::Wait => {
                socket.flush().await?;
                tokio::select! {
                    is_there = follower.changed() => if !is_there {
                        return Ok(());
                    },
                    message = socket.next(), if !feed.is_stalled() => match message {
                        None | Some(Ok(Message::Close(_)) | Err(_)) => return Ok(()),
                        Some(Ok(_)) => {}
                    },
                }
            }
        }
    }
}

fn message(entry: LogEntry) -> Result<Message, tungstenite::Error> {
    Ok(match entry.is_text {
        true => Message::Text(entry.frame.try_into()?),
        false => Message::Binary(entry.frame),
    })
}

/// Closes the connection, and waits until the client has read everything.
async fn close(mut socket: WebSocketStream<TcpStream>) -> Result<(), tungstenite::Error> {
    socket.close(None).await?;
    while let Some(Ok(_)) = socket.next().await {}
    Ok(())
}

/// Extracts the cursor from a request; an invalid one counts as none.
struct ReadCursor<'a>(&'a mut Option<u64>);

impl Callback for ReadCursor<'_> {
    fn on_request(self, request: &Request, response: Response) -> Result<Response, ErrorResponse> {
        let mut pairs = request.uri().query().unwrap_or_default().split('&');
        *self.0 = pairs.find_map(|pair| pair.strip_prefix("cursor=")?.parse().ok());
        Ok(response)
    }
}
