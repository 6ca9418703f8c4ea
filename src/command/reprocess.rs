//! Judges stored records again, in steps. Between two steps the stream writes what it has.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

use super::scope::{Act, Outcome, Run};
use super::{CommandError, Reprocess};
use crate::repo::reprocess::{Place, Progress, Reprocessing, judgements};
use crate::source::process::records::Rules;
use crate::store::StoreError;
use crate::store::rejudge_store::{RejudgeStore, Selection};
use crate::testing::fault::Point;

/// Beside a worker a step is followed by a pause as long as it took, at most this.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How far it is, and by which rules.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    rules: i64,
    progress: Progress,
}

impl Kept {
    fn json(&self) -> serde_json::Value {
        json!(self)
    }
}

/// Does one step. Where the rules have changed since the last one, it begins anew.
pub(super) async fn reprocess(run: &Run<'_>, asked: &Reprocess) -> Result<Outcome, CommandError> {
    if asked.selection == Selection::default() && !asked.all {
        return Err(CommandError::NoRecords);
    }
    let (store, began) = (&run.scope.store, Instant::now());
    let rules = run.scope.rules().await?;
    let digest = rules.digest().stored();
    let kept = run.progress::<Kept>();
    let Some(mut kept) = kept.filter(|kept| kept.rules == digest) else {
        return begin(run, asked, digest).await;
    };
    let reprocessing = Reprocessing {
        selection: asked.selection.clone(),
        is_forced: asked.all,
        is_dry_run: asked.dry_run,
    };
    reprocessing
        .step(&**store, &rules, &mut kept.progress)
        .await?;
    if let Some(live) = &run.scope.live {
        let faults = &live.context.faults;
        let passed = faults.pass_without_actor(Point::ReprocessStepped).await;
        passed.map_err(StoreError::from)?;
    }
    if kept.progress.at == Place::Over {
        show_outdated(run, &rules).await?;
        return Ok(over(&kept.progress, asked));
    }
    let pause = run.scope.live.as_ref().map(|_live| began.elapsed());
    Ok(Outcome::Later {
        progress: kept.json(),
        wait: pause.unwrap_or_default().min(LONGEST_PAUSE),
    })
}

async fn begin(run: &Run<'_>, asked: &Reprocess, rules: i64) -> Result<Outcome, CommandError> {
    let store = &run.scope.store;
    if run.scope.live.is_none() && !asked.dry_run {
        store.make_views(&run.scope.views).await?;
    }
    let kept = Kept {
        rules,
        progress: Progress::default(),
    };
    let act = Act {
        before: None,
        after: Some(json!(asked)),
    };
    Ok(run.begin(kept.json(), act).await?)
}

fn over(progress: &Progress, asked: &Reprocess) -> Outcome {
    let counts = json!(progress.counts);
    Outcome::Done {
        act: Act {
            before: None,
            after: Some(counts.clone()),
        },
        result: json!({
            "counts": counts,
            "told": progress.counts.told(),
            "dry_run": asked.dry_run,
        }),
        asked: None,
    }
}

/// Shows in the status of a worker which records are still judged by other rules.
async fn show_outdated(run: &Run<'_>, rules: &Rules) -> Result<(), StoreError> {
    let Some(live) = &run.scope.live else {
        return Ok(());
    };
    let store = &run.scope.store;
    let kept = store.kept_collections().await?;
    let outdated = store.compare_rules(&judgements(rules, kept)).await?;
    live.context
        .status
        .update(|status| status.set_outdated(outdated));
    Ok(())
}
