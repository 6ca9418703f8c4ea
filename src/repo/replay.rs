//! Replays the parked commits of a repository, in their order.

use std::cmp::Ordering;

use super::Repositories;
use crate::atproto::signed_commit::SignedCommit;
use crate::atproto::syntax::Did;
use crate::identity::ResolveError;
use crate::identity::resolve::Unavailable;
use crate::model::{DeadLetter, Stage};
use crate::source::firehose::decode::{Content, Evidence, Fault, decode};
use crate::source::process::verification::Outcome;
use crate::store::StoreError;
use crate::store::plan::effect::Effect;
use crate::store::repo_store::{ParkedCommit, RepoChange};

/// The result of a replay.
pub(super) enum Drained {
    Empty,
    /// The next commit does not follow from the head.
    Broken,
    /// The next commit is not signed by the account's key. It may be older than that key.
    Disputed {
        /// The rev of the repository's head.
        known_rev: Option<String>,
    },
    /// The key for the next commit is unavailable.
    Unknown {
        error: ResolveError,
    },
    /// The rev of the next commit is ahead of the clocks.
    Early,
}

/// Why a frame cannot be verified now.
enum Undecided {
    Disputed,
    /// Its rev is ahead of the clocks. The events of other accounts may correct our clock.
    Early,
    Unknown {
        error: ResolveError,
    },
}

/// Replays as many commits as possible.
///
/// `is_compared`: the host was just asked, and it has the repository at the same head. A parked
/// commit that another key signed is then not part of the host's repository, and is refused.
pub(super) async fn drain(
    repositories: &Repositories,
    did: &Did,
    is_compared: bool,
) -> Result<Drained, StoreError> {
    let store = &repositories.store;
    while let Some(parked) = store.first_parked(did).await? {
        let parked = &parked;
        let effects = match effects_of(repositories, parked, is_compared).await {
            Ok(effects) => effects,
            Err(Undecided::Disputed) => {
                return Ok(Drained::Disputed {
                    known_rev: parked.known_head.clone().map(|(rev, _)| rev),
                });
            }
            Err(Undecided::Early) => return Ok(Drained::Early),
            Err(Undecided::Unknown { error }) => return Ok(Drained::Unknown { error }),
        };
        let replayed = |effects| store.change(RepoChange::Replayed { parked, effects });
        let (written, effects) = match replayed(&effects).await {
            Err(StoreError::Rejected(rejections)) => {
                let effects = Effect::without_refused(effects, &parked.source, rejections);
                let replayed = RepoChange::Replayed {
                    parked,
                    effects: &effects,
                };
                (store.change(replayed).await?, effects)
            }
            written => (written?, effects),
        };
        repositories.note_dead_letters(&effects);
        repositories.metrics.wrong_sinces(written.wrong_sinces);
        // It stays parked, because a commit before it is missing.
        if written.parked > 0 {
            return Ok(Drained::Broken);
        }
    }
    Ok(Drained::Empty)
}

/// Returns the effects of a parked frame, with a look-up of the key.
async fn effects_of(
    repositories: &Repositories,
    parked: &ParkedCommit,
    is_compared: bool,
) -> Result<Vec<Effect>, Undecided> {
    let decoded = match decode(&parked.frame, repositories.interest()) {
        Ok(decoded) => decoded,
        Err(error) => return Ok(vec![unreadable(parked, &error.fault)]),
    };
    // The configured collections may have changed since it was parked.
    let (Content::Event(event), Some(evidence)) = (decoded.content, decoded.evidence) else {
        return Ok(Vec::new());
    };
    if is_stale(parked, evidence.commit()) {
        return Ok(Vec::new());
    }
    let outcome = verify(repositories, &parked.did, &evidence).await?;
    match &outcome {
        Outcome::Refused(refusal) if refusal.is_by_another_key() && !is_compared => {
            return Err(Undecided::Disputed);
        }
        _ => {}
    }
    let frame = &parked.frame;
    Ok(repositories
        .processor
        .effects_of_outcome(event, &evidence, outcome, frame))
}

/// Whether the commit is part of the known head, or older: with any signature. Another tree at the
/// head's rev is another history.
fn is_stale(parked: &ParkedCommit, commit: &SignedCommit) -> bool {
    let Some((rev, data)) = &parked.known_head else {
        return false;
    };
    match commit.rev.as_str().cmp(rev) {
        Ordering::Less => true,
        Ordering::Equal => commit.data.to_string() == *data,
        Ordering::Greater => false,
    }
}

/// Verifies with the account's key. If the cached key does not fit, verifies with a refreshed one.
async fn verify(
    repositories: &Repositories,
    did: &Did,
    evidence: &Evidence,
) -> Result<Outcome, Undecided> {
    let verification = &repositories.verification;
    let unknown = |error| Undecided::Unknown { error };
    match verification.identities.get(did).await {
        Err(error) if error.is_unknown() => return Err(unknown(error)),
        // The verification below also gives the error that there is no key.
        Ok(_) | Err(_) => {}
    }
    let clock = &repositories.processor.clock;
    match verification.decide(evidence, clock.now()) {
        Outcome::KeyUnavailable => {}
        Outcome::Early => return Err(Undecided::Early),
        outcome => return Ok(outcome),
    }
    match verification.identities.refresh(did).await {
        Err(error) if error.is_unknown() => return Err(unknown(error)),
        Ok(_) | Err(_) => {}
    }
    match verification.decide_finally(evidence, clock.now()) {
        Outcome::Early => Err(Undecided::Early),
        // An event removed the key from the cache meanwhile, because it changed again.
        Outcome::KeyUnavailable => Err(unknown(Unavailable::Interrupted.into())),
        outcome => Ok(outcome),
    }
}

/// The dead letter of a frame that can no longer be read. It could be read when it was parked, so
/// this version reads frames differently.
fn unreadable(parked: &ParkedCommit, fault: &Fault) -> Effect {
    Effect::DeadLetter(Box::new(DeadLetter {
        stage: match fault {
            Fault::Proof(_) => Stage::Verify,
            _ => Stage::Decode,
        },
        error: fault.to_string(),
        seq: None,
        did: Some(parked.did.to_string()),
        uri: None,
        task: None,
        raw: parked.frame.clone(),
        attempts: 1,
    }))
}
