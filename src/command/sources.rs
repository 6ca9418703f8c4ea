//! Commands about the connection of a source.

use serde_json::json;

use super::CommandError;
use super::scope::{Act, Live, Outcome, Run};
use crate::model::SourceId;

/// How a paused source is named in `pauses`.
pub(super) fn subject(source: &SourceId) -> String {
    format!("source:{source}")
}

pub(super) async fn pause(
    run: &Run<'_>,
    source: &SourceId,
    is_paused: bool,
) -> Result<Outcome, CommandError> {
    if let Some(live) = &run.scope.live {
        check_followed(live, source)?;
    }
    let (store, subject) = (&run.scope.store, subject(source));
    let was_paused = store.pauses().await?.contains_key(&subject);
    let act = Act {
        before: Some(json!({ "is_paused": was_paused })),
        after: Some(json!({ "is_paused": is_paused })),
    };
    let receipt = run.receipt(act, json!({ "source": source, "is_paused": is_paused }));
    store.set_pause(&subject, is_paused, &receipt).await?;
    run.scope.show_pauses().await?;
    Ok(Outcome::Ended)
}

pub(super) fn reconnect(run: &Run<'_>, source: &SourceId) -> Result<Outcome, CommandError> {
    let live = run.scope.live.as_ref().ok_or(CommandError::NoWorker)?;
    check_followed(live, source)?;
    live.context.control.reconnect();
    Ok(Outcome::Done {
        act: Act::default(),
        result: json!({ "source": source }),
        asked: None,
    })
}

pub(super) fn check_followed(live: &Live, source: &SourceId) -> Result<(), CommandError> {
    let followed = live.context.source.id();
    match source == followed {
        true => Ok(()),
        false => Err(CommandError::NotFollowed(source.clone(), followed.clone())),
    }
}
