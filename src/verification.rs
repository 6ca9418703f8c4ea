//! Whether what an event says of a repository is to be believed.
//!
//! Nothing is asked for here and nobody waits: either the account's key is at hand, or the event is
//! *unproven* and has to wait for whoever asks ([`Judgement::Unproven`]).

use jiff::Timestamp;
use url::Url;

use crate::config::Verify;
use crate::identity::{Identities, Identity, ResolveError};
use crate::protocol::decode::Evidence;
use crate::protocol::key::{KeyError, SignatureError};
use crate::protocol::syntax::Did;
use crate::protocol::verify::{
    CommitEvidence, Level, SyncEvidence, VerifyError, verify_commit, verify_sync,
};
use crate::queue::effect::Claim;

/// How much is verified, and by whose keys.
pub struct Verification {
    pub level: Verify,
    pub identities: Identities,
    /// Where the events come from.
    pub source_url: Url,
}

/// What becomes of an event.
#[derive(Debug)]
pub enum Judgement {
    Believed {
        verified: Level,
        /// How it is to follow from what is known; `None` where nobody asks.
        claim: Option<Claim>,
        /// What was wrong with it, and is let pass.
        lenience: Option<VerifyError>,
    },
    Refused(Refusal),
    /// The key is not known for now, or may have changed.
    Unproven,
}

/// Why an event is not believed, now or later.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Proof(#[from] VerifyError),
    #[error(transparent)]
    Identity(#[from] ResolveError),
    #[error("the account's document has {0}")]
    Key(#[from] KeyError),
}

impl Refusal {
    /// A short name that stays the same, to count by.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Proof(error) => error.name(),
            Self::Identity(_) => "identity",
            Self::Key(_) => "key",
        }
    }

    /// Whether another key might be the right one.
    pub fn accuses_key(&self) -> bool {
        let mismatch = SignatureError::Mismatch;
        matches!(self, Self::Key(_))
            || matches!(self, Self::Proof(VerifyError::Signature(error)) if *error == mismatch)
    }
}

/// Host and port. A port that goes without saying is the same for WebSockets as for HTTP.
fn place(url: &Url) -> (Option<&str>, Option<u16>) {
    (url.host_str(), url.port_or_known_default())
}

impl Verification {
    /// Judges by what is known without asking anybody.
    pub fn judge(&self, evidence: &Evidence, now: Timestamp) -> Judgement {
        let Some(known) = self.identities.known(&evidence.commit().did) else {
            return Judgement::Unproven;
        };
        let judged = match known.answer {
            Ok(identity) => self.judge_by(&identity, evidence, now),
            Err(error) => Judgement::Refused(error.into()),
        };
        match judged {
            Judgement::Refused(refusal) if refusal.accuses_key() && !known.was_refreshed => {
                Judgement::Unproven
            }
            judged => judged,
        }
    }

    /// Whether the source is known to be where the account lives, and so to be asked about it.
    pub fn source_hosts(&self, did: &Did) -> bool {
        let known = self.identities.known(did);
        let identity = known.and_then(|known| known.answer.ok());
        let host = identity.and_then(|identity| identity.pds.clone());
        host.is_some_and(|host| place(&host) == place(&self.source_url))
    }

    fn judge_by(&self, identity: &Identity, evidence: &Evidence, now: Timestamp) -> Judgement {
        let judged = match evidence {
            Evidence::Commit(commit) => self.judge_commit(identity, commit, now),
            Evidence::Sync(sync) => self.judge_sync(identity, sync, now),
        };
        judged.unwrap_or_else(Judgement::Refused)
    }

    fn judge_commit(
        &self,
        identity: &Identity,
        evidence: &CommitEvidence,
        now: Timestamp,
    ) -> Result<Judgement, Refusal> {
        let key = identity.verifying_key()?;
        let level = match self.level.follows_chains() {
            true => Level::Chain,
            false => Level::Commit,
        };
        let is_lenient = self.level == Verify::Lenient;
        let (verified, lenience) = match verify_commit(evidence, &key, level, now) {
            Ok(()) => (level, None),
            Err(error) if is_lenient && error.level() == Level::Chain => {
                (Level::Commit, Some(error))
            }
            Err(error) => return Err(error.into()),
        };
        let claim = self.level.follows_chains().then(|| Claim::From {
            since: evidence.since.clone(),
            prev_data: evidence.prev_data,
            is_lenient,
        });
        Ok(Judgement::Believed {
            verified,
            claim,
            lenience,
        })
    }

    fn judge_sync(
        &self,
        identity: &Identity,
        evidence: &SyncEvidence,
        now: Timestamp,
    ) -> Result<Judgement, Refusal> {
        verify_sync(evidence, &identity.verifying_key()?, now)?;
        Ok(Judgement::Believed {
            verified: Level::Commit,
            claim: Some(Claim::Anywhere),
            lenience: None,
        })
    }
}
