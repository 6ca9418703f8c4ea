//! Replays the parked commits of a repository, in their order, many in one transaction.

use std::cmp::Ordering;

use super::Repositories;
use super::actor::replay_key;
use crate::atproto::signed_commit::SignedCommit;
use crate::atproto::syntax::Did;
use crate::identity::ResolveError;
use crate::identity::resolve::Unavailable;
use crate::model::{DeadLetter, Stage};
use crate::source::firehose::decode::{Content, Evidence, Fault, decode};
use crate::source::process::DECODING_GROWTH;
use crate::source::process::rows::MOST_ROW_GROWTH;
use crate::source::process::verification::Outcome;
use crate::store::plan::effect::{Effect, writing_bytes_of};
use crate::store::repo_store::{ParkedCommit, Replay, RepoChange};
use crate::store::{StoreError, Written};

/// The most frames of one transaction, and the most bytes of them. One frame is taken whatever its
/// length is.
const MOST_FRAMES: usize = 100;
const MOST_BYTES: usize = 256 << 10;

/// The result of a replay.
pub(super) enum Drained {
    /// No frame is left. The tables do not say so yet.
    Empty,
    /// The last frame was replayed, which has ended the replay in the tables too.
    Ended,
    /// The next commit does not follow from the head.
    Broken,
    /// The next commit is not signed by the account's key. It may be older than that key.
    Disputed {
        /// The rev of the repository's head.
        known_rev: Option<String>,
    },
    /// The key for the next commit is unavailable.
    Unknown { error: ResolveError },
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

/// Frames that were processed again, and their effects.
#[derive(Default)]
struct Decided {
    frames: Vec<ParkedCommit>,
    effects: Vec<Effect>,
    /// The number of effects up to the end of each frame.
    ends: Vec<usize>,
}

impl Decided {
    fn push(&mut self, frame: ParkedCommit, effects: Vec<Effect>) {
        self.frames.push(frame);
        self.effects.extend(effects);
        self.ends.push(self.effects.len());
    }

    /// A transaction has one source.
    fn takes(&self, frame: &ParkedCommit) -> bool {
        let first = self.frames.first();
        first.is_none_or(|first| first.source == frame.source)
    }
}

/// Replays as many commits as possible. A look-up takes long, so nothing of a frame is in memory
/// meanwhile: the frame is read again afterwards. Frames are replayed one by one if the database refuses
/// several together, and if the job is in doubt: the first frame is then the one at fault.
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
    // How many frames are replayed one by one.
    let mut one_by_one = match repositories.isolation.is_in_doubt(&replay_key(did)) {
        true => usize::MAX,
        false => 0,
    };
    loop {
        let most = if one_by_one > 0 { 1 } else { MOST_FRAMES };
        let lengths = store.parked_lengths(did, most).await?;
        if lengths.is_empty() {
            return Ok(Drained::Empty);
        }
        let lengths = first_within(&lengths, MOST_BYTES);
        let work = repositories.budget.reserve_work(replaying_bytes(lengths));
        let work = work.await;
        let frames = store.parked(did, lengths.len()).await?;
        let (decided, obstacle) = decide(repositories, frames, key, is_compared).await;
        if !decided.frames.is_empty() {
            let count = decided.frames.len();
            match write(repositories, decided).await? {
                None => one_by_one = count,
                // It stays parked, because a commit before it is missing.
                Some(written) if written.parked > 0 => return Ok(Drained::Broken),
                Some(written) if written.ends_replay => return Ok(Drained::Ended),
                Some(_) if one_by_one == usize::MAX => {}
                Some(_) => one_by_one = one_by_one.saturating_sub(count),
            }
            key = Key::NotAsked;
            continue;
        }
        let Some((known_head, undecided)) = obstacle else {
            continue;
        };
        drop(work);
        match undecided {
            Undecided::Disputed => {
                return Ok(Drained::Disputed {
                    known_rev: known_head.map(|(rev, _)| rev),
                });
            }
            Undecided::Early => return Ok(Drained::Early),
            Undecided::Unknown { error } => return Ok(Drained::Unknown { error }),
            Undecided::LookUp | Undecided::Refresh => {}
        }
        let is_refresh = matches!(undecided, Undecided::Refresh);
        let looked_up = match is_refresh {
            true => identities.refresh(did).await.map(drop),
            false => identities.get(did).await.map(drop),
        };
        match looked_up {
            Err(error) if error.is_unknown() => return Ok(Drained::Unknown { error }),
            // The verification also gives the error that there is no key.
            Ok(()) | Err(_) => {}
        }
        key = match is_refresh {
            true => Key::Refreshed,
            false => Key::LookedUp,
        };
    }
}

