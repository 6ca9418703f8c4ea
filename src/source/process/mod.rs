//! From an event to what it asks of the tables, as far as it is believed.

pub mod records;
pub mod verification;

use bytes::Bytes;
use jiff::Timestamp;

use crate::atproto::event::{Change, Commit, Event, PutAction};
use crate::atproto::verify::Level;
use crate::model::Position;
use crate::pipeline::Context;
use crate::source::firehose::decode::Evidence;
use crate::source::process::verification::{Judgement, Refusal};
use crate::store::plan::effect::{Claim, CommitStep, DeadLetter, Doubt, Effect, Stage};
use crate::telemetry::metrics::Metrics;

/// What `event`, which came as `frame`, asks of the tables.
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
pub(crate) fn effects_of_judged(
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
            let step = step(context, evidence, event.position(), Claim::Unproven, frame);
            step.into_iter().collect()
        }
        Judgement::Believed {
            verified,
            claim,
            lenience,
        } => {
            metrics.verified(verified).increment(1);
            if let Some(error) = lenience {
                metrics.verify_errors(error.name()).increment(1);
                if let Some(repositories) = &context.repositories {
                    repositories.verification.report(did, &error);
                }
            }
            let step =
                claim.and_then(|claim| step(context, evidence, event.position(), claim, frame));
            let mut effects: Vec<Effect> = step.into_iter().collect();
            effects.extend(believed(context, event, Some(verified)));
            effects
        }
    }
}

fn step(
    context: &Context,
    evidence: &Evidence,
    position: Option<Position>,
    claim: Claim,
    frame: &Bytes,
) -> Option<Effect> {
    let Position { seq, time } = position?;
    let commit = evidence.commit();
    Some(Effect::Commit(Box::new(CommitStep {
        did: commit.did.clone(),
        rev: commit.rev.clone(),
        data: commit.data,
        seq,
        time: time?,
        claim,
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
pub(crate) fn believed(context: &Context, event: Event, verified: Option<Level>) -> Vec<Effect> {
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
