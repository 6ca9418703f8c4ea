//! Commands about the sinks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::rpc::CallResult;
use serde_json::json;

use super::CommandError;
use super::kind::FeedPlace;
use super::scope::{Act, Live, Outcome, Run};
use super::tasks::LOOK_INTERVAL;
use crate::model::Pause;
use crate::sink::actor::{SinkContext, SinkMessage};
use crate::sink::{Rewound, Wanted};

/// How long a sink may take to move its position. It may have a delivery on its way, and then it is
/// stopped if that hangs.
const REWIND_DEADLINE: Duration = Duration::from_secs(70);
/// After which time a sink that gave no answer is asked again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Where a sink was asked to go, with what became of that, or why it is asked again.
pub(super) type Answer = (u64, Result<Rewound, String>);

/// How a paused sink is named in `pauses`.
fn paused(sink: &str) -> String {
    format!("sink:{sink}")
}

/// How a removed sink is named in `pauses`.
fn removed(sink: &str) -> String {
    format!("removed_sink:{sink}")
}

/// Has the SinkActors do what is written in the table `pauses`.
pub(super) fn show(sinks: &[Arc<SinkContext>], pauses: &BTreeMap<String, Pause>) {
    for sink in sinks {
        let name = &sink.options.name;
        sink.control.set(Wanted {
            pause: pauses.get(&paused(name)).cloned(),
            removal: pauses.get(&removed(name)).cloned(),
        });
    }
}

pub(super) async fn pause(
    run: &Run<'_>,
    sink: &str,
    is_paused: bool,
) -> Result<Outcome, CommandError> {
    check_configured(run, sink)?;
    let (store, subject) = (&run.scope.store, paused(sink));
    let was_paused = store.pauses().await?.contains_key(&subject);
    let act = Act {
        before: Some(json!({ "is_paused": was_paused })),
        after: Some(json!({ "is_paused": is_paused })),
    };
    let receipt = run.receipt(act, json!({ "sink": sink, "is_paused": is_paused }));
    store.set_pause(&subject, is_paused, &receipt).await?;
    run.scope.show_pauses().await?;
    Ok(Outcome::Ended)
}

pub(super) async fn remove(run: &Run<'_>, sink: &str) -> Result<Outcome, CommandError> {
    check_configured(run, sink)?;
    let store = &run.scope.store;
    let was_removed = store.pauses().await?.contains_key(&removed(sink));
    let act = Act {
        before: Some(json!({ "is_removed": was_removed })),
        after: Some(json!({ "is_removed": true })),
    };
    let note = "nothing is delivered to it any more, and its tables stay; take it out of the \
                configuration, or bring it back with sink resync";
    let receipt = run.receipt(act, json!({ "sink": sink, "note": note }));
    store.set_pause(&removed(sink), true, &receipt).await?;
    run.scope.show_pauses().await?;
    Ok(Outcome::Ended)
}

pub(super) async fn rewind(
    run: &Run<'_>,
    sink: &str,
    place: FeedPlace,
) -> Result<Outcome, CommandError> {
    if run.scope.store.pauses().await?.contains_key(&removed(sink)) {
        return Err(CommandError::SinkIsRemoved(sink.to_owned()));
    }
    let to = match place {
        FeedPlace::Change(change) => change,
        // Where no mark is that old, everything is delivered again.
        FeedPlace::Since(time) => run.scope.store.last_change_before(time).await?,
    };
    move_to(run, sink, to).await
}

/// Has everything delivered again, also to one that was removed.
pub(super) async fn resync(run: &Run<'_>, sink: &str) -> Result<Outcome, CommandError> {
    let outcome = move_to(run, sink, 0).await?;
    let store = &run.scope.store;
    if matches!(outcome, Outcome::Done { .. }) && store.pauses().await?.contains_key(&removed(sink))
    {
        let act = Act {
            before: Some(json!({ "is_removed": true })),
            after: Some(json!({ "is_removed": false })),
        };
        let mut receipt = run.receipt_of_piece(act);
        receipt.audit.action = "sink_bring_back".to_owned();
        store.set_pause(&removed(sink), false, &receipt).await?;
        run.scope.show_pauses().await?;
    }
    Ok(outcome)
}

/// Moves the position of a sink back. One that gives no answer is asked until it gives one.
async fn move_to(run: &Run<'_>, sink: &str, to: u64) -> Result<Outcome, CommandError> {
    let live = run.scope.live.as_ref().ok_or(CommandError::NoWorker)?;
    let context = configured(live, sink)?;
    let ask = || ask(context.clone(), to);
    let Some(answer) = live.rewinds.result_of(run.row.id, ask).await else {
        return Ok(later("it has a delivery on its way", LOOK_INTERVAL));
    };
    // The place of a time may be another one by now.
    let (to, answer) = answer.map_err(|_panicked| CommandError::Panicked)?;
    match answer {
        Ok(Rewound::From(from)) => Ok(Outcome::Done {
            act: Act {
                before: Some(json!({ "change": from })),
                after: Some(json!({ "change": to })),
            },
            result: json!({ "sink": sink, "from": from, "to": to }),
            asked: None,
        }),
        Ok(Rewound::Ahead { at }) => Err(CommandError::AheadOfSink {
            sink: sink.to_owned(),
            at,
            wanted: to,
        }),
        Err(reason) => Ok(later(&reason, RETRY_INTERVAL)),
    }
}

/// Asks a sink to move its position. One that has something on its way answers behind that.
async fn ask(context: Arc<SinkContext>, to: u64) -> Answer {
    let Some(actor) = context.address.current() else {
        return (to, Err("it is starting".to_owned()));
    };
    let rewind = |reply| SinkMessage::Rewind { to, reply };
    let answer = match actor.call(rewind, Some(REWIND_DEADLINE)).await {
        Ok(CallResult::Success(answer)) => answer.map_err(|error| error.to_string()),
        Ok(CallResult::Timeout | CallResult::SenderError) | Err(_) => {
            Err("it gave no answer".to_owned())
        }
    };
    (to, answer)
}

fn later(reason: &str, wait: Duration) -> Outcome {
    Outcome::Later {
        progress: json!({ "waits_for_the_sink": reason }),
        wait,
    }
}

fn check_configured(run: &Run<'_>, sink: &str) -> Result<(), CommandError> {
    match &run.scope.live {
        Some(live) => configured(live, sink).map(drop),
        // The command line has looked it up.
        None => Ok(()),
    }
}

fn configured<'a>(live: &'a Live, name: &str) -> Result<&'a Arc<SinkContext>, CommandError> {
    let found = live.sinks.iter().find(|sink| *sink.options.name == *name);
    found.ok_or_else(|| CommandError::UnknownSink {
        name: name.to_owned(),
        known: live
            .sinks
            .iter()
            .map(|sink| sink.options.name.to_string())
            .collect(),
    })
}
