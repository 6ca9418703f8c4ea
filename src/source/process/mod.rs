//! Converts events to effects on the tables, after verification.

pub mod records;
pub mod verification;

use bytes::Bytes;
use jiff::Timestamp;

use crate::atproto::event::{Change, Commit, Event, PutAction};
use crate::atproto::verify::Level;
use crate::model::Position;
use crate::pipeline::Context;
use crate::source::firehose::decode::Evidence;
use crate::source::process::verification::{Outcome, Refusal};
use crate::store::plan::effect::{ChainUpdate, DeadLetter, Effect, Predecessor, Recheck, Stage};
use crate::telemetry::metrics::Metrics;

/// The effects of `event`, which arrived as `frame`.
pub(crate) fn effects_of(
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
        return effects_of_verified(context, event, None);
    };
    match (&event, evidence) {
        (_, Some(evidence)) => {
            let outcome = verification.decide(evidence, Timestamp::now());
            effects_of_outcome(context, event, evidence, outcome, frame)
        }
        (Event::Identity(identity), None) => {
            verification.identities.forget(&identity.did);
            effects_of_verified(context, event, None)
        }
        (Event::Account(_), None) => until_confirmed(effects_of_verified(context, event, None)),
        _ => effects_of_verified(context, event, None),
    }
}

/// The effects of a commit or a `#sync` with a verification outcome.
pub(crate) fn effects_of_outcome(
    context: &Context,
    event: Event,
    evidence: &Evidence,
    outcome: Outcome,
    frame: &Bytes,
) -> Vec<Effect> {
    let metrics = &context.metrics;
    let did = &evidence.commit().did;
    match outcome {
        Outcome::Refused(refusal) => {
            metrics.verify_errors(refusal.name()).increment(1);
            let recheck = Effect::Recheck(Recheck {
                did: did.clone(),
                is_wanted: matches!(&event, Event::Commit(commit) if !commit.ops.is_empty()),
            });
            vec![
                refused(evidence, event.position(), &refusal, frame),
                recheck,
            ]
        }
        Outcome::KeyUnavailable => {
            metrics.key_unavailable.increment(1);
            let chain_update = chain_update(
                context,
                evidence,
                event.position(),
                Predecessor::KeyUnavailable,
                frame,
            );
            chain_update.into_iter().collect()
        }
        Outcome::Verified {
            verified,
            predecessor,
            tolerated,
        } => {
            metrics.verified(verified).increment(1);
            if let Some(error) = tolerated {
                metrics.verify_errors(error.name()).increment(1);
                if let Some(repositories) = &context.repositories {
                    repositories.verification.report(did, &error);
                }
            }
            let chain_update = predecessor.and_then(|predecessor| {
                chain_update(context, evidence, event.position(), predecessor, frame)
            });
            let mut effects: Vec<Effect> = chain_update.into_iter().collect();
            effects.extend(effects_of_verified(context, event, Some(verified)));
            effects
        }
    }
}

fn chain_update(
    context: &Context,
    evidence: &Evidence,
    position: Option<Position>,
    predecessor: Predecessor,
    frame: &Bytes,
) -> Option<Effect> {
    let Position { seq, time } = position?;
    let commit = evidence.commit();
    Some(Effect::Commit(Box::new(ChainUpdate {
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
    })))
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

/// Marks account changes as unconfirmed. A deleted or deactivated status is not signed, so only the
/// account's own host can confirm it. The account is hidden until its host was asked, also if the
/// source was its host, because the account may have moved.
fn until_confirmed(mut effects: Vec<Effect>) -> Vec<Effect> {
    for effect in &mut effects {
        if let Effect::Account(change) = effect {
            change.is_unconfirmed = true;
        }
    }
    effects
}

/// The effects of `event`, counted by collection.
pub(crate) fn effects_of_verified(
    context: &Context,
    event: Event,
    verified: Option<Level>,
) -> Vec<Effect> {
    let metrics = &context.metrics;
    if let Event::Commit(commit) = &event {
        count_operations(commit, metrics);
    }
    let mut effects = Vec::new();
    context.rules.effects_of(event, verified, &mut effects);
    for effect in &effects {
        match effect {
            Effect::Upsert(upsert) => metrics
                .collection(upsert.version.collection.as_str())
                .validated(&upsert.validity)
                .increment(1),
            Effect::DeadLetter(letter) if letter.stage == Stage::Validate => {
                if let Some(collection) = letter.collection() {
                    metrics.collection(collection).rejected.increment(1);
                }
            }
            _ => {}
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
            Change::Broken { .. } => {}
        }
    }
}
