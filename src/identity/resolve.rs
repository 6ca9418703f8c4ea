//! Looks up DID documents.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use url::Url;

use super::document::{DocumentError, Identity};
use super::locate::{LocateError, is_plc, locate};
use crate::atproto::syntax::Did;
use crate::net::http_client::{FetchError, Fetcher, NamedBy};

/// Documents usually have a few hundred bytes, sometimes a few thousand.
const MAX_DOCUMENT_BYTES: usize = 256 << 10;

/// The pause of a caller for which no look-up was free.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// Finds the identity of a DID.
pub trait Resolve: Send + Sync + 'static {
    /// Looks up the current identity. It has its own deadline, and the future may be dropped at any
    /// time.
    fn resolve<'a>(&'a self, did: &'a Did) -> BoxFuture<'a, Result<Identity, ResolveError>>;

    /// The PLC directory, for people.
    fn directory(&self) -> String {
        "the PLC directory".to_owned()
    }
}

/// Why there is no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// There is an answer, and it is not valid.
    #[error("the DID has no valid identity: {0}")]
    Invalid(#[from] Invalid),

    /// The directory, or the host of a `did:web`, says that it does not have the DID. The cache
    /// decides whether it is believed.
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
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Too many look-ups are waiting, or this one takes too long. It may continue.
    #[error("no answer in time")]
    Busy,

    #[error(transparent)]
    Fetch(#[from] FetchError),

    /// Its events and signatures caused too many look-ups. No server is asked.
    #[error("the DID was looked up too often; next look-up in {0:?}")]
    TooOften(Duration),

    #[error("the look-up task failed")]
    Interrupted,

    /// The server says that there is no such DID, or that it is tombstoned, and is not believed yet.
    #[error("the server has no document of the DID, which is not believed yet")]
    Missing,

    /// The answer is an HTML page, for example.
    #[error("{0}")]
    NoDocument(DocumentError),

    /// The PLC directory refuses requests for now, and is not asked.
    #[error("the PLC directory refuses requests for now; next request in {0:?}")]
    Paused(Duration),
}

/// Looks up documents in a PLC directory, and at the hosts of `did:web`.
#[derive(Debug)]
pub struct Resolver {
    fetcher: Fetcher,
    plc_url: Url,
    allow_private_addresses: bool,
    deadline: Duration,
}

// === impl ResolveError ===

impl ResolveError {
    /// Whether there was no answer.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// How long to wait, if no server was asked.
    pub fn wait(&self) -> Option<Duration> {
        match self {
            Self::Unavailable(Unavailable::Busy) => Some(BUSY_PAUSE),
            Self::Unavailable(Unavailable::Paused(rest) | Unavailable::TooOften(rest)) => {
                Some(*rest)
            }
            Self::Unavailable(Unavailable::Fetch(error)) => error.wait(),
            _ => None,
        }
    }

    /// Whether no server was asked, so the error says nothing about one.
    pub(super) fn is_not_asked(&self) -> bool {
        match self {
            Self::Unavailable(Unavailable::Paused(_) | Unavailable::TooOften(_)) => true,
            Self::Unavailable(Unavailable::Fetch(error)) => error.wait().is_some(),
            _ => false,
        }
    }

    /// Whether `did` waits for what all accounts share: an answer of the PLC directory, or this
    /// process. The host of a `did:web` is its account's own, and so are an answer that is of no use
    /// and a pause that its events have caused.
    pub fn is_shared(&self, did: &Did) -> bool {
        match self {
            Self::Unavailable(Unavailable::TooOften(_)) => false,
            Self::Unavailable(Unavailable::Fetch(error)) if error.wait().is_some() => true,
            Self::Unavailable(_) => is_plc(did),
            Self::Invalid(_) | Self::NotFound | Self::Tombstoned => false,
        }
    }

    /// The delay that the server asked for, if any.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable(Unavailable::Fetch(FetchError::Status { retry_after, .. })) => {
                *retry_after
            }
            _ => None,
        }
    }
}

// === impl Resolver ===

impl Resolver {
    /// Resolves within `deadline`, including redirects. The URL of the PLC directory may be private
    /// even if `allow_private_addresses` is false. Keeps up to `connections` to the directory open,
    /// so that a request does not have to wait for a new one.
    ///
    /// # Errors
    /// If the crypto provider supports no TLS version that rustls supports.
    pub fn new(
        plc_url: Url,
        allow_private_addresses: bool,
        deadline: Duration,
        connections: usize,
    ) -> Result<Self, rustls::Error> {
        Ok(Self {
            fetcher: Fetcher::keeping(allow_private_addresses, connections)?,
            plc_url,
            allow_private_addresses,
            deadline,
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
        let answer = self.fetch(url, NamedBy::Operator).await;
        let answer = answer.map_err(|error| match error {
            FetchError::Transport(text) => FetchError::Transport(format!("PLC directory {text}")),
            error => error,
        });
        match answer {
            Err(FetchError::Status { status: 410, .. }) => Err(ResolveError::Tombstoned),
            answer => read(did, answer),
        }
    }

    async fn fetch(&self, url: &Url, named: NamedBy) -> Result<Bytes, FetchError> {
        self.fetcher
            .get_whole(url, named, MAX_DOCUMENT_BYTES, self.deadline)
            .await
    }
}

impl Resolve for Resolver {
    fn resolve<'a>(&'a self, did: &'a Did) -> BoxFuture<'a, Result<Identity, ResolveError>> {
        Box::pin(self.look_up(did))
    }

    fn directory(&self) -> String {
        self.plc_url.to_string()
    }
}

fn read(did: &Did, answer: Result<Bytes, FetchError>) -> Result<Identity, ResolveError> {
    match answer {
        Ok(json) => Identity::parse(did, &json).map_err(|error| match error {
            DocumentError::NoObject(_) => Unavailable::NoDocument(error).into(),
            error => Invalid::from(error).into(),
        }),
        Err(FetchError::Status {
            status: 404 | 410, ..
        }) => Err(ResolveError::NotFound),
        Err(error) => Err(Unavailable::from(error).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holds invariant 12.8.
    #[test]
    fn only_an_answer_that_the_directory_does_not_give_is_waited_for_by_all() {
        let [plc, web] = ["did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", "did:web:a.example"];
        let is_shared =
            |error: ResolveError| [plc, web].map(|did| error.is_shared(&Did::parse(did).unwrap()));
        let second = Duration::from_secs(1);
        for error in [
            Unavailable::Busy,
            Unavailable::Missing,
            Unavailable::Paused(second),
            Unavailable::Fetch(FetchError::Transport("reset".to_owned())),
        ] {
            assert_eq!(is_shared(error.into()), [true, false]);
        }
        let no_descriptor = Unavailable::Fetch(FetchError::NoDescriptor);
        assert_eq!(is_shared(no_descriptor.into()), [true, true]);
        for error in [
            ResolveError::from(Unavailable::TooOften(second)),
            ResolveError::NotFound,
            ResolveError::Tombstoned,
        ] {
            assert_eq!(is_shared(error), [false, false]);
        }
    }
}
