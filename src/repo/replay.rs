//! Replays the parked commits of a repository, in their order.

use std::cmp::Ordering;

use super::Repositories;
use crate::atproto::signed_commit::SignedCommit;
use crate::atproto::syntax::Did;
use crate::identity::ResolveError;
use crate::identity::resolve::Unavailable;
use crate::model::{DeadLetter, Stage};
use crate::source::firehose::decode::{Content, Evidence, Fault, decode};
use crate::source::process::DECODING_GROWTH;
use crate::source::process::rows::MOST_ROW_GROWTH;
use crate::source::process::verification::Outcome;
use crate::store::StoreError;
use crate::store::plan::effect::{Effect, writing_bytes_of};
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
    /// The key has to be looked up first.
    LookUp,
    /// The cached key does not fit, so it has to be looked up again.
    Refresh,
    Unknown {
        error: ResolveError,
    },
}

/// What is known of the account's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    NotAsked,
    LookedUp,
    Refreshed,
}

/// Replays as many commits as possible. A look-up takes long, so nothing of a frame is in memory
/// meanwhile: the frame is read again afterwards.
///
/// `is_compared`: the host was just asked, and it has the repository at the same head. A parked
/// commit that another key signed is then not part of the host's repository, and is refused.
pub(super) async fn drain(
    repositories: &Repositories,
    did: &Did,
    is_compared: bool,
) -> Result<Drained, StoreError> {
    let store = &repositories.store;
    let identities = &repositories.verification.identities;
    let mut key = Key::NotAsked;
    while let Some(bytes) = store.first_parked_bytes(did).await? {
        let work = repositories.budget.reserve_work(replaying_bytes(bytes));
        let work = work.await;
        let Some(parked) = store.first_parked(did).await? else {
            continue;
        };
        let parked = &parked;
        let effects = match effects_of(repositories, parked, key, is_compared) {
            Ok(effects) => effects,
            Err(Undecided::Disputed) => {
                return Ok(Drained::Disputed {
                    known_rev: parked.known_head.clone().map(|(rev, _)| rev),
                });
            }
            Err(Undecided::Early) => return Ok(Drained::Early),
            Err(Undecided::Unknown { error }) => return Ok(Drained::Unknown { error }),
            Err(undecided @ (Undecided::LookUp | Undecided::Refresh)) => {
                drop(work);
                let looked_up = match undecided {
                    Undecided::Refresh => identities.refresh(did).await.map(drop),
                    _ => identities.get(did).await.map(drop),
                };
                match looked_up {
                    Err(error) if error.is_unknown() => return Ok(Drained::Unknown { error }),
                    // The verification also gives the error that there is no key.
                    Ok(()) | Err(_) => {}
                }
                key = match undecided {
                    Undecided::Refresh => Key::Refreshed,
                    _ => Key::LookedUp,
                };
                continue;
            }
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
        key = Key::NotAsked;
    }
    Ok(Drained::Empty)
}

/// The bytes that the replay of a frame of so many bytes takes.
fn replaying_bytes(frame: usize) -> usize {
    DECODING_GROWTH * frame + writing_bytes_of(MOST_ROW_GROWTH * frame)
}

/// Returns the effects of a parked frame.
fn effects_of(
    repositories: &Repositories,
    parked: &ParkedCommit,
    key: Key,
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
    let outcome = verify(repositories, &parked.did, key, &evidence)?;
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

/// Verifies with the account's key, as far as it is known.
fn verify(
    repositories: &Repositories,
    did: &Did,
    key: Key,
    evidence: &Evidence,
) -> Result<Outcome, Undecided> {
    let verification = &repositories.verification;
    if key == Key::NotAsked && verification.identities.known(did).is_none() {
        return Err(Undecided::LookUp);
    }
    let now = repositories.processor.clock.now();
    let outcome = match key {
        Key::NotAsked | Key::LookedUp => verification.decide(evidence, now),
        Key::Refreshed => verification.decide_finally(evidence, now),
    };
    match outcome {
        Outcome::Early => Err(Undecided::Early),
        // An event removed the key from the cache meanwhile, because it changed again.
        Outcome::KeyUnavailable if key == Key::Refreshed => Err(Undecided::Unknown {
            error: Unavailable::Interrupted.into(),
        }),
        Outcome::KeyUnavailable => Err(Undecided::Refresh),
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
