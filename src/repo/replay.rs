//! Lets through what had to wait, in its order.

use std::time::Duration;

use jiff::Timestamp;

use super::Repositories;
use crate::atproto::syntax::Did;
use crate::identity::ResolveError;
use crate::source::firehose::decode::{Content, Evidence, Fault, decode};
use crate::source::process;
use crate::source::process::verification::Outcome;
use crate::store::StoreError;
use crate::store::plan::effect::{DeadLetter, Effect, Stage};
use crate::store::repos::{ParkedCommit, RepoChange};

/// How far it came.
pub(super) enum Drained {
    Empty,
    /// The next one doesn't follow from what is known.
    Broken,
    /// The next one is not signed by the account's key. It may be from before that was its key.
    Disputed {
        /// Where the repository stands by now.
        known_rev: Option<String>,
    },
    /// The key of the next one is not known.
    Unknown {
        retry_after: Option<Duration>,
    },
}

/// Why a frame can't be judged now.
enum Undecided {
    Disputed,
    Unknown { retry_after: Option<Duration> },
}

/// Lets through what can be. `is_compared` where the repository is known to stand where its host has
/// it, so that a commit by another key is later than what is true, and refused.
pub(super) async fn drain(
    repositories: &Repositories,
    did: &Did,
    is_compared: bool,
) -> Result<Drained, StoreError> {
    let store = &repositories.store;
    while let Some(waiting) = store.first_parked(did).await? {
        let effects = match examine(repositories, &waiting, is_compared).await {
            Ok(effects) => effects,
            Err(Undecided::Disputed) => {
                return Ok(Drained::Disputed {
                    known_rev: waiting.known_rev,
                });
            }
            Err(Undecided::Unknown { retry_after }) => {
                return Ok(Drained::Unknown { retry_after });
            }
        };
        let parked = &waiting;
        let replayed = |effects| store.change(RepoChange::Replayed { parked, effects });
        let written = match replayed(&effects).await {
            Err(StoreError::Rejected(rejections)) => {
                let effects = Effect::without_refused(effects, &waiting.source, rejections);
                let effects = &effects;
                let replayed = RepoChange::Replayed { parked, effects };
                store.change(replayed).await?
            }
            written => written?,
        };
        // It stays where it is: something before it was missed.
        if written.parked > 0 {
            return Ok(Drained::Broken);
        }
    }
    Ok(Drained::Empty)
}

/// What a frame asks of the tables, now that its key can be asked for.
async fn examine(
    repositories: &Repositories,
    waiting: &ParkedCommit,
    is_compared: bool,
) -> Result<Vec<Effect>, Undecided> {
    let decoded = match decode(&waiting.frame, repositories.interest()) {
        Ok(decoded) => decoded,
        Err(error) => return Ok(vec![unreadable(waiting, &error.fault)]),
    };
    // What is wanted may have changed since it came.
    let (Content::Event(event), Some(evidence)) = (decoded.content, decoded.evidence) else {
        return Ok(Vec::new());
    };
    let rev = evidence.commit().rev.as_str();
    if waiting
        .known_rev
        .as_deref()
        .is_some_and(|known| rev <= known)
    {
        // Superseded, whoever has signed it.
        return Ok(Vec::new());
    }
    let outcome = judge(repositories, &waiting.did, &evidence).await?;
    match &outcome {
        Outcome::Refused(refusal) if refusal.is_by_another_key() && !is_compared => {
            return Err(Undecided::Disputed);
        }
        _ => {}
    }
    let frame = &waiting.frame;
    Ok(process::effects_of_outcome(
        &repositories.processor,
        event,
        &evidence,
        outcome,
        frame,
    ))
}

/// Judges by the key that the account has now: where the one that is known does not fit, by what its
/// document says when it is looked up anew.
async fn judge(
    repositories: &Repositories,
    did: &Did,
    evidence: &Evidence,
) -> Result<Outcome, Undecided> {
    let verification = &repositories.verification;
    let unknown = |error: ResolveError| Undecided::Unknown {
        retry_after: error.retry_after(),
    };
    match verification.identities.get(did).await {
        Err(error) if error.is_unknown() => return Err(unknown(error)),
        // That there is none is known then, and said again below.
        Ok(_) | Err(_) => {}
    }
    match verification.decide(evidence, Timestamp::now()) {
        Outcome::KeyUnavailable => {}
        outcome => return Ok(outcome),
    }
    match verification.identities.refresh(did).await {
        Err(error) if error.is_unknown() => return Err(unknown(error)),
        Ok(_) | Err(_) => {}
    }
    match verification.decide_finally(evidence, Timestamp::now()) {
        // It was forgotten meanwhile, since an event says that it has changed once more.
        Outcome::KeyUnavailable => Err(Undecided::Unknown { retry_after: None }),
        outcome => Ok(outcome),
    }
}

/// It could be read when it came, so what can be read has changed since.
fn unreadable(waiting: &ParkedCommit, fault: &Fault) -> Effect {
    Effect::DeadLetter(Box::new(DeadLetter {
        stage: match fault {
            Fault::Proof(_) => Stage::Verify,
            _ => Stage::Decode,
        },
        error: fault.to_string(),
        seq: None,
        did: Some(waiting.did.to_string()),
        uri: None,
        task: None,
        raw: waiting.frame.clone(),
        attempts: 1,
    }))
}
