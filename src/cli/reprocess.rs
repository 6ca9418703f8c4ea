//! `reprocess`: judges the stored records again, without a worker.

use anyhow::bail;
use clap::{ArgAction, Args};
use jiff::Timestamp;

use huddle_firehose::atproto::pattern::{Pattern, PatternError};
use huddle_firehose::atproto::syntax::{Did, SyntaxError};
use huddle_firehose::config::Config;
use huddle_firehose::repo::reprocess::{Place, Progress, Reprocessing};
use huddle_firehose::source::process::records::Rules;
use huddle_firehose::store::rejudge_store::Selection;
use huddle_firehose::store::sqlite::SqliteStore;
use huddle_firehose::worker;

use super::progress::ProgressLine;
use super::signals::StopSignals;
use super::{Configuration, database, print, runtime, time};

/// Steps between two lines of progress where the output is not a terminal.
const SLOW_LINES: u32 = 20;

/// Judge stored records again, after a change of lexicons, policies or the program
///
/// Makes the tables say what follows, without the network. What was judged by the rules in force is left
/// as it is, except with --all. It goes on where it was broken off. Stop the worker before.
#[derive(Args, Debug)]
pub(crate) struct Reprocess {
    /// Records of these collections: an NSID, or a prefix such as com.huddle.*
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    collection: Option<Pattern>,
    /// Records of this account
    #[arg(long, value_name = "DID", value_parser = did)]
    did: Option<Did>,
    /// Records that were indexed since then: a date, or a time such as 2026-07-04T14:38:07Z
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    since: Option<Timestamp>,
    /// Records that are known to be invalid: flagged ones, and refused ones in dead letters
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value_t = false, hide_default_value = true)]
    invalid: bool,
    /// All records, and write them also where they were judged by the rules in force
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value_t = false, hide_default_value = true)]
    all: bool,
    /// Only count what would change
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value_t = false, hide_default_value = true)]
    dry_run: bool,
    #[command(flatten)]
    configuration: Configuration,
}

impl Reprocess {
    pub(crate) fn execute(&self) -> anyhow::Result<()> {
        let reprocessing = self.reprocessing()?;
        let config = self.configuration.load_and_log_with_lexicons()?;
        let told = runtime()?.block_on(run(&config, &reprocessing))?;
        Ok(print(&told)?)
    }

    fn reprocessing(&self) -> anyhow::Result<Reprocessing> {
        let selection = Selection {
            collection: self.collection.clone(),
            did: self.did.clone(),
            since: self.since,
            is_invalid_only: self.invalid,
        };
        if selection == Selection::default() && !self.all {
            bail!("name what to judge again: --collection, --did, --since, --invalid or --all");
        }
        Ok(Reprocessing {
            selection,
            is_forced: self.all,
            is_dry_run: self.dry_run,
        })
    }
}

async fn run(config: &Config, reprocessing: &Reprocessing) -> anyhow::Result<String> {
    let options: worker::Options = config.into();
    let lexicons = worker::lexicons(&options)?;
    let source = worker::source(&options)?;
    let mut signals = StopSignals::listen()?;
    let (store, _lock) = database::open_to_write(config, "reprocess").await?;
    if !reprocessing.is_dry_run {
        worker::make_views(&store, &lexicons.views).await?;
    }
    let options = worker::in_force(options, &store).await?;
    let rules = worker::rules_with(&options, source.as_ref(), lexicons.schemas);
    let key = key_of(reprocessing, &rules);
    let mut progress = begin(&store, reprocessing, &key).await?;
    let line = ProgressLine::new();
    let mut steps = 0;
    while progress.at != Place::Over {
        tokio::select! {
            biased;
            signal = signals.next() => {
                line.leave().await;
                return Ok(format!("stopped by {signal}; the same command goes on from here\n"));
            }
            done = reprocessing.step(&store, &rules, &mut progress) => done?,
        }
        if !reprocessing.is_dry_run {
            keep(&store, &key, &progress).await?;
        }
        if line.is_rewritten() || steps % SLOW_LINES == 0 {
            line.show(&format!("{} rows looked at", progress.counts.looked_at))
                .await;
        }
        steps += 1;
    }
    line.leave().await;
    let would = match reprocessing.is_dry_run {
        true => "nothing was written; it would be: ",
        false => "",
    };
    Ok(format!("{would}{}\n", progress.counts.told()))
}

/// Names the selection, and the rules by which it is judged. With others, it begins anew.
fn key_of(reprocessing: &Reprocessing, rules: &Rules) -> String {
    let key = serde_json::json!({
        "selection": reprocessing.selection,
        "is_forced": reprocessing.is_forced,
        "rules": rules.digest().stored(),
    });
    key.to_string()
}

async fn begin(
    store: &SqliteStore,
    reprocessing: &Reprocessing,
    key: &str,
) -> anyhow::Result<Progress> {
    if reprocessing.is_dry_run {
        return Ok(Progress::default());
    }
    let known = store.reprocessing(key).await?;
    let known = known.and_then(|json| serde_json::from_str(&json).ok());
    if known.is_some() {
        tracing::info!("going on where the last one was broken off");
    }
    Ok(known.unwrap_or_default())
}

async fn keep(store: &SqliteStore, key: &str, progress: &Progress) -> anyhow::Result<()> {
    let json = match progress.at {
        Place::Over => None,
        Place::Records(_) | Place::DeadLetters(_) => Some(serde_json::to_string(progress)?),
    };
    Ok(store.note_reprocessing(key, json.as_deref()).await?)
}

fn pattern(text: &str) -> Result<Pattern, PatternError> {
    text.parse()
}

fn did(text: &str) -> Result<Did, SyntaxError> {
    Did::parse(text)
}