/// The first of `lengths` that together are not longer than `most`, and at least one.
fn first_within(lengths: &[usize], most: usize) -> &[usize] {
    let mut sum = 0_usize;
    let within = lengths.iter().take_while(|length| {
        sum = sum.saturating_add(**length);
        sum <= most
    });
    let count = within.count().max(1).min(lengths.len());
    &lengths[..count]
}

/// Processes `frames` in their order, up to the first that cannot be decided now. Returns that one's
/// known head too, and why. `key` is what is known of the key for the first frame.
async fn decide(
    repositories: &Repositories,
    frames: Vec<ParkedCommit>,
    mut key: Key,
    is_compared: bool,
) -> (Decided, Option<(Option<(String, String)>, Undecided)>) {
    let mut decided = Decided::default();
    for frame in frames {
        if !decided.takes(&frame) {
            break;
        }
        match effects_of(repositories, &frame, key, is_compared) {
            Ok(effects) => decided.push(frame, effects),
            Err(undecided) => return (decided, Some((frame.known_head, undecided))),
        }
        key = Key::NotAsked;
        // A signature takes long.
        tokio::task::yield_now().await;
    }
    (decided, None)
}

/// Writes the effects. Returns `None` if the database refuses several frames together, or does not write
/// them in time; then they are replayed one by one. What it refuses of a single frame becomes dead letters.
async fn write(
    repositories: &Repositories,
    decided: Decided,
) -> Result<Option<Written>, StoreError> {
    let Decided {
        frames,
        effects,
        ends,
    } = decided;
    let store = &repositories.store;
    let Some(replay) = Replay::of(&frames, &effects, &ends) else {
        return Ok(Some(Written::default()));
    };
    match store.change(RepoChange::Replayed(replay)).await {
        Err(StoreError::Rejected(_) | StoreError::Deadline) if frames.len() > 1 => Ok(None),
        Err(StoreError::Rejected(rejections)) => {
            let effects = Effect::without_refused(effects, &frames[0].source, rejections);
            let replay = Replay::of_one(&frames[0], &effects);
            let written = store.change(RepoChange::Replayed(replay)).await?;
            note(repositories, &effects, written);
            Ok(Some(written))
        }
        written => {
            let written = written?;
            // A frame that stays parked is replayed again, with what is behind it.
            let replayed = usize::try_from(written.replayed).unwrap_or_default();
            let last = replayed.checked_sub(1).and_then(|last| ends.get(last));
            let through = last.copied().unwrap_or_default();
            note(repositories, &effects[..through], written);
            Ok(Some(written))
        }
    }
}

fn note(repositories: &Repositories, effects: &[Effect], written: Written) {
    repositories.note_dead_letters(effects);
    repositories.metrics.wrong_sinces(written.wrong_sinces);
}

/// The bytes that the replay of frames of these lengths takes.
pub(super) fn replaying_bytes(lengths: &[usize]) -> usize {
    let longest = lengths.iter().copied().max().unwrap_or_default();
    let all = lengths.iter().sum::<usize>();
    let writing = writing_bytes_of(MOST_ROW_GROWTH * longest, MOST_ROW_GROWTH * all);
    DECODING_GROWTH * all + writing
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
