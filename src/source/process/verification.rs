//! Whether what an event says of a repository is to be believed.
//!
//! Nothing is asked for here and nobody waits: either the account's key is at hand, or the event is
//! *unproven* and has to wait for whoever asks ([`Outcome::KeyUnavailable`]).

use std::time::Duration;

use clap::ValueEnum;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::atproto::key::{KeyError, SignatureError};
use crate::atproto::syntax::Did;
use crate::atproto::verify::{
    CommitEvidence, Level, SyncEvidence, VerifyError, verify_commit, verify_sync,
};
use crate::identity::{Identities, Identity, ResolveError};
use crate::source::firehose::decode::Evidence;
use crate::store::plan::effect::Predecessor;
use crate::telemetry::rate_limit::SharedRateLimit;

/// A line about what was let pass in so much time at most.
const TOLERATED_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// How much of a commit is verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// Nothing: the source is trusted.
    None,
    /// Its signature, its blocks, and each of its operations against the tree.
    Commit,
    /// And that it follows from the commit before, which makes every loss show.
    #[default]
    Chain,
    /// The same, but what a commit says of the tree before it is counted where it is wrong, not
    /// refused: some servers leave it out.
    Lenient,
}

impl Verify {
    /// Whether a commit has to follow from the one before.
    pub fn follows_chains(self) -> bool {
        matches!(self, Self::Chain | Self::Lenient)
    }
}

/// How much is verified, and by whose keys.
pub struct Verification {
    pub level: Verify,
    pub identities: Identities,
    tolerated_log: SharedRateLimit,
}

/// What becomes of an event.
#[derive(Debug)]
pub enum Outcome {
    Verified {
        verified: Level,
        /// How it is to follow from what is known; `None` where nobody asks.
        predecessor: Option<Predecessor>,
        /// What was wrong with it, and is let pass.
        tolerated: Option<VerifyError>,
    },
    Refused(Refusal),
    /// The key is not known for now, or may have changed.
    KeyUnavailable,
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
            tolerated_log: SharedRateLimit::new(TOLERATED_LOG_INTERVAL),
        }
    }

    /// Tells the operator what was let pass.
    pub fn report(&self, did: &Did, tolerated: &VerifyError) {
        if let Some(suppressed) = self.tolerated_log.admit() {
            tracing::warn!(%did, error = %tolerated, suppressed, "let a commit pass that is not as it should be");
        }
    }

    /// Judges by what is known without asking anybody. A signature that is not of the key which is
    /// known says little: the account may have another key by now, or had another one before.
    pub fn decide(&self, evidence: &Evidence, now: Timestamp) -> Outcome {
        let known = self.identities.known(&evidence.commit().did);
        let was_refreshed = known.is_some_and(|known| known.was_refreshed);
        match self.decide_finally(evidence, now) {
            Outcome::Refused(refusal)
                if refusal.is_by_another_key()
                    || (refusal.accuses_document() && !was_refreshed) =>
            {
                Outcome::KeyUnavailable
            }
            decided => decided,
        }
    }

    /// The same where everybody was asked who could know better.
    pub fn decide_finally(&self, evidence: &Evidence, now: Timestamp) -> Outcome {
        let Some(known) = self.identities.known(&evidence.commit().did) else {
            return Outcome::KeyUnavailable;
        };
        match known.answer {
            Ok(identity) => self.decide_with(&identity, evidence, now),
            Err(error) => Outcome::Refused(error.into()),
        }
    }

    fn decide_with(&self, identity: &Identity, evidence: &Evidence, now: Timestamp) -> Outcome {
        if identity.pds.is_none() {
            return Outcome::Refused(Refusal::NoHost);
        }
        let decided = match evidence {
            Evidence::Commit(commit) => self.decide_commit(identity, commit, now),
            Evidence::Sync(sync) => self.decide_sync(identity, sync, now),
        };
        decided.unwrap_or_else(Outcome::Refused)
    }

    fn decide_commit(
        &self,
        identity: &Identity,
        evidence: &CommitEvidence,
        now: Timestamp,
    ) -> Result<Outcome, Refusal> {
        let key = identity.verifying_key()?;
        let level = match self.level.follows_chains() {
            true => Level::Chain,
            false => Level::Commit,
        };
        let is_lenient = self.level == Verify::Lenient;
        // What is let pass proves nothing of the tree before.
        let (verified, tolerated) = match verify_commit(evidence, &key, level, now) {
            Ok(()) => (level, None),
            Err(error) if is_lenient && error.level() == Level::Chain => {
                (Level::Commit, Some(error))
            }
            Err(error) => return Err(error.into()),
        };
        let predecessor = self.level.follows_chains().then(|| Predecessor::After {
            since: evidence.since.clone(),
            prev_data: evidence.prev_data.filter(|_| tolerated.is_none()),
            is_lenient: tolerated.is_some(),
        });
        Ok(Outcome::Verified {
            verified,
            predecessor,
            tolerated,
        })
    }

    fn decide_sync(
        &self,
        identity: &Identity,
        evidence: &SyncEvidence,
        now: Timestamp,
    ) -> Result<Outcome, Refusal> {
        verify_sync(evidence, &identity.verifying_key()?, now)?;
        Ok(Outcome::Verified {
            verified: Level::Commit,
            predecessor: Some(Predecessor::Unstated),
            tolerated: None,
        })
    }
}
