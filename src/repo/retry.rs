//! Tries dead letters again: what their bytes ask of the tables now, by the rules in force.
//!
//! Nothing here writes. A record was proven when it was refused, so its letter keeps what guards it, and
//! needs the database alone. A frame goes the whole path again, for which its account's key may have to be
//! looked up. Where a letter lacks what it takes, the repository is fetched instead.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use tokio::time::{Instant, timeout};

use super::replay::replaying_bytes;
use crate::atproto::syntax::Did;
use crate::atproto::verify::Level;
use crate::delivery::budget::Budget;
use crate::model::{SourceId, Stage};
use crate::source::clock::SourceClock;
use crate::source::firehose::decode::{Content, Evidence, decode};
use crate::source::process::Processor;
use crate::source::process::records::Rules;
use crate::source::process::verification::{Outcome, Verification, Verify};
use crate::store::letters::WholeLetter;
use crate::store::plan::effect::{Effect, RecordChange, RecordDelete, RecordVersion};
use crate::store::plan::index_task::{IndexTask, TaskKind};
use crate::store::plan::{KeptSince, Retried, Retry};

/// How long a frame may take, with the look-up of its account's key.
const FRAME_DEADLINE: Duration = Duration::from_secs(10);
const PANICS: &str = "it makes its reader panic";
const LATE: &str = "its account's key could not be looked up in time";

/// What resolves a letter that is tried again.
#[derive(Clone, Debug, PartialEq)]
pub enum Resolution {
    /// Its repository is fetched, because of this.
    Fetch { did: Did, why: &'static str },
    /// What its frame asks.
    Frame {
        source: SourceId,
        effects: Vec<Effect>,
    },
    /// What its record asks, unless the repository was fetched since.
    Record {
        source: SourceId,
        effects: Vec<Effect>,
        /// The account, and since when the letter is kept. `None` where no repository is fetched.
        kept: Option<(Did, String)>,
    },
    /// The row of its account is told to the sinks again.
    TellAccount(Did),
    /// The row of its record is told to the sinks again.
    TellRecord(String),
}

/// Why a letter stays a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It cannot be tried again.
    Impossible(&'static str),
    /// It is refused again.
    Refused(String),
    /// Its key is not known now, or its time has not come.
    Undecided(String),
    /// The rules in force want nothing of it.
    Unwanted,
}

/// What frames are tried again with.
pub struct FrameParts<'a> {
    pub processor: &'a Arc<Processor>,
    pub budget: &'a Arc<Budget>,
}

impl Resolution {
    /// What is written of it.
    pub fn retry(&self, letter: i64) -> Retry<'_> {
        let outcome = match self {
            Self::Fetch { did, .. } => Retried::Fetched { did },
            Self::Frame { source, effects } => Retried::Frame { source, effects },
            Self::Record {
                source,
                effects,
                kept,
            } => Retried::Record {
                source,
                effects,
                kept: kept
                    .as_ref()
                    .map(|(did, created_at)| KeptSince { did, created_at }),
            },
            Self::TellAccount(did) => Retried::ToldAccount { did },
            Self::TellRecord(uri) => Retried::ToldRecord { uri },
        };
        Retry { letter, outcome }
    }
}

/// What resolves a letter that holds a record or no bytes.
///
/// # Errors
/// Why it stays a letter.
pub fn record(letter: &WholeLetter, rules: &Rules, verify: Verify) -> Result<Resolution, Kept> {
    let row = &letter.row;
    let did = row.did.as_deref().and_then(|did| Did::parse(did).ok());
    if row.stage == Stage::Sink.as_str() {
        return match (&row.uri, did) {
            (Some(uri), _) => Ok(Resolution::TellRecord(uri.clone())),
            (None, Some(did)) => Ok(Resolution::TellAccount(did)),
            (None, None) => Err(Kept::Impossible("it names no row")),
        };
    }
    let Some(did) = did else {
        return Err(Kept::Impossible("it names no account"));
    };
    let task = letter.task.as_deref();
    let Some(task) = task.and_then(|task| serde_json::from_str::<IndexTask>(task).ok()) else {
        return instead(did, rules, verify, "its bytes or its commit are not known");
    };
    let interest = &rules.interest;
    if !interest.wants_did(did.as_str()) || !interest.wants_collection(task.collection.as_str()) {
        return Err(Kept::Unwanted);
    }
    let level = task.verified.map(|verified| verified.level());
    let verified = match (level, verify) {
        (Some(level), Verify::None) => level,
        (Some(Some(level)), _) => Some(level),
        (None, Verify::None) => None,
        (None | Some(None), _) => {
            return instead(
                did,
                rules,
                verify,
                "how much of its commit was verified is not known",
            );
        }
    };
    let (source, kind, cid) = (task.source.clone(), task.kind, task.cid.clone());
    let version = version_of(task, verified);
    let change = match (kind, cid.and_then(|cid| cid.parse::<Cid>().ok())) {
        (TaskKind::Delete, _) => RecordChange::Delete(RecordDelete { version }),
        (TaskKind::Upsert, Some(cid)) if !letter.raw.is_empty() => {
            let raw = Bytes::copy_from_slice(&letter.raw);
            match rules.judge_again(version, cid, &raw, &source) {
                (change, None) => change,
                (_, Some(refused)) => return Err(Kept::Refused(refused.error)),
            }
        }
        (TaskKind::Upsert, _) => return instead(did, rules, verify, "its bytes are not known"),
    };
    let effects = vec![Effect::records(vec![change])];
    Ok(Resolution::Record {
        source,
        effects,
        kept: (verify != Verify::None).then(|| (did, row.created_at.clone())),
    })
}

