//! Converts events to effects on the tables, after verification.

mod admission;
pub mod records;
pub mod rows;
pub mod verification;

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use crate::atproto::event::{Change, Commit, Event, PutAction, RecordOp};
use crate::atproto::mst::empty_root;
use crate::atproto::verify::Level;
use crate::model::{DeadLetter, Position, Stage};
use crate::source::clock::SourceClock;
use crate::source::firehose::decode::Evidence;
use crate::source::process::records::Rules;
use crate::source::process::rows::RowsError;
use crate::source::process::verification::{Outcome, Refusal, Verification};
use crate::store::plan::effect::{
    ChainUpdate, CommitEffect, Effect, Predecessor, Recheck, RecheckReason, RecordChange,
};
use crate::telemetry::metrics::Metrics;

/// The memory that an effect takes besides the bytes of its record, in small allocations, until it is
/// written (`cargo bench -- memory` shows it).
pub const EFFECT_BYTES: usize = 8192;

/// How much memory decoding and verifying a frame takes for a moment, as a multiple of the frame. A
/// commit of many tiny blocks takes most: each of them is found by its CID.
pub const DECODING_GROWTH: usize = 12;

/// Turns decoded events into effects: verifies, validates and projects them. The decoders of a
/// source share it, and so does the replay of parked commits.
pub struct Processor {
    pub rules: Rules,
    /// `None` at level `none`.
    pub verification: Option<Arc<Verification>>,
    pub metrics: Metrics,
    /// Bounds the times of events.
    pub clock: SourceClock,
    /// Whether records from before the first commit seen of a repository are wanted (a backfill).
    pub wants_history: bool,
}

impl Processor {
    /// The effects of `event`, which arrived as `frame` at `received_at`.
    pub(crate) fn effects_of(
        &self,
        event: Event,
        evidence: Option<&Evidence>,
        frame: &Bytes,
        received_at: Instant,
    ) -> Vec<Effect> {
        let event = event.not_later_than(self.clock.latest_credible());
        let Some(verification) = &self.verification else {
            return match rows::check(&event) {
                Ok(()) => self.effects_of_verified(event, None),
                Err(error) => vec![too_large(&event, &error, frame)],
            };
        };
        match (event, evidence) {
            (event, Some(evidence)) => {
                let outcome = verification.decide(evidence, self.clock.now());
                self.effects_of_outcome(event, evidence, outcome, frame)
            }
            (Event::Identity(identity), None) => {
                let identities = &verification.identities;
                identities.forget_before(&identity.did, received_at);
                self.rules.identity_change(identity).into_iter().collect()
            }
            (event @ Event::Account(_), None) => {
                let effects = self.effects_of_verified(event, None);
                until_confirmed(effects, self.wants_history)
            }
            (event, None) => self.effects_of_verified(event, None),
        }
    }

    /// The effects of a commit or a `#sync` with a verification outcome.
    pub(crate) fn effects_of_outcome(
        &self,
        event: Event,
        evidence: &Evidence,
        outcome: Outcome,
        frame: &Bytes,
    ) -> Vec<Effect> {
        let event = event.not_later_than(self.clock.latest_credible());
        let metrics = &self.metrics;
        let did = &evidence.commit().did;
        match outcome {
            Outcome::Refused(refusal) => {
                metrics.verify_errors(refusal.name()).increment(1);
                let is_wanted = has_wanted_ops(&event);
                let recheck = Effect::Recheck(Recheck {
                    did: did.clone(),
                    reason: RecheckReason::Refused { is_wanted },
                });
                vec![
                    refused(evidence, event.position(), &refusal, frame),
                    recheck,
                ]
            }
            Outcome::KeyUnavailable | Outcome::Early => {
                if matches!(outcome, Outcome::KeyUnavailable) {
                    metrics.key_unavailable.increment(1);
                }
                let predecessor = Predecessor::KeyUnavailable;
                let chain = self.chain_update(evidence, &event, predecessor, frame);
                effect_of_commit(chain, Vec::new()).into_iter().collect()
            }
            Outcome::Verified {
                verified,
                predecessor,
                tolerated,
            } => {
                if let Err(error) = rows::check(&event) {
                    let letter = too_large(&event, &error, frame);
                    let reason = RecheckReason::Refused { is_wanted: true };
                    let did = did.clone();
                    return vec![letter, Effect::Recheck(Recheck { did, reason })];
                }
                metrics.verified(verified).increment(1);
                if let Some(error) = tolerated {
                    metrics.verify_errors(error.name()).increment(1);
                    if let Some(verification) = &self.verification {
                        verification.report(did, &error);
                    }
                }
                let chain = predecessor.and_then(|predecessor| {
                    self.chain_update(evidence, &event, predecessor, frame)
                });
                let records = self.records_of(&event, Some(verified));
                // Without a chain nothing else has the repository fetched.
                let fetch = (chain.is_none() && lacks_record(&event)).then(|| {
                    Effect::Recheck(Recheck {
                        did: did.clone(),
                        reason: RecheckReason::RecordMissing,
                    })
                });
                let effect = effect_of_commit(chain, records);
                effect.into_iter().chain(fetch).collect()
            }
        }
    }

