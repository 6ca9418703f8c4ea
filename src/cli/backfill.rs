//! `backfill`: fetches records that are older than the stream's window.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use clap::{ArgAction, Args, Subcommand};
use tokio::time::{MissedTickBehavior, interval};

use huddle_firehose::command::{self, Asked, Command};
use huddle_firehose::config::Config;
use huddle_firehose::model::BackfillCounts;
use huddle_firehose::pipeline::interest::adopt;
use huddle_firehose::repo;
use huddle_firehose::store::plan::InterestSet;
use huddle_firehose::store::repo_store::{RepoStore, Search};
use huddle_firehose::store::sqlite::{Access, SqliteStore};
use huddle_firehose::telemetry::excerpt::shown;
use huddle_firehose::worker;

use super::progress::{ProgressLine, bar};
use super::run::drain;
use super::service::{Service, admin_door};
use super::signals::StopSignals;
use super::{Configuration, database, print, request, runtime};

const INTERVAL: Duration = Duration::from_millis(250);
/// How long one call does pieces of a change of the set of interest.
const ADOPTION_TIME: Duration = Duration::from_secs(60);
/// If the output is not a terminal, each update is a new line.
const SLOW_INTERVAL: Duration = Duration::from_secs(5);

/// Fetch the records that are older than the stream's window, from all repositories that have any
///
/// Runs the worker, including live events, until the backfill is complete. An interrupted backfill
/// continues where it stopped.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Backfill {
    #[command(subcommand)]
    act: Option<Act>,
    /// Leave the work to a worker that already runs on this database, and only show its progress
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value_t = false, hide_default_value = true)]
    pub(super) beside: bool,
    #[command(flatten)]
    configuration: Configuration,
}

/// Acts on the backfill of the worker that runs, or of the next one.
#[derive(Debug, Subcommand)]
enum Act {
    /// Have the worker find and fetch them, and return at once
    Start(Given),
    /// Search for no repositories, and fetch none because its past is wanted, until it is resumed
    Pause(Given),
    /// Go on with what was paused
    Resume(Given),
    /// End the searches, and forget the repositories that are not fetched yet
    Cancel(Given),
}

#[derive(Args, Debug)]
struct Given {
    /// Why, for the audit
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    configuration: Configuration,
}

impl Act {
    fn execute(&self) -> anyhow::Result<()> {
        let (name, command, given) = match self {
            Self::Start(given) => ("backfill start", Command::BackfillStart {}, given),
            Self::Pause(given) => ("backfill pause", Command::BackfillPause {}, given),
            Self::Resume(given) => ("backfill resume", Command::BackfillResume {}, given),
            Self::Cancel(given) => ("backfill cancel", Command::BackfillCancel {}, given),
        };
        let config = given.configuration.load_and_log()?;
        runtime()?.block_on(async {
            let row = request::give(&config, name, command, given.reason.clone()).await?;
            request::show(&row)
        })
    }
}

impl Backfill {
    pub(crate) fn execute(mut self) -> anyhow::Result<()> {
        if let Some(act) = &self.act {
            return act.execute();
        }
        self.configuration.settings.backfill = Some(true);
        let config = self.configuration.load_for_worker()?;
        let runtime = runtime()?;
        let outcome = runtime.block_on(self.run(config));
        // A frame that hung its decoder has left a blocked thread. Do not wait for it.
        runtime.shutdown_background();
        outcome
    }

