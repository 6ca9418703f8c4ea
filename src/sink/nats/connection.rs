//! A connection to a JetStream.
//!
//! One that was lost is not used again: what the client had not sent yet would be sent later, behind what
//! a new connection sends.

use std::time::Duration;

use async_nats::jetstream::{self, context::ContextBuilder};
use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::options::{Login, NatsOptions, Word};
use crate::sink::SinkError;

/// What the program calls itself in the list of connections.
const NAME: &str = "huddle-firehose";
const CONNECT_DEADLINE: Duration = Duration::from_secs(8);
/// The deadline of a request. What a lease depends on has less: see `LEASE`.
const DEADLINE: Duration = Duration::from_secs(8);
/// How often the server is asked whether it is there.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// What the TLS library says of a server that is not trusted.
const WRONG_CERTIFICATE: &str = "invalid peer certificate";
/// The alerts of servers that do not trust the client, which may have shown no certificate.
const CLIENT_REFUSED: [&str; 3] = ["BadCertificate", "CertificateRequired", "UnknownCA"];

/// A connection that has not been lost yet.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) context: jetstream::Context,
    lost: CancellationToken,
}

impl Connection {
    pub(super) async fn open(options: &NatsOptions) -> Result<Self, SinkError> {
        let lost = CancellationToken::new();
        let connecting = connect_options(options, lost.clone())
            .await?
            .connect(options.servers.as_slice());
        let connected = timeout(CONNECT_DEADLINE, connecting).await;
        let client = match connected {
            Ok(connected) => connected.map_err(|error| refused(&options.login, error))?,
            Err(_elapsed) => {
                return Err(unavailable("cannot connect", "the server does not answer"));
            }
        };
        let context = ContextBuilder::new()
            .timeout(DEADLINE)
            .ack_timeout(DEADLINE)
            .build(client.clone());
        Ok(Self {
            client,
            context,
            lost,
        })
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// The outcome of `work`, unless the connection is lost before.
    pub(super) async fn run<T, E: Into<SinkError>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, SinkError> {
        tokio::select! {
            biased;
            () = self.lost.cancelled() => Err(SinkError::unavailable("the connection was lost")),
            done = work => done.map_err(Into::into),
        }
    }

    /// The same, if it comes within `deadline`.
    pub(super) async fn run_within<T, E: Into<SinkError>>(
        &self,
        deadline: Duration,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, SinkError> {
        let done = timeout(deadline, self.run(work)).await;
        done.unwrap_or_else(|_elapsed| Err(SinkError::late(deadline)))
    }
}

async fn connect_options(
    options: &NatsOptions,
    lost: CancellationToken,
) -> Result<ConnectOptions, SinkError> {
    let mut connect = ConnectOptions::new()
        .name(NAME)
        .connection_timeout(CONNECT_DEADLINE)
        .request_timeout(Some(DEADLINE))
        .ping_interval(PING_INTERVAL)
        .max_reconnects(1)
        .event_callback(move |event| {
            let lost = lost.clone();
            async move {
                if matches!(event, Event::Disconnected | Event::Closed) {
                    lost.cancel();
                }
            }
        });
    connect = match &options.login {
        Login::None => connect,
        Login::Token(token) => connect.token(token.read()?),
        Login::User { name, password } => connect.user_and_password(name.clone(), password.read()?),
        Login::Credentials(secret) => {
            // The library reads no key whose last line has no end, and a secret is read without it.
            let read = connect.credentials(&format!("{}\n", secret.read()?));
            // The library's text of this error may have a part of the key in it.
            read.map_err(|_| SinkError::unavailable(format_args!("{secret} has no credentials")))?
        }
    };
    let tls = options
        .tls
        .client_config()
        .map_err(SinkError::unavailable)?;
    Ok(connect.tls_client_config(tls))
}

/// Why there is no connection, and what to do where that is known. What the server says of a login has no secret
/// in it.
fn refused(login: &Login, error: ConnectError) -> SinkError {
    let why = match (error.kind(), login) {
        (ConnectErrorKind::AuthorizationViolation, Login::None) => {
            "the server wants a login: a user, token_file or creds_file in the URL"
        }
        (ConnectErrorKind::AuthorizationViolation, _) => {
            "the server refuses the login that the URL names"
        }
        _ => return unavailable("cannot connect", with_advice(&error.to_string())),
    };
    unavailable("cannot connect", why)
}

/// What an error of TLS asks for.
fn with_advice(error: &str) -> String {
    let advice = if error.contains(WRONG_CERTIFICATE) {
        "; ca_file names the certificate of the authority that signed the server's, which has to be for the host \
         in the URL"
    } else if CLIENT_REFUSED.iter().any(|alert| error.contains(alert)) {
        "; the server wants a certificate that it trusts: cert_file and key_file in the URL"
    } else {
        ""
    };
    format!("{error}{advice}")
}

impl Word {
    fn read(&self) -> Result<String, SinkError> {
        match self {
            Self::Given(word) => Ok(word.clone()),
            Self::Named(secret) => secret.read(),
        }
    }
}

/// What failed, and why.
pub(super) fn unavailable(what: &str, error: impl std::fmt::Display) -> SinkError {
    SinkError::unavailable(format_args!("{what}: {error}"))
}
