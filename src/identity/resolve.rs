//! Looks up DID documents.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::Instant;
use url::Url;

use super::document::{DocumentError, Identity};
use super::locate::{LocateError, is_plc, locate};
use crate::atproto::syntax::Did;
use crate::net::http_client::{FetchError, Fetcher, NamedBy};

/// Documents usually have a few hundred bytes, sometimes a few thousand.
const MAX_DOCUMENT_BYTES: usize = 256 << 10;

/// Finds the identity of a DID.
pub trait Resolve: Send + Sync + 'static {
    /// Looks up the current identity. It has its own deadline, and the future may be dropped at any
    /// time.
    fn resolve<'a>(&'a self, did: &'a Did) -> BoxFuture<'a, Result<Identity, ResolveError>>;
}

/// Why there is no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// There is an answer, and it is not valid.
    #[error("the DID has no valid identity: {0}")]
    Invalid(#[from] Invalid),

    #[error("there is no such DID")]
    NotFound,

    /// The DID was permanently deactivated.
    #[error("the DID is tombstoned")]
    Tombstoned,

    /// There is no answer. This says nothing about the account.
    #[error("identity look-up failed: {0}")]
    Unavailable(#[from] Unavailable),
}

/// What is wrong with an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error(transparent)]
    Did(#[from] LocateError),

    #[error(transparent)]
    Document(#[from] DocumentError),

    #[error("the document has more than {limit} bytes")]
    TooLarge { limit: usize },
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Too many look-ups are waiting, or this one takes too long. It may continue.
    #[error("no answer in time")]
    Busy,

    #[error(transparent)]
    Fetch(#[from] FetchError),

    #[error("the look-up task failed")]
    Interrupted,

    /// The PLC directory asked for a pause, and is not asked until it ends.
    #[error("the PLC directory asked for a pause; next request in {0:?}")]
    Paused(Duration),
}

/// Looks up documents in a PLC directory, and at the hosts of `did:web`.
#[derive(Debug)]
pub struct Resolver {
    fetcher: Fetcher,
    plc_url: Url,
    allow_private_addresses: bool,
    deadline: Duration,
    /// The end of the pause that the PLC directory asked for. There is no such pause for `did:web`,
    /// where each host answers only for itself.
    plc_pause: Mutex<Option<Instant>>,
}

// === impl ResolveError ===

impl ResolveError {
    /// Whether there was no answer.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// The delay that the server asked for, if any.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable(Unavailable::Fetch(FetchError::Status { retry_after, .. })) => {
                *retry_after
            }
            Self::Unavailable(Unavailable::Paused(rest)) => Some(*rest),
            _ => None,
        }
    }
}

// === impl Resolver ===

impl Resolver {
    /// Resolves within `deadline`, including redirects. The URL of the PLC directory may be private
    /// even if `allow_private_addresses` is false.
    ///
    /// # Errors
    /// If the crypto provider supports no TLS version that rustls supports.
    pub fn new(
        plc_url: Url,
        allow_private_addresses: bool,
        deadline: Duration,
    ) -> Result<Self, rustls::Error> {
        Ok(Self {
            fetcher: Fetcher::new(allow_private_addresses)?,
            plc_url,
            allow_private_addresses,
            deadline,
            plc_pause: Mutex::default(),
        })
    }

    async fn look_up(&self, did: &Did) -> Result<Identity, ResolveError> {
        let url = locate(did, &self.plc_url, self.allow_private_addresses);
        let url = url.map_err(Invalid::from)?;
        if is_plc(did) {
            self.ask_plc(did, &url).await
        } else {
            read(did, self.fetch(&url, NamedBy::Outsider).await)
        }
    }

    async fn ask_plc(&self, did: &Did, url: &Url) -> Result<Identity, ResolveError> {
        if let Some(rest) = self.rest_of_pause() {
            return Err(Unavailable::Paused(rest).into());
        }
        let answer = self.fetch(url, NamedBy::Operator).await;
        let answer = answer.map_err(|error| match error {
            FetchError::Transport(text) => FetchError::Transport(format!("PLC directory {text}")),
            error => error,
        });
        if let Err(FetchError::Status { status: 410, .. }) = answer {
            return Err(ResolveError::Tombstoned);
        }
        let identity = read(did, answer);
        if let Some(pause) = identity.as_ref().err().and_then(ResolveError::retry_after) {
            *self.pause() = Some(Instant::now() + pause);
        }
        identity
    }

    async fn fetch(&self, url: &Url, named: NamedBy) -> Result<Bytes, FetchError> {
        self.fetcher
            .get_whole(url, named, MAX_DOCUMENT_BYTES, self.deadline)
            .await
    }

    fn rest_of_pause(&self) -> Option<Duration> {
        let end = (*self.pause())?;
        let rest = end.saturating_duration_since(Instant::now());
        (!rest.is_zero()).then_some(rest)
    }

    fn pause(&self) -> MutexGuard<'_, Option<Instant>> {
        // Every value of it is valid by itself.
        self.plc_pause
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resolve for Resolver {
    fn resolve<'a>(&'a self, did: &'a Did) -> BoxFuture<'a, Result<Identity, ResolveError>> {
        Box::pin(self.look_up(did))
    }
}

fn read(did: &Did, answer: Result<Bytes, FetchError>) -> Result<Identity, ResolveError> {
    match answer {
        Ok(json) => Ok(Identity::parse(did, &json).map_err(Invalid::from)?),
        Err(FetchError::Status {
            status: 404 | 410, ..
        }) => Err(ResolveError::NotFound),
        Err(FetchError::TooLarge { limit }) => Err(Invalid::TooLarge { limit }.into()),
        Err(error) => Err(Unavailable::from(error).into()),
    }
}
