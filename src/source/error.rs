//! Errors between a source and the worker, and when to retry after each of them.

use std::io;
use std::time::Duration;

use tokio_tungstenite::tungstenite;

use crate::net::redirect::RedirectError;

/// When to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAdvice {
    /// Wait for the longest delay: the server refuses, and will refuse again until its operator or
    /// ours changes something.
    AtCeiling,
    /// Wait as long as the backoff says.
    Backoff,
    /// Wait at least this long, as the server asked.
    NotBefore(Duration),
}

/// A connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("no connection within {0:?}")]
    Deadline(Duration),

    #[error("cannot resolve {host}: {error}")]
    Dns {
        host: String,
        #[source]
        error: io::Error,
    },

    #[error("{}", handshake_message(.0))]
    Handshake(#[source] Box<tungstenite::Error>),

    #[error("the server answered with HTTP status {status}")]
    Http {
        status: u16,
        /// The server's `Retry-After`, capped.
        retry_after: Option<Duration>,
    },

    #[error(transparent)]
    Redirect(#[from] RedirectError),

    #[error("cannot reach {host}: {error}")]
    Tcp {
        host: String,
        #[source]
        error: io::Error,
    },

    #[error("TLS failed: {0}")]
    Tls(#[source] io::Error),
}

impl ConnectError {
    pub fn advice(&self) -> RetryAdvice {
        match *self {
            Self::Http {
                status: 429 | 503,
                retry_after: Some(delay),
            } => RetryAdvice::NotBefore(delay),
            Self::Http {
                status: 408 | 425 | 429,
                ..
            } => RetryAdvice::Backoff,
            Self::Http { status, .. } if status < 500 || status == 501 => RetryAdvice::AtCeiling,
            Self::Redirect(_) => RetryAdvice::AtCeiling,
            _ => RetryAdvice::Backoff,
        }
    }
}

/// A connection ended.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("closed by the server{}: {reason:?}", .code.map(|code| format!(" with code {code}")).unwrap_or_default())]
    Closed { code: Option<u16>, reason: String },

    /// The connection had ended before, and the reason was returned then.
    #[error("read after the end of the connection")]
    Ended,

    #[error("cannot read: {0}")]
    Io(#[source] io::Error),

    #[error("not the WebSocket protocol: {0}")]
    Protocol(#[source] Box<tungstenite::Error>),

    /// The transport ended without a closing handshake, perhaps in the middle of a frame.
    #[error("cut off without a closing handshake")]
    Reset,

    #[error("a message of {bytes} bytes, where {limit} are allowed")]
    TooLarge { bytes: usize, limit: usize },
}

impl From<tungstenite::Error> for ReadError {
    fn from(error: tungstenite::Error) -> Self {
        use tungstenite::Error;
        use tungstenite::error::{CapacityError, ProtocolError};

        match error {
            Error::AlreadyClosed | Error::ConnectionClosed => Self::Ended,
            Error::Capacity(CapacityError::MessageTooLong { size, max_size }) => Self::TooLarge {
                bytes: size,
                limit: max_size,
            },
            Error::Io(error) if is_reset(&error) => Self::Reset,
            Error::Io(error) => Self::Io(error),
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::Reset,
            error => Self::Protocol(Box::new(error)),
        }
    }
}

/// The message of a failed handshake, with a hint at the most common mistake.
fn handshake_message(error: &tungstenite::Error) -> String {
    use tungstenite::error::ProtocolError;

    match error {
        tungstenite::Error::Protocol(ProtocolError::HandshakeIncomplete) => {
            "the server closed the connection during the WebSocket handshake; \
             check the path of the URL"
                .to_owned()
        }
        error => format!("the WebSocket handshake failed: {error}"),
    }
}

fn is_reset(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::UnexpectedEof
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advice(status: u16, retry_after: Option<u64>) -> RetryAdvice {
        let retry_after = retry_after.map(Duration::from_secs);
        let error = ConnectError::Http {
            status,
            retry_after,
        };
        error.advice()
    }

    #[test]
    fn a_requested_delay_is_kept() {
        let asked = RetryAdvice::NotBefore(Duration::from_secs(7));
        assert_eq!(advice(429, Some(7)), asked);
        assert_eq!(advice(503, Some(7)), asked);
        assert_eq!(advice(429, None), RetryAdvice::Backoff);
    }

    #[test]
    fn a_connection_closed_during_the_handshake_gives_a_hint() {
        let incomplete = tungstenite::error::ProtocolError::HandshakeIncomplete;
        let error = ConnectError::Handshake(Box::new(incomplete.into()));
        assert!(error.to_string().contains("check the path"), "{error}");
    }

    #[test]
    fn a_refusal_waits_for_the_ceiling() {
        for status in [200, 304, 400, 401, 403, 404, 405, 426, 501] {
            assert_eq!(advice(status, Some(1)), RetryAdvice::AtCeiling, "{status}");
        }
    }

    #[test]
    fn a_temporary_error_is_retried_with_the_ordinary_backoff() {
        for status in [408, 500, 502, 503, 504, 520] {
            assert_eq!(advice(status, None), RetryAdvice::Backoff, "{status}");
        }
    }
}
