//! The source for `com.atproto.sync.subscribeRepos`: frames as binary WebSocket messages.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use url::Url;

use super::dial::{Dialer, Socket};
use crate::model::SourceId;
use crate::net::tls;
use crate::source::error::{ConnectError, ReadError};
use crate::source::frame_sink::FrameSink;
use crate::source::{Frames, Resume, Source};

/// A server's event stream over WebSocket.
pub struct WebSocketSource {
    id: SourceId,
    url: Url,
    dialer: Dialer,
    ping_interval: Duration,
}

/// The options of a [`WebSocketSource`].
#[derive(Clone, Debug)]
pub struct WebSocketOptions {
    /// For DNS, TCP, TLS, handshake and redirects together.
    pub connect_deadline: Duration,
    /// How often a waiting connection sends a ping. Pings keep middleboxes from dropping the
    /// connection. They say nothing about the stream (see [`crate::source::silence`]).
    pub ping_interval: Duration,
    pub user_agent: String,
}

impl Default for WebSocketOptions {
    fn default() -> Self {
        Self {
            connect_deadline: Duration::from_secs(20),
            ping_interval: Duration::from_secs(30),
            user_agent: concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// Options that do not define a source.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSource {
    #[error("the {0} must be longer than zero")]
    ZeroDuration(&'static str),
    #[error("a source's URL begins with wss:// or ws://, and {0:?} does not")]
    Scheme(String),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    #[error("{0:?} cannot be sent as User-Agent")]
    UserAgent(String),
}

/// The frames of one WebSocket.
struct WebSocketFrames {
    socket: Socket,
    ping: Interval,
    ignored: u64,
}

// === impl WebSocketSource ===

impl WebSocketSource {
    /// A source at `url`. It does not connect yet.
    ///
    /// # Errors
    /// If the URL is not `ws` or `wss`, if a duration is zero, or if the user agent is not valid in
    /// a header.
    pub fn try_new(url: Url, options: WebSocketOptions) -> Result<Self, InvalidSource> {
        let WebSocketOptions {
            connect_deadline,
            ping_interval,
            user_agent,
        } = options;
        if !matches!(url.scheme(), "ws" | "wss") {
            return Err(InvalidSource::Scheme(url.into()));
        }
        if connect_deadline.is_zero() {
            return Err(InvalidSource::ZeroDuration("connect deadline"));
        }
        if ping_interval.is_zero() {
            return Err(InvalidSource::ZeroDuration("ping interval"));
        }
        let dialer = Dialer {
            connector: tls::connector()?,
            deadline: connect_deadline,
            user_agent: HeaderValue::from_str(&user_agent)
                .map_err(|_| InvalidSource::UserAgent(user_agent))?,
        };
        Ok(Self {
            id: SourceId::of(&url),
            url,
            dialer,
            ping_interval,
        })
    }
}

impl Source for WebSocketSource {
    fn id(&self) -> &SourceId {
        &self.id
    }

    fn connect(&self, resume: Resume) -> BoxFuture<'_, Result<Box<dyn Frames>, ConnectError>> {
        Box::pin(async move {
            let socket = self.dialer.dial(&self.url, resume).await?;
            let frames = WebSocketFrames::new(socket, self.ping_interval);
            Ok(Box::new(frames) as Box<dyn Frames>)
        })
    }
}

// === impl WebSocketFrames ===

impl WebSocketFrames {
    fn new(socket: Socket, ping_interval: Duration) -> Self {
        let mut ping = interval_at(Instant::now() + ping_interval, ping_interval);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            socket,
            ping,
            ignored: 0,
        }
    }

    /// The next frame. Timers are polled only if there is no data, because this runs for every
    /// frame.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, ReadError>> {
        loop {
            let Poll::Ready(message) = self.socket.poll_next_unpin(cx) else {
                ready!(self.ping.poll_tick(cx));
                self.send_ping();
                continue;
            };
            match message.ok_or(ReadError::Ended)?? {
                Message::Binary(frame) => return Poll::Ready(Ok(frame)),
                Message::Close(close) => return Poll::Ready(Err(self.closed(close))),
                Message::Text(_) => self.ignored += 1,
                // tungstenite answers pings when the next message is read. It never returns raw
                // frames.
                Message::Frame(_) | Message::Ping(_) | Message::Pong(_) => {}
            }
        }
    }

    /// Sends a ping if this is possible at once. A ping does not help a peer with a full window,
    /// and reading must not wait for it.
    fn send_ping(&mut self) {
        let _ = self.socket.send(Message::Ping(Bytes::new())).now_or_never();
    }

    fn closed(&mut self, close: Option<CloseFrame>) -> ReadError {
        // The next read writes the answer to the close.
        let _ = self.socket.next().now_or_never();
        ReadError::Closed {
            code: close.as_ref().map(|close| close.code.into()),
            reason: close
                .map(|close| close.reason.to_string())
                .unwrap_or_default(),
        }
    }

    async fn fill(&mut self, linger: Duration, into: &mut dyn FrameSink) -> Result<(), ReadError> {
        if into.is_empty() {
            into.take(poll_fn(|cx| self.poll_next(cx)).await?);
        }
        let linger = sleep(linger);
        tokio::pin!(linger);
        poll_fn(|cx| {
            while !into.is_full() {
                match self.poll_next(cx) {
                    Poll::Ready(frame) => into.take(frame?),
                    Poll::Pending => return linger.as_mut().poll(cx).map(Ok),
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }
}

impl Frames for WebSocketFrames {
    fn read_batch<'a>(
        &'a mut self,
        linger: Duration,
        into: &'a mut dyn FrameSink,
    ) -> BoxFuture<'a, Result<(), ReadError>> {
        Box::pin(self.fill(linger, into))
    }

    fn ignored(&self) -> u64 {
        self.ignored
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(url: &str, options: WebSocketOptions) -> Option<InvalidSource> {
        WebSocketSource::try_new(Url::parse(url).unwrap(), options).err()
    }

    #[test]
    fn a_source_that_can_be_dialled_is_accepted() {
        assert!(attempt("wss://relay.example/s", WebSocketOptions::default()).is_none());
    }

    #[test]
    fn what_cannot_be_dialled_is_refused() {
        let options = WebSocketOptions::default;
        assert!(matches!(
            attempt("https://relay.example/s", options()),
            Some(InvalidSource::Scheme(_))
        ));
        let user_agent = "line\nbreak".to_owned();
        assert!(matches!(
            attempt(
                "ws://relay.example/",
                WebSocketOptions {
                    user_agent,
                    ..options()
                }
            ),
            Some(InvalidSource::UserAgent(_))
        ));
        let ping_interval = Duration::ZERO;
        assert!(matches!(
            attempt(
                "ws://relay.example/",
                WebSocketOptions {
                    ping_interval,
                    ..options()
                }
            ),
            Some(InvalidSource::ZeroDuration("ping interval"))
        ));
    }
}
