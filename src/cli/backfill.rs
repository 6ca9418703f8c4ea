//! `backfill`: finds what is older than the stream's window, in every repository that holds any.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use tokio::time::{MissedTickBehavior, interval};

use huddle_firehose::config::Config;
use huddle_firehose::lexicon::Schemas;
use huddle_firehose::store::repos::{BackfillCounts, RepoStore};
use huddle_firehose::store::sqlite::SqliteStore;
use huddle_firehose::worker;

use super::progress::{ProgressLine, bar};
use super::run::drain;
use super::signals::StopSignals;
use super::{Configuration, print, runtime};

const INTERVAL: Duration = Duration::from_millis(250);
/// Where each line is a new one.
const SLOW_INTERVAL: Duration = Duration::from_secs(5);

/// Find what is older than the stream's window, in every repository that holds any
///
/// Runs the worker until it is found, live events and all. Where it was broken off, it goes on.
#[derive(Args, Debug)]
pub(crate) struct Backfill {
    /// A worker runs on this database already: leave the work to it, and show how far it is
    #[arg(long)]
    beside: bool,
    #[command(flatten)]
    configuration: Configuration,
}

impl Backfill {
    pub(crate) fn execute(mut self) -> anyhow::Result<()> {
        self.configuration.settings.backfill = Some(true);
        let config = self.configuration.load_and_log()?;
        let runtime = runtime()?;
        let outcome = runtime.block_on(self.run(config));
        // A frame that hung its reader has left a thread behind, for which nobody is to wait.
        runtime.shutdown_background();
        outcome
    }

    async fn run(&self, config: Config) -> anyhow::Result<()> {
        let collections = worker::collections(&config.collections, &Schemas::embedded()?);
        if collections.is_empty() {
            bail!("collections: none of them is named in full or known, so none can be looked for");
        }
        let mut signals = StopSignals::listen()?;
        let store = Arc::new(SqliteStore::open(&config.database_url).await?);
        store.begin_discovery(&collections, true).await?;
        if self.beside {
            return tokio::select! {
                shown = show_until_over(store) => shown,
                _signal = signals.next() => Ok(()),
            };
        }
        let mut tree = worker::start((&config).into(), None).await?;
        tokio::select! {
            error = tree.failed() => return Err(error.into()),
            shown = show_until_over(store) => shown?,
            signal = signals.next() => tracing::info!(reason = signal, "draining"),
        }
        drain(tree, &mut signals).await
    }
}

/// Ends once everything was tried that was found.
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
        line.show(&progress(&counts))?;
        if counts.is_over() {
            line.leave()?;
            if counts.failing > 0 {
                print("those that failed are tried again whenever the worker runs\n")?;
            }
            return Ok(());
        }
    }
}

fn progress(counts: &BackfillCounts) -> String {
    let found = counts.fetched + counts.left;
    if found == 0 && counts.enumerating == 0 {
        return "every repository that holds any is known already".to_owned();
    }
    let search = match counts.enumerating {
        0 => String::new(),
        collections => format!(", looking for more in {collections} collections"),
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
    fn it_tells_what_is_fetched_what_failed_and_that_more_may_come() {
        let counts = BackfillCounts {
            enumerating: 2,
            fetched: 3,
            left: 1,
            failing: 1,
        };
        let line = progress(&counts);
        let end = "3 of 4 repositories fetched, 1 failed so far, looking for more in 2 collections";
        assert!(line.ends_with(end), "{line}");
        let nothing = progress(&BackfillCounts::default());
        assert_eq!(nothing, "every repository that holds any is known already");
    }
}
