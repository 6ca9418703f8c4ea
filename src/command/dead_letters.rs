//! Commands about dead letters. Each letter is done in one transaction with the progress of its command,
//! so a command that was interrupted goes on behind the last one.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::letter_progress::{Became, LetterProgress};
use super::scope::{Act, Outcome, Run};
use super::{BulkLetters, CommandError};
use crate::repo::retry::{self, FrameParts, Kept, Resolution};
use crate::source::process::records::Rules;
use crate::store::letters::{LetterFilter, LetterRange, RetryNeeds, WholeLetter};
use crate::store::sqlite::Progress;
use crate::store::{StoreError, Written};

/// The letters of one piece, and the time after which it ends.
const PIECE: u32 = 100;
const PIECE_TIME: Duration = Duration::from_millis(500);
/// The letters that are discarded in one transaction.
const DISCARDED: u32 = 500;
/// How long a command waits for a worker before it looks again.
const WAIT_FOR_WORKER: Duration = Duration::from_secs(3600);

/// Deletes letters.
pub(super) async fn discard(run: &Run<'_>, bulk: &BulkLetters) -> Result<Outcome, CommandError> {
    let Some(progress) = run.progress::<LetterProgress>() else {
        return begin(run, bulk, None).await;
    };
    let store = &run.scope.store;
    let ids = store
        .next_letters(range(bulk, &progress, DISCARDED), None)
        .await?;
    if ids.is_empty() {
        return Ok(over(&progress, bulk));
    }
    let next = progress.with_all(&ids, Became::Discarded);
    match bulk.dry_run {
        true => note(run, &next).await?,
        false => {
            store
                .discard_letters(&ids, (run.row.id, &next.json()))
                .await?;
        }
    }
    Ok(noted(bulk, ids.len()))
}

/// Tries letters again: first those that need the database alone, then those that may need the network.
/// Without a worker the command waits for one with the latter.
pub(super) async fn retry(run: &Run<'_>, bulk: &BulkLetters) -> Result<Outcome, CommandError> {
    let Some(mut progress) = run.progress::<LetterProgress>() else {
        return begin(run, bulk, Some(RetryNeeds::Database)).await;
    };
    let (store, needs) = (&run.scope.store, progress.needs);
    let ids = store
        .next_letters(range(bulk, &progress, PIECE), needs)
        .await?;
    if ids.is_empty() {
        if needs == Some(RetryNeeds::Network) {
            return Ok(over(&progress, bulk));
        }
        progress.needs = Some(RetryNeeds::Network);
        progress.at = 0;
        note(run, &progress).await?;
        return Ok(noted(bulk, 0));
    }
    if needs == Some(RetryNeeds::Network) && run.scope.live.is_none() {
        progress.waits_for = Some("a worker: the rest needs the network".to_owned());
        return Ok(Outcome::Later {
            progress: progress.json(),
            wait: WAIT_FOR_WORKER,
        });
    }
    let (rules, began) = (run.scope.rules().await?, Instant::now());
    let mut done = 0;
    for id in ids {
        progress = retry_one(run, bulk, &rules, &progress, id).await?;
        done += 1;
        if began.elapsed() > PIECE_TIME {
            break;
        }
    }
    run.scope.wake_repositories();
    Ok(noted(bulk, done))
}

/// Counts the letters, and says in the audit what is about to be done.
async fn begin(
    run: &Run<'_>,
    bulk: &BulkLetters,
    needs: Option<RetryNeeds>,
) -> Result<Outcome, CommandError> {
    if bulk.filter == LetterFilter::default() && !bulk.all {
        return Err(CommandError::NoLetters);
    }
    if bulk.filter.has_empty_text() {
        return Err(CommandError::EmptyText);
    }
    let store = &run.scope.store;
    let ids = &bulk.filter.ids;
    let missing = store.missing_letters(ids).await?;
    let is_missing = |id| missing.binary_search(id).is_ok();
    if !ids.is_empty() && ids.iter().all(is_missing) {
        return Err(CommandError::NoSuchLetters(missing));
    }
    let count = store.count_letters(&bulk.filter).await?;
    let progress = LetterProgress::begin(count, missing, needs);
    let act = Act {
        before: Some(json!(count)),
        after: Some(json!(bulk)),
    };
    Ok(run.begin(progress.json(), act).await?)
}

fn range<'a>(bulk: &'a BulkLetters, progress: &LetterProgress, most: u32) -> LetterRange<'a> {
    let rate = bulk.per_second.map_or(most, u32::from);
    LetterRange {
        filter: &bulk.filter,
        after: progress.at,
        through: progress.through,
        limit: most.min(rate),
    }
}

/// The next piece follows when the rate allows it.
fn noted(bulk: &BulkLetters, done: usize) -> Outcome {
    let wait = bulk.per_second.map(|rate| {
        let seconds = done as f64 / f64::from(rate.get());
        Duration::from_secs_f64(seconds)
    });
    Outcome::Noted {
        wait: wait.unwrap_or_default(),
    }
}

