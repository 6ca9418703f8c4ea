//! Asks a worker over its control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::http::request;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::socket::{Reached, path_of};
use crate::admin::api::GivenCommand;
use crate::command::Command;
use crate::model::CommandRow;

/// The most bytes of an answer.
const MOST_BYTES: usize = 8 << 20;
/// How long one request may take.
const DEADLINE: Duration = Duration::from_secs(15);
/// How long the server may wait for the end of a command.
const WAIT: &str = "wait=5";

/// Asks the worker on one database.
#[derive(Clone, Debug)]
pub struct ControlClient {
    path: PathBuf,
}

/// Why a request to a worker failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No worker listens there.
    #[error("no worker listens on {path}", path = .0.display())]
    NoWorker(PathBuf),

    #[error("cannot use the control socket {path}: {error}", path = path.display())]
    Io { path: PathBuf, error: io::Error },

    #[error("the worker did not answer within {} s", DEADLINE.as_secs())]
    Deadline,

    /// The worker may have taken the request all the same.
    #[error(
        "the connection to the worker broke before it answered ({0}); `commands list` shows whether it \
         took the command"
    )]
    Broken(String),

    #[error("the answer of the worker cannot be read: {0}")]
    Answer(String),

    /// The worker refuses the request.
    #[error("{0}")]
    Refused(String),
}

impl ControlClient {
    /// The client for the worker on the database at `database`.
    pub fn of(database: &Path) -> Self {
        Self {
            path: path_of(database),
        }
    }

    /// Gives a command, and returns its row at once, with its number. With the same key it is the same
    /// command, also if the answer to the first request was lost.
    ///
    /// # Errors
    /// [`ClientError::NoWorker`] if no worker listens.
    pub async fn give(
        &self,
        command: Command,
        reason: Option<String>,
        key: &str,
    ) -> Result<CommandRow, ClientError> {
        let body = GivenCommand { command, reason };
        let body = serde_json::to_value(body).map_err(unreadable)?;
        let request = request(Method::POST, "/admin/v1/commands")
            .header("idempotency-key", key)
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(unreadable)?;
        let answer = self.answer_to(request).await?;
        serde_json::from_value(answer).map_err(unreadable)
    }

    /// The long commands that are not ended.
    ///
    /// # Errors
    /// [`ClientError::NoWorker`] if no worker listens.
    pub async fn operations(&self) -> Result<Vec<CommandRow>, ClientError> {
        let request = request(Method::GET, "/admin/v1/operations")
            .body(Full::default())
            .map_err(unreadable)?;
        let answer = self.answer_to(request).await?;
        serde_json::from_value(answer).map_err(unreadable)
    }

    /// Waits a moment for the end of a command, and returns its row.
    ///
    /// # Errors
    /// [`ClientError::NoWorker`] if no worker listens.
    pub async fn look(&self, id: i64) -> Result<CommandRow, ClientError> {
        let request = request(Method::GET, &format!("/admin/v1/commands/{id}"))
            .header("prefer", WAIT)
            .body(Full::default())
            .map_err(unreadable)?;
        let answer = self.answer_to(request).await?;
        serde_json::from_value(answer).map_err(unreadable)
    }

    /// Makes one request, and returns the JSON of the answer. If that is a problem, its detail is the
    /// error.
    async fn answer_to(&self, request: Request<Full<Bytes>>) -> Result<Value, ClientError> {
        let exchange = self.exchange(request);
        let (status, bytes) = timeout(DEADLINE, exchange)
            .await
            .map_err(|_elapsed| ClientError::Deadline)??;
        let answer: Value = serde_json::from_slice(&bytes).map_err(unreadable)?;
        match status.is_success() {
            true => Ok(answer),
            false => {
                let detail = answer["detail"].as_str().unwrap_or("no reason is given");
                Err(ClientError::Refused(detail.to_owned()))
            }
        }
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let stream = self.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let answering = async move {
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MOST_BYTES).collect();
            let body = body
                .await
                .map_err(|error| ClientError::Broken(error.to_string()))?;
            Ok((status, body.to_bytes()))
        };
        // The connection has to be driven while the answer comes.
        let (answer, _ended) = tokio::join!(answering, connection);
        answer
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NoWorker(self.path.clone())
            }
            _ => ClientError::Io {
                path: self.path.clone(),
                error,
            },
        };
        let reached = Reached::through(&self.path).map_err(failed)?;
        UnixStream::connect(&reached.path).await.map_err(failed)
    }
}

fn request(method: Method, path: &str) -> request::Builder {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/json")
}

fn broken(error: hyper::Error) -> ClientError {
    ClientError::Broken(error.to_string())
}

fn unreadable(error: impl std::fmt::Display) -> ClientError {
    ClientError::Answer(error.to_string())
}