    fn chain_update(
        &self,
        evidence: &Evidence,
        event: &Event,
        predecessor: Predecessor,
        frame: &Bytes,
    ) -> Option<ChainUpdate> {
        let Position { seq, time } = event.position()?;
        let commit = evidence.commit();
        let awaits_directory = predecessor == Predecessor::KeyUnavailable
            && self
                .verification
                .as_ref()
                .is_some_and(|verification| verification.identities.awaits_directory(&commit.did));
        Some(ChainUpdate {
            did: commit.did.clone(),
            rev: commit.rev.clone(),
            data: commit.data,
            seq,
            time: time?,
            predecessor,
            wants_history: self.wants_history,
            lacks_record: lacks_record(event),
            has_wanted_ops: has_wanted_ops(event),
            begins_empty: begins_empty(event),
            awaits_directory,
            frame: frame.clone(),
        })
    }

    /// The effects of `event`, counted by collection.
    pub(crate) fn effects_of_verified(&self, event: Event, verified: Option<Level>) -> Vec<Effect> {
        if let Event::Commit(_) = &event {
            let records = self.records_of(&event, verified);
            return effect_of_commit(None, records).into_iter().collect();
        }
        let mut effects = Vec::new();
        self.rules.effects_of(event, verified, &mut effects);
        effects
    }

    /// The changes of a commit's operations, counted by collection; none for another event.
    fn records_of(&self, event: &Event, verified: Option<Level>) -> Vec<RecordChange> {
        let Event::Commit(commit) = event else {
            return Vec::new();
        };
        let metrics = &self.metrics;
        count_operations(commit, metrics);
        let records = self.rules.records_of(commit, verified);
        for record in &records {
            match record {
                RecordChange::Upsert(upsert) => metrics
                    .collection(upsert.version.collection.as_str())
                    .validated(&upsert.validity)
                    .increment(1),
                RecordChange::DeadLetter(letter) if letter.stage == Stage::Validate => {
                    if let Some(collection) = letter.collection() {
                        metrics.collection(collection).rejected.increment(1);
                    }
                }
                RecordChange::DeadLetter(_) | RecordChange::Delete(_) | RecordChange::Refuse(_) => {
                }
            }
        }
        records
    }
}

/// Whether a commit says that its repository was empty before it. The word of an account about
/// itself.
fn begins_empty(event: &Event) -> bool {
    let Event::Commit(commit) = event else {
        return false;
    };
    commit.since.is_none() && commit.prev_data.is_none_or(|tree| tree == empty_root())
}

fn has_wanted_ops(event: &Event) -> bool {
    matches!(event, Event::Commit(commit) if !commit.ops.is_empty())
}

/// The effect of a commit or a `#sync`, if it has any.
fn effect_of_commit(chain: Option<ChainUpdate>, records: Vec<RecordChange>) -> Option<Effect> {
    let has_effect = chain.is_some() || !records.is_empty();
    has_effect.then(|| Effect::Commit(Box::new(CommitEffect { chain, records })))
}

/// Whether the block of a wanted record did not come with the commit.
fn lacks_record(event: &Event) -> bool {
    let is_missing = |op: &RecordOp| matches!(op.change, Change::Missing { .. });
    matches!(event, Event::Commit(commit) if commit.ops.iter().any(is_missing))
}

fn refused(
    evidence: &Evidence,
    position: Option<Position>,
    refusal: &Refusal,
    frame: &Bytes,
) -> Effect {
    Effect::DeadLetter(Box::new(DeadLetter {
        stage: Stage::Verify,
        error: refusal.to_string(),
        seq: position.map(|position| position.seq),
        did: Some(evidence.commit().did.to_string()),
        uri: None,
        task: None,
        raw: frame.clone(),
        attempts: 1,
    }))
}

/// A commit whose rows would be too large for a transaction. Its repository is fetched instead, which
/// is written in parts.
fn too_large(event: &Event, error: &RowsError, frame: &Bytes) -> Effect {
    Effect::DeadLetter(Box::new(DeadLetter {
        stage: Stage::Decode,
        error: error.to_string(),
        seq: event.position().map(|position| position.seq),
        did: event.did().map(ToString::to_string),
        uri: None,
        task: None,
        raw: frame.clone(),
        attempts: 1,
    }))
}

/// Marks account changes as unconfirmed. A deleted or deactivated status is not signed, so only the
/// account's own host can confirm it. The account is hidden until its host was asked, also if the
/// source was its host, because the account may have moved. (A takedown by the source needs no
/// confirmation: see `AccountChange::is_hold`.)
fn until_confirmed(mut effects: Vec<Effect>, wants_history: bool) -> Vec<Effect> {
    for effect in &mut effects {
        if let Effect::Account(change) = effect {
            change.is_unconfirmed = true;
            change.wants_history = wants_history;
        }
    }
    effects
}

fn count_operations(commit: &Commit, metrics: &Metrics) {
    for op in &commit.ops {
        let counters = metrics.collection(op.collection.as_str());
        match op.change {
            Change::Put {
                action: PutAction::Create,
                ..
            } => counters.created.increment(1),
            Change::Put { .. } => counters.updated.increment(1),
            Change::Delete => counters.deleted.increment(1),
            Change::Broken { .. } | Change::Missing { .. } => {}
        }
    }
}