    async fn run(&self, config: Config) -> anyhow::Result<()> {
        let options: worker::Options = (&config).into();
        let schemas = worker::lexicons(&options)?.schemas;
        let mut signals = StopSignals::listen()?;
        let (store, _lock) = match self.beside {
            true => (
                database::open_beside_worker(&config, "backfill --beside").await?,
                None,
            ),
            false => {
                let lock = database::lock(&config, "backfill").await?;
                let store = database::open(&config, Access::Create).await?;
                (store, Some(lock))
            }
        };
        let store = Arc::new(store);
        if !self.beside {
            command::adopt(&store, &options.kept()).await?;
        }
        let options = worker::in_force(options, &store).await?;
        let searches = searches(&worker::backfill(&options, &schemas))?;
        let source = worker::source(&options)?;
        let interest = worker::rules_with(&options, source.as_ref(), schemas).interest;
        let set = interest.set();
        if self.beside {
            check_in_force(&store, set).await?;
        } else {
            // The set comes into force first. So the search has those repositories fetched too that it voids.
            while !adopt(&*store, source.id(), set, ADOPTION_TIME)
                .await?
                .is_done
            {}
        }
        store.begin_discovery(&searches, true).await?;
        if self.beside {
            return tokio::select! {
                result = show_until_over(store) => result,
                _signal = signals.next() => Ok(()),
            };
        }
        let service = Service::new(&config, None, admin_door(&config)?)?;
        loop {
            let mut tree = service.start().await?;
            let asked = tree.asked();
            let ends = tokio::select! {
                error = tree.failed() => return Err(error.into()),
                result = show_until_over(store.clone()) => {
                    result?;
                    true
                }
                signal = signals.next() => {
                    tracing::info!(reason = signal, "draining");
                    true
                }
                asked = asked => asked == Asked::Drain,
            };
            drain(tree, &mut signals).await?;
            if ends {
                return Ok(());
            }
        }
    }
}

/// The searches of a backfill.
///
/// # Errors
/// If there are none.
fn searches(backfill: &repo::Backfill) -> anyhow::Result<Vec<Search>> {
    let searches = backfill.searches();
    if searches.is_empty() {
        bail!(
            "backfill needs full collection names; {} matches no known lexicon; name the \
             collections, or set backfill_discovery to repos or dids",
            backfill.unsearchable.join(", ")
        );
    }
    Ok(searches)
}

/// Checks that the worker on this database keeps the collections of the backfill.
async fn check_in_force(store: &SqliteStore, wanted: &InterestSet) -> anyhow::Result<()> {
    match store.interest_in_force().await? {
        Some(in_force) if !in_force.covers(wanted) => bail!(
            "the worker on this database does not keep all of that: it keeps {}; change its \
             configuration first",
            in_force.collections().join(", ")
        ),
        _ => Ok(()),
    }
}

/// Returns when an attempt was made for every repository that was found.
async fn show_until_over(store: Arc<SqliteStore>) -> anyhow::Result<()> {
    let line = ProgressLine::new();
    let mut ticks = interval(match line.is_rewritten() {
        true => INTERVAL,
        false => SLOW_INTERVAL,
    });
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let counts = store.repo_counts().await?.backfill;
        line.show(&progress(&counts)).await;
        if counts.is_over() {
            line.leave().await;
            if counts.failing > 0 {
                print("the worker retries the failed repositories whenever it runs\n")?;
            }
            for discovery in store.discoveries().await? {
                if let Some(error) = discovery.unsupported {
                    bail!(
                        "the search {} cannot be made: {}; set directory_url or \
                         backfill_discovery",
                        discovery.search.as_str(),
                        shown(&error)
                    );
                }
            }
            return Ok(());
        }
    }
}

fn progress(counts: &BackfillCounts) -> String {
    let found = counts.fetched + counts.left;
    if found == 0 && counts.discovering == 0 {
        return "all repositories with such records are known already".to_owned();
    }
    let search = match counts.discovering {
        0 => String::new(),
        collections => format!(", searching {collections} collections for more"),
    };
    let failing = match counts.failing {
        0 => String::new(),
        failing => format!(", {failing} failed so far"),
    };
    format!(
        "{} {} of {found} repositories fetched{failing}{search}",
        bar(counts.fetched, found),
        counts.fetched
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_shows_fetched_failed_and_searching() {
        let counts = BackfillCounts {
            discovering: 2,
            fetched: 3,
            left: 1,
            failing: 1,
        };
        let line = progress(&counts);
        let end = "3 of 4 repositories fetched, 1 failed so far, searching 2 collections for more";
        assert!(line.ends_with(end), "{line}");
        let nothing = progress(&BackfillCounts::default());
        assert_eq!(
            nothing,
            "all repositories with such records are known already"
        );
    }
}
