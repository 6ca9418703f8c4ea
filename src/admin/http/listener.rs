//! A listener that limits the number of connections, and gives each a deadline.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::places::{Place, PlaceGuard, Places};
use crate::command::Caller;

/// More than operators, a scraper and a load balancer need, so that a request which takes a moment
/// to arrive is not the oldest yet when clients that send slowly come again and again.
pub(super) const MOST_CONNECTIONS: usize = 256;

/// The bytes of a request, so that all of them together stay small.
const MOST_REQUEST_BYTES: usize = 64 << 10;

/// The deadline of a connection, from the accept to the last byte of the answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// The delay after an accept that failed, as it does without free descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Has at most [`MOST_CONNECTIONS`] open.
pub(in crate::admin) struct LimitedListener {
    listener: TcpListener,
    places: Arc<Places>,
}

impl LimitedListener {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self::with_places(listener, MOST_CONNECTIONS)
    }

    pub(in crate::admin) fn with_places(listener: TcpListener, most: usize) -> Self {
        Self {
            listener,
            places: Places::new(most),
        }
    }
}

impl Listener for LimitedListener {
    type Io = Limited<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    return (Limited::new(stream, self.places.take().await), address);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(_) => {
                    // Its descriptor may be the one that is missing.
                    self.places.close_oldest_incomplete();
                    sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
    )
}

/// Tells a handler which place its connection has.
#[derive(Clone, Debug)]
pub(super) struct PlaceOf(pub(super) Arc<Place>);

impl Connected<IncomingStream<'_, LimitedListener>> for PlaceOf {
    fn connect_info(stream: IncomingStream<'_, LimitedListener>) -> Self {
        Self(stream.io().place.place().clone())
    }
}

/// A stream that fails when its deadline has passed, whether its peer sends the request too slowly
/// or reads the answer too slowly, and when its place is needed for another connection.
pub(in crate::admin) struct Limited<S> {
    stream: S,
    deadline: Pin<Box<Sleep>>,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    place: PlaceGuard,
    read_bytes: usize,
    /// Who is at the other end, where the socket says so.
    caller: Option<Caller>,
}

impl<S> Limited<S> {
    pub(in crate::admin) fn new(stream: S, place: PlaceGuard) -> Self {
        Self {
            stream,
            deadline: Box::pin(sleep(DEADLINE)),
            closed: Box::pin(place.place().closed().clone().cancelled_owned()),
            place,
            read_bytes: 0,
            caller: None,
        }
    }

    /// The stream of this caller.
    pub(in crate::admin) fn of(self, caller: Caller) -> Self {
        Self {
            caller: Some(caller),
            ..self
        }
    }

    pub(in crate::admin) fn caller(&self) -> Option<&Caller> {
        self.caller.as_ref()
    }

    pub(in crate::admin) fn place(&self) -> &Arc<Place> {
        self.place.place()
    }

    /// Returns the outcome of an operation on the stream, or an error if the stream is over.
    fn limit<T>(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_pending() {
            if self.deadline.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            if self.closed.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
        }
        outcome
    }
}

impl<S> Limited<S> {
    /// The deadline of an answer without end is that of each write.
    fn note_written<T>(&mut self, outcome: &Poll<T>) {
        if outcome.is_ready() && self.place.place().is_stream() {
            self.deadline.as_mut().reset(Instant::now() + DEADLINE);
        }
    }

    /// An answer without end is over when its place is needed, and when a write takes too long.
    fn limit_stream<T>(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.closed.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        outcome
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Limited<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.read_bytes += buffer.filled().len() - before;
        if self.read_bytes > MOST_REQUEST_BYTES {
            return Poll::Ready(Err(io::ErrorKind::FileTooLarge.into()));
        }
        if outcome.is_pending() {
            self.place.place().note_waiting();
        }
        // The peer of a long answer has nothing more to send.
        if self.place.place().is_stream() && outcome.is_pending() {
            return self.limit_stream(context, outcome);
        }
        self.limit(context, outcome)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Limited<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note_written(&outcome);
        self.limit(context, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.note_written(&outcome);
        self.limit(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(context);
        self.limit(context, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(context);
        self.limit(context, outcome)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    async fn limited() -> (DuplexStream, Limited<DuplexStream>, Arc<Places>) {
        let (peer, stream) = duplex(64);
        let places = Places::new(1);
        let limited = Limited::new(stream, places.take().await);
        (peer, limited, places)
    }

    /// Holds invariant 8.6.
    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_dropped_at_the_deadline() {
        let (_silent, mut limited, _places) = limited().await;
        let begin = Instant::now();
        let error = limited.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begin.elapsed().as_secs(), DEADLINE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_nothing_is_dropped_at_the_deadline() {
        let (_peer, mut limited, _places) = limited().await;
        let error = limited.write_all(&[0; 65]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_lasts_as_long_as_its_peer_reads_it() {
        let (mut peer, mut limited, _places) = limited().await;
        limited.place.place().begin_stream();
        let mut buffer = [0; 64];
        for _ in 0..10 {
            limited.write_all(&[0; 64]).await.unwrap();
            tokio::time::advance(DEADLINE).await;
            peer.read_exact(&mut buffer).await.unwrap();
        }
        limited.write_all(&[0; 64]).await.unwrap();
        let error = limited.write_all(&[0; 65]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_dropped_when_its_place_is_needed() {
        let (_silent, mut limited, places) = limited().await;
        let (error, _next) = tokio::join!(limited.read_u8(), places.take());
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_without_end_is_not_collected() {
        let (mut peer, mut limited, _places) = limited().await;
        let (mut buffer, mut read) = ([0; 64], 0);
        let error = loop {
            peer.write_all(&[0; 64]).await.unwrap();
            match limited.read(&mut buffer).await {
                Ok(bytes) => read += bytes,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read, MOST_REQUEST_BYTES);
    }

    #[tokio::test]
    async fn a_closed_connection_releases_its_place() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut limited = LimitedListener::new(listener);
        let _client = TcpStream::connect(address).await.unwrap();
        let (stream, _) = limited.accept().await;
        assert_eq!(limited.places.taken(), 1);
        drop(stream);
        assert_eq!(limited.places.taken(), 0);
    }
}
