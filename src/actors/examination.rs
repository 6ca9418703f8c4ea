//! From an event to what it asks of the tables, as far as it is believed.

use bytes::Bytes;
use jiff::Timestamp;

use super::Context;
use crate::operate::metrics::Metrics;
use crate::protocol::decode::Evidence;
use crate::protocol::event::{Change, Commit, Event, PutAction};
use crate::protocol::verify::Level;
use crate::queue::effect::{
    ChainUpdate, CommitEffect, DeadLetter, Doubt, Effect, Predecessor, RecordChange, Stage,
};
use crate::source::Position;
use crate::verification::{Judgement, Refusal};

/// What `event`, which came as `frame`, asks of the tables.
pub(super) fn effects_of(
    context: &Context,
    event: Event,
    evidence: Option<&Evidence>,
    frame: &Bytes,
) -> Vec<Effect> {
    let verification = context
        .repositories
        .as_ref()
        .map(|repositories| &repositories.verification);
    let Some(verification) = verification else {
        return believed(context, event, None);
    };
    match (&event, evidence) {
        (_, Some(evidence)) => {
            let judgement = verification.judge(evidence, Timestamp::now());
            effects_of_judged(context, event, evidence, judgement, frame)
        }
        (Event::Identity(identity), None) => {
            verification.identities.forget(&identity.did);
            believed(context, event, None)
        }
        (Event::Account(_), None) => on_hearsay(believed(context, event, None)),
        _ => believed(context, event, None),
    }
}

/// The same for a commit or a `#sync` on which judgement was passed.
pub(super) fn effects_of_judged(
    context: &Context,
    event: Event,
    evidence: &Evidence,
    judgement: Judgement,
    frame: &Bytes,
) -> Vec<Effect> {
    let metrics = &context.metrics;
    let did = &evidence.commit().did;
    match judgement {
        Judgement::Refused(refusal) => {
            metrics.verify_errors(refusal.name()).increment(1);
            let doubt = Effect::Doubt(Doubt {
                did: did.clone(),
                is_wanted: matches!(&event, Event::Commit(commit) if !commit.ops.is_empty()),
            });
            vec![refused(evidence, event.position(), &refusal, frame), doubt]
        }
        Judgement::Unproven => {
            metrics.unproven.increment(1);
            let predecessor = Predecessor::KeyUnavailable;
            let chain = chain_update(context, evidence, event.position(), predecessor, frame);
            effect_of_commit(chain, Vec::new()).into_iter().collect()
        }
        Judgement::Believed {
            verified,
            predecessor,
            lenience,
        } => {
            metrics.verified(verified).increment(1);
            if let Some(error) = lenience {
                metrics.verify_errors(error.name()).increment(1);
                if let Some(repositories) = &context.repositories {
                    repositories.verification.report(did, &error);
                }
            }
            let chain = predecessor.and_then(|predecessor| {
                chain_update(context, evidence, event.position(), predecessor, frame)
            });
            let records = records_of(context, &event, Some(verified));
            effect_of_commit(chain, records).into_iter().collect()
        }
    }
}

/// The effect of a commit or a `#sync`, if it has any.
fn effect_of_commit(chain: Option<ChainUpdate>, records: Vec<RecordChange>) -> Option<Effect> {
    let has_effect = chain.is_some() || !records.is_empty();
    has_effect.then(|| Effect::Commit(Box::new(CommitEffect { chain, records })))
}

fn chain_update(
    context: &Context,
    evidence: &Evidence,
    position: Option<Position>,
    predecessor: Predecessor,
    frame: &Bytes,
) -> Option<ChainUpdate> {
    let Position { seq, time } = position?;
    let commit = evidence.commit();
    Some(ChainUpdate {
        did: commit.did.clone(),
        rev: commit.rev.clone(),
        data: commit.data,
        seq,
        time: time?,
        predecessor,
        wants_history: context
            .repositories
            .as_ref()
            .is_some_and(|repositories| repositories.backfill.is_wanted),
        frame: frame.clone(),
    })
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

/// Only an account's own host knows that it is gone, and nobody has signed what was said. It hides the
/// account until the host was asked, also where the source may have been the host: that may be over.
fn on_hearsay(mut effects: Vec<Effect>) -> Vec<Effect> {
    for effect in &mut effects {
        if let Effect::Account(change) = effect {
            change.is_hearsay = true;
        }
    }
    effects
}

/// What `event` asks of the tables, counted by collection.
pub(super) fn believed(context: &Context, event: Event, verified: Option<Level>) -> Vec<Effect> {
    if let Event::Commit(_) = &event {
        let records = records_of(context, &event, verified);
        return effect_of_commit(None, records).into_iter().collect();
    }
    let mut effects = Vec::new();
    context.rules.effects_of(event, verified, &mut effects);
    effects
}

/// What becomes of the operations of a commit, counted by collection; nothing of another event.
fn records_of(context: &Context, event: &Event, verified: Option<Level>) -> Vec<RecordChange> {
    let Event::Commit(commit) = event else {
        return Vec::new();
    };
    let metrics = &context.metrics;
    count_operations(commit, metrics);
    let records = context.rules.records_of(commit, verified);
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
            RecordChange::DeadLetter(_) | RecordChange::Delete(_) => {}
        }
    }
    records
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
            Change::Broken { .. } => {}
        }
    }
}
