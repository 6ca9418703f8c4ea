//! Commands about the backfill.

use std::time::Duration;

use serde_json::{Value, json};

use super::CommandError;
use super::scope::{Act, Outcome, Run, Scope};
use crate::model::BackfillCounts;
use crate::source::process::verification::Verify;
use crate::store::StoreError;
use crate::store::repo_store::RepoStore;

/// How a pause of the backfill is named in `pauses`.
pub(super) const SUBJECT: &str = "backfill";
/// How often the progress is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Begins the searches, and then looks until an attempt was made for every repository that was found.
pub(super) async fn start(run: &Run<'_>) -> Result<Outcome, CommandError> {
    let scope = run.scope;
    if run.row.progress.is_none() {
        begin(run).await?;
    }
    let counts = scope.store.repo_counts().await?.backfill;
    let is_paused = scope.store.pauses().await?.contains_key(SUBJECT);
    if !counts.is_over() {
        return Ok(Outcome::Later {
            progress: progress(&counts, is_paused),
            wait: LOOK_INTERVAL,
        });
    }
    for discovery in scope.store.discoveries().await? {
        if let Some(reason) = discovery.unsupported {
            let search = discovery.search.as_str().to_owned();
            return Err(CommandError::UnsupportedSearch { search, reason });
        }
    }
    Ok(Outcome::Done {
        act: Act {
            before: None,
            after: Some(json!(counts)),
        },
        result: json!(counts),
        asked: None,
    })
}

async fn begin(run: &Run<'_>) -> Result<(), CommandError> {
    let scope = run.scope;
    if scope.verify == Verify::None {
        return Err(CommandError::NothingIsFetched);
    }
    let searches = scope.backfill.searches();
    if searches.is_empty() {
        let patterns = scope.backfill.unsearchable.join(", ");
        return Err(CommandError::NothingToSearch(patterns));
    }
    let names: Vec<&str> = searches.iter().map(|search| search.as_str()).collect();
    let act = Act {
        before: None,
        after: Some(json!({ "searches": names })),
    };
    let mut receipt = run.receipt_of_piece(act);
    receipt.audit.action = "backfill_begin".to_owned();
    scope
        .store
        .begin_discovery_by_command(&searches, &receipt)
        .await?;
    Ok(())
}

fn progress(counts: &BackfillCounts, is_paused: bool) -> Value {
    let mut progress = json!(counts);
    if let Some(object) = progress.as_object_mut() {
        object.insert("is_paused".to_owned(), is_paused.into());
    }
    progress
}

pub(super) async fn pause(run: &Run<'_>, is_paused: bool) -> Result<Outcome, CommandError> {
    let store = &run.scope.store;
    let was_paused = store.pauses().await?.contains_key(SUBJECT);
    let act = Act {
        before: Some(json!({ "is_paused": was_paused })),
        after: Some(json!({ "is_paused": is_paused })),
    };
    let receipt = run.receipt(act, json!({ "is_paused": is_paused }));
    store.set_pause(SUBJECT, is_paused, &receipt).await?;
    run.scope.show_pauses().await?;
    Ok(Outcome::Ended)
}

/// Ends the searches, then forgets the repositories that they have found, in pieces.
pub(super) async fn cancel(run: &Run<'_>) -> Result<Outcome, CommandError> {
    let store = &run.scope.store;
    if run.row.progress.is_none() {
        let act = Act {
            before: Some(json!(store.repo_counts().await?.backfill)),
            after: None,
        };
        let receipt = run.receipt_of_piece(act);
        store.end_backfill(&receipt).await?;
        return Ok(Outcome::Later {
            progress: json!({ "forgotten": 0 }),
            wait: Duration::ZERO,
        });
    }
    let before = run.row.progress.as_ref();
    let before = before.and_then(|progress| progress["forgotten"].as_u64());
    let piece = store.forget_backfill_piece().await?;
    let forgotten = before.unwrap_or_default() + piece;
    let progress = json!({ "forgotten": forgotten });
    if piece > 0 {
        return Ok(Outcome::Later {
            progress,
            wait: Duration::ZERO,
        });
    }
    Ok(Outcome::Done {
        act: Act {
            before: None,
            after: Some(progress.clone()),
        },
        result: progress,
        asked: None,
    })
}

impl Scope {
    /// Has the actors do what is written in the table `pauses`.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn show_pauses(&self) -> Result<(), StoreError> {
        let Some(live) = &self.live else {
            return Ok(());
        };
        let pauses = self.store.pauses().await?;
        let source = super::sources::subject(live.context.source.id());
        live.context.control.pause(pauses.get(&source).cloned());
        if let Some(repositories) = &live.context.repositories {
            repositories.pause_backfill(pauses.contains_key(SUBJECT));
        }
        super::sinks::show(&live.sinks, &pauses);
        Ok(())
    }
}