fn over(progress: &LetterProgress, bulk: &BulkLetters) -> Outcome {
    Outcome::Done {
        act: Act {
            before: None,
            after: Some(json!({ "became": progress.became })),
        },
        result: progress.result(bulk.dry_run),
        asked: None,
    }
}

async fn note(run: &Run<'_>, progress: &LetterProgress) -> Result<(), StoreError> {
    let store = &run.scope.store;
    store
        .note_command_progress(run.row.id, &progress.json())
        .await
}

/// Tries one letter again. Returns the progress behind it, which is stored.
async fn retry_one(
    run: &Run<'_>,
    bulk: &BulkLetters,
    rules: &Rules,
    progress: &LetterProgress,
    id: i64,
) -> Result<LetterProgress, CommandError> {
    let store = &run.scope.store;
    let Some(letter) = store.dead_letter(id).await? else {
        let next = progress.with(id, Became::Gone, None);
        note(run, &next).await?;
        return Ok(next);
    };
    let resolution = match resolve(run, &letter, rules, progress.needs).await {
        Ok(resolution) => resolution,
        Err(kept) => return keep(run, bulk, progress, &letter, &kept).await,
    };
    let retry = resolution.retry(id);
    let after = |written: &Written| {
        let (became, why) = became(&resolution, written);
        progress.with(id, became, why.map(str::to_owned))
    };
    if bulk.dry_run {
        let next = after(&store.rehearse_retry(&retry).await?);
        note(run, &next).await?;
        return Ok(next);
    }
    let json = |written: &Written| after(written).json();
    let noted = Progress {
        command: run.row.id,
        after: &json,
    };
    match store.retry_letter(&retry, noted).await {
        Ok(written) => {
            tell(run, &resolution);
            Ok(after(&written))
        }
        Err(StoreError::Rejected(rejections)) => {
            let first = rejections.into_iter().next();
            let error =
                first.map_or_else(|| "the database refused it".to_owned(), |one| one.reason);
            keep(run, bulk, progress, &letter, &Kept::Refused(error)).await
        }
        Err(error) => Err(error.into()),
    }
}

async fn resolve(
    run: &Run<'_>,
    letter: &WholeLetter,
    rules: &Rules,
    needs: Option<RetryNeeds>,
) -> Result<Resolution, Kept> {
    match (needs, &run.scope.live) {
        (Some(RetryNeeds::Network), Some(live)) => {
            let parts = FrameParts {
                processor: &live.context.processor,
                budget: &live.context.budget,
            };
            retry::frame(letter, parts).await
        }
        _ => retry::record(letter, rules, run.scope.verify),
    }
}

/// Counts and logs the dead letters that a frame has left, such as a record of it that is refused.
fn tell(run: &Run<'_>, resolution: &Resolution) {
    if let (Some(live), Resolution::Frame { effects, .. }) = (&run.scope.live, resolution) {
        live.context.note_dead_letters(effects);
    }
}

/// What became of a letter that is resolved.
fn became(resolution: &Resolution, written: &Written) -> (Became, Option<&'static str>) {
    match resolution {
        Resolution::Fetch { why, .. } => (Became::FetchRequested, Some(*why)),
        Resolution::Frame { .. } if written.fetched_instead => (
            Became::FetchRequested,
            Some("its commit does not follow from the head of its repository"),
        ),
        Resolution::Frame { .. } if written.records == 0 && written.stale > 0 => {
            (Became::Superseded, None)
        }
        Resolution::Frame { .. } => (Became::Applied, None),
        Resolution::Record { .. } if written.fetched_instead => (
            Became::FetchRequested,
            Some("its repository was fetched since"),
        ),
        Resolution::Record { .. } if written.records > 0 => (Became::Applied, None),
        Resolution::TellAccount(_) | Resolution::TellRecord(_) if written.told_again => {
            (Became::ToldAgain, None)
        }
        Resolution::TellAccount(_) | Resolution::TellRecord(_) => {
            (Became::Superseded, Some("its row is gone"))
        }
        Resolution::Record { .. } => (Became::Superseded, None),
    }
}

/// Keeps a letter, and says why.
async fn keep(
    run: &Run<'_>,
    bulk: &BulkLetters,
    progress: &LetterProgress,
    letter: &WholeLetter,
    kept: &Kept,
) -> Result<LetterProgress, CommandError> {
    let id = letter.row.id;
    let (became, why) = match kept {
        Kept::Impossible(why) => (Became::Impossible, Some((*why).to_owned())),
        Kept::Refused(error) => (Became::Refused, Some(error.clone())),
        Kept::Undecided(error) => (Became::Undecided, Some(error.clone())),
        Kept::Unwanted => (Became::Unwanted, None),
    };
    let next = progress.with(id, became, why);
    match kept {
        Kept::Refused(error) if !bulk.dry_run => {
            let json = next.json();
            let store = &run.scope.store;
            store
                .keep_letter(&letter.row, error, (run.row.id, &json))
                .await?;
        }
        _ => note(run, &next).await?,
    }
    Ok(next)
}
