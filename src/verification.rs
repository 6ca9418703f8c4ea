//! Whether what an event says of a repository is to be believed.
//!
//! Nothing is asked for here and nobody waits: either the account's key is at hand, or the event is
//! *unproven* and has to wait for whoever asks ([`Judgement::Unproven`]).

use std::time::Duration;

use jiff::Timestamp;

use crate::config::Verify;
use crate::identity::{Identities, Identity, ResolveError};
use crate::operate::rate_limit::SharedRateLimit;
use crate::protocol::decode::Evidence;
use crate::protocol::key::{KeyError, SignatureError};
use crate::protocol::syntax::Did;
use crate::protocol::verify::{
    CommitEvidence, Level, SyncEvidence, VerifyError, verify_commit, verify_sync,
};
use crate::queue::effect::Predecessor;

/// A line about what was let pass in so much time at most.
const LENIENCE_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// How much is verified, and by whose keys.
pub struct Verification {
    pub level: Verify,
    pub identities: Identities,
    lenience_log: SharedRateLimit,
}

/// What becomes of an event.
#[derive(Debug)]
pub enum Judgement {
    Believed {
        verified: Level,
        /// How it is to follow from what is known; `None` where nobody asks.
        predecessor: Option<Predecessor>,
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
    #[error("the account's document names no host")]
    NoHost,
}

impl Refusal {
    /// A short name that stays the same, to count by.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Proof(error) => error.name(),
            Self::Identity(ResolveError::Tombstoned) => "identity_tombstoned",
            Self::Identity(_) => "identity",
            Self::Key(_) => "key",
            Self::NoHost => "no_host",
        }
    }

    /// Whether the account's document may have changed since.
    pub fn accuses_document(&self) -> bool {
        matches!(self, Self::Key(_) | Self::NoHost) || self.is_by_another_key()
    }

    /// Whether it is signed, and not by the account's key.
    pub fn is_by_another_key(&self) -> bool {
        let mismatch = SignatureError::Mismatch;
        matches!(self, Self::Proof(VerifyError::Signature(error)) if *error == mismatch)
    }
}

impl Verification {
    pub fn new(level: Verify, identities: Identities) -> Self {
        Self {
            level,
            identities,
            lenience_log: SharedRateLimit::new(LENIENCE_LOG_INTERVAL),
        }
    }

    /// Tells the operator what was let pass.
    pub fn report(&self, did: &Did, lenience: &VerifyError) {
        if let Some(untold) = self.lenience_log.admit() {
            tracing::warn!(%did, error = %lenience, untold, "let a commit pass that is not as it should be");
        }
    }

    /// Judges by what is known without asking anybody. A signature that is not of the key which is
    /// known says little: the account may have another key by now, or had another one before.
    pub fn judge(&self, evidence: &Evidence, now: Timestamp) -> Judgement {
        let known = self.identities.known(&evidence.commit().did);
        let was_refreshed = known.is_some_and(|known| known.was_refreshed);
        match self.judge_in_the_end(evidence, now) {
            Judgement::Refused(refusal)
                if refusal.is_by_another_key()
                    || (refusal.accuses_document() && !was_refreshed) =>
            {
                Judgement::Unproven
            }
            judged => judged,
        }
    }

    /// The same where everybody was asked who could know better.
    pub fn judge_in_the_end(&self, evidence: &Evidence, now: Timestamp) -> Judgement {
        let Some(known) = self.identities.known(&evidence.commit().did) else {
            return Judgement::Unproven;
        };
        match known.answer {
            Ok(identity) => self.judge_by(&identity, evidence, now),
            Err(error) => Judgement::Refused(error.into()),
        }
    }

    fn judge_by(&self, identity: &Identity, evidence: &Evidence, now: Timestamp) -> Judgement {
        if identity.pds.is_none() {
            return Judgement::Refused(Refusal::NoHost);
        }
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
        // What is let pass proves nothing of the tree before.
        let (verified, lenience) = match verify_commit(evidence, &key, level, now) {
            Ok(()) => (level, None),
            Err(error) if is_lenient && error.level() == Level::Chain => {
                (Level::Commit, Some(error))
            }
            Err(error) => return Err(error.into()),
        };
        let predecessor = self.level.follows_chains().then(|| Predecessor::After {
            since: evidence.since.clone(),
            prev_data: evidence.prev_data.filter(|_| lenience.is_none()),
            is_lenient: lenience.is_some(),
        });
        Ok(Judgement::Believed {
            verified,
            predecessor,
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
            predecessor: Some(Predecessor::Unstated),
            lenience: None,
        })
    }
}