fn version_of(task: IndexTask, verified: Option<Level>) -> RecordVersion {
    RecordVersion {
        did: task.did,
        collection: task.collection,
        rkey: task.rkey,
        rev: task.rev,
        seq: task.seq,
        time: task.timestamp,
        // The head of its repository stays as it is.
        data: Cid::default(),
        verified,
    }
}

/// Has the repository fetched, where repositories are fetched.
fn instead(did: Did, rules: &Rules, verify: Verify, why: &'static str) -> Result<Resolution, Kept> {
    match verify {
        _ if !rules.interest.wants_did(did.as_str()) => Err(Kept::Unwanted),
        Verify::None => Err(Kept::Impossible(
            "what it takes is not known, and at level none no repository is fetched",
        )),
        Verify::Chain | Verify::Commit | Verify::Lenient => Ok(Resolution::Fetch { did, why }),
    }
}

/// What resolves a letter that holds a frame. One that makes its reader panic or hang stays a letter.
///
/// # Errors
/// Why it stays a letter.
pub async fn frame(letter: &WholeLetter, parts: FrameParts<'_>) -> Result<Resolution, Kept> {
    let lengths = [letter.raw.len()];
    let _work = parts.budget.reserve_work(replaying_bytes(&lengths)).await;
    let frame = Bytes::copy_from_slice(&letter.raw);
    let source = SourceId::new(&letter.row.source);
    let processor = parts.processor.clone();
    // What panics there ends there.
    let attempt = tokio::spawn(async move { process(frame, source, &processor).await });
    match timeout(FRAME_DEADLINE, attempt).await {
        Ok(Ok(attempt)) => attempt,
        Ok(Err(_panicked)) => Err(Kept::Refused(PANICS.to_owned())),
        Err(_elapsed) => Err(Kept::Undecided(LATE.to_owned())),
    }
}

async fn process(
    frame: Bytes,
    source: SourceId,
    processor: &Arc<Processor>,
) -> Result<Resolution, Kept> {
    let (read, with) = (frame.clone(), processor.clone());
    let decoding = tokio::task::spawn_blocking(move || {
        let decoded = decode(&read, &with.rules.interest).map_err(|error| error.to_string())?;
        Ok::<_, String>(match decoded.content {
            Content::Event(event) => Some((event, decoded.evidence)),
            Content::Error { .. } | Content::Unknown { .. } | Content::Unwanted => None,
        })
    });
    let (event, evidence) = match timeout(FRAME_DEADLINE / 2, decoding).await {
        Ok(Ok(Ok(Some(decoded)))) => decoded,
        Ok(Ok(Ok(None))) => return Err(Kept::Unwanted),
        Ok(Ok(Err(error))) => return Err(Kept::Refused(error)),
        Ok(Err(_panicked)) => return Err(Kept::Refused(PANICS.to_owned())),
        Err(_elapsed) => return Err(Kept::Refused("it cannot be read in time".to_owned())),
    };
    let mut effects = match (&processor.verification, &evidence) {
        (Some(verification), Some(evidence)) => {
            match verify(verification, evidence, &processor.clock).await {
                Ok(Outcome::Early) => {
                    return Err(Kept::Undecided("its rev is ahead of the clocks".to_owned()));
                }
                Ok(outcome) => processor.effects_of_outcome(event, evidence, outcome, &frame),
                Err(error) => return Err(Kept::Undecided(error)),
            }
        }
        (_, evidence) => processor.effects_of(event, evidence.as_ref(), &frame, Instant::now()),
    };
    let refusal = effects.iter().find_map(|effect| match effect {
        Effect::DeadLetter(letter) => Some(letter.error.clone()),
        _ => None,
    });
    if let Some(error) = refusal {
        return Err(Kept::Refused(error));
    }
    processor.rules.interest.retain_wanted(&mut effects);
    match effects.is_empty() {
        true => Err(Kept::Unwanted),
        false => Ok(Resolution::Frame { source, effects }),
    }
}

/// Verifies with the account's key, which is looked up if it is not known or does not fit.
async fn verify(
    verification: &Verification,
    evidence: &Evidence,
    clock: &SourceClock,
) -> Result<Outcome, String> {
    let (did, identities) = (&evidence.commit().did, &verification.identities);
    let looked_up = identities.get(did).await;
    if let Err(error) = looked_up
        && error.is_unknown()
    {
        return Err(error.to_string());
    }
    match verification.decide(evidence, clock.now()) {
        Outcome::KeyUnavailable => {}
        outcome => return Ok(outcome),
    }
    if let Err(error) = identities.refresh(did).await
        && error.is_unknown()
    {
        return Err(error.to_string());
    }
    match verification.decide_finally(evidence, clock.now()) {
        Outcome::KeyUnavailable => Err("its account's key is not known now".to_owned()),
        outcome => Ok(outcome),
    }
}
