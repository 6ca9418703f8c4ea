//! Decides whether an event is verified.
//!
//! This never waits for the network. If the account's key is not in the cache, the outcome is
//! [`Outcome::KeyUnavailable`], and the commit is parked until the key is looked up.

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
use crate::source::clock::MAX_LEAD;
use crate::source::firehose::decode::Evidence;
use crate::store::plan::effect::Predecessor;
use crate::telemetry::rate_limit::SharedRateLimit;

/// The shortest interval between two log lines about tolerated commits.
const TOLERATED_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// How much of a commit is verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// Nothing: the source is trusted.
    None,
    /// The signature, the blocks, and each operation against the tree.
    Commit,
    /// Also that the commit follows from the one before, so that every missed commit is detected.
    #[default]
    Chain,
    /// Like chain, but a missing or wrong reference to the tree before is counted and not refused,
    /// because some servers leave it out.
    Lenient,
}

impl Verify {
    /// Whether a commit must follow from the one before.
    pub fn follows_chains(self) -> bool {
        matches!(self, Self::Chain | Self::Lenient)
    }
}

/// The level of verification, and the identities with the keys.
pub struct Verification {
    pub level: Verify,
    pub identities: Identities,
    tolerated_log: SharedRateLimit,
}

/// The outcome of verification.
#[derive(Debug)]
pub enum Outcome {
    Verified {
        verified: Level,
        /// How the event must follow the known chain; `None` if chains are not followed.
        predecessor: Option<Predecessor>,
        /// An error that level `lenient` tolerates.
        tolerated: Option<VerifyError>,
    },
    Refused(Refusal),
    /// The key is unknown at the moment, or may have changed.
    KeyUnavailable,
    /// Its rev is ahead of the clocks, by little enough that a clock may be wrong. It is verified
    /// when its time has come.
    Early,
}

/// Why an event is refused, now or later.
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
    /// A stable short name, used as a metric label.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Proof(error) => error.name(),
            Self::Identity(ResolveError::Tombstoned) => "identity_tombstoned",
            Self::Identity(_) => "identity",
            Self::Key(_) => "key",
            Self::NoHost => "no_host",
        }
    }

    /// Whether a newer DID document could change the decision.
    pub fn could_change_with_document(&self) -> bool {
        matches!(self, Self::Key(_) | Self::NoHost) || self.is_by_another_key()
    }

    /// Whether the signature is valid, but of another key than the account's.
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

    /// Logs a tolerated commit.
    pub fn report(&self, did: &Did, tolerated: &VerifyError) {
        if let Some(suppressed) = self.tolerated_log.admit() {
            tracing::warn!(%did, error = %tolerated, suppressed, "commit accepted despite an error, because verify is lenient");
        }
    }

    /// Decides by the cached identity. A signature by another key than the cached one is not
    /// refused yet: the account may have a new key, or had another key earlier.
    pub fn decide(&self, evidence: &Evidence, now: Timestamp) -> Outcome {
        let known = self.identities.known(&evidence.commit().did);
        let was_refreshed = known.is_some_and(|known| known.was_refreshed);
        match self.decide_finally(evidence, now) {
            Outcome::Refused(refusal)
                if refusal.is_by_another_key()
                    || (refusal.could_change_with_document() && !was_refreshed) =>
            {
                Outcome::KeyUnavailable
            }
            decided => decided,
        }
    }

    /// Like [`Self::decide`], after the identity was looked up again.
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
        // A tolerated commit does not prove the tree before it.
        let (verified, tolerated) = match verify_commit(evidence, &key, level, now) {
            Ok(()) => (level, None),
            Err(error) if is_lenient && error.level() == Level::Chain => {
                (Level::Commit, Some(error))
            }
            Err(error) if is_early(&error, now) => return Ok(Outcome::Early),
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
        match verify_sync(evidence, &identity.verifying_key()?, now) {
            Err(error) if is_early(&error, now) => return Ok(Outcome::Early),
            verified => verified?,
        }
        Ok(Outcome::Verified {
            verified: Level::Commit,
            predecessor: Some(Predecessor::Unstated),
            tolerated: None,
        })
    }
}

/// Whether the error is a rev that is ahead by less than the clocks may be wrong.
fn is_early(error: &VerifyError, now: Timestamp) -> bool {
    let VerifyError::FutureRev(rev) = error else {
        return false;
    };
    rev.timestamp().duration_since(now) <= MAX_LEAD
}
