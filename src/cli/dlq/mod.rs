//! `dlq`: dead letters.

mod bulk;
mod export;
mod filter;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde::Serialize;

use huddle_firehose::telemetry::excerpt::shown_json;

use self::bulk::Bulk;
use self::export::Export;
use self::filter::Filter;
use crate::cli::{Configuration, database, print, runtime};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Delete letters
    Discard(Box<Bulk>),
    /// Write letters with their bytes, one JSON object a line
    Export(Box<Export>),
    /// Show letters by what is wrong with them: first, last, how many, and the newest as a sample
    Groups(Box<Groups>),
    /// Show letters, the newest first
    List(Box<List>),
    /// Try letters again, by the rules in force
    ///
    /// A record is judged again. A frame is decoded and verified again, which takes a worker that runs:
    /// without one it waits for the next. Where a letter lacks what it takes, or its repository has moved
    /// on, the repository is fetched. What was resolved is no letter any more.
    Retry(Box<Bulk>),
    /// Show one letter
    Show {
        /// The id of the letter
        id: i64,
        #[command(flatten)]
        configuration: Box<Configuration>,
    },
}

#[derive(Args, Debug)]
pub(crate) struct List {
    #[command(flatten)]
    filter: Filter,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    #[command(flatten)]
    configuration: Configuration,
}

#[derive(Args, Debug)]
pub(crate) struct Groups {
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    configuration: Configuration,
}

impl Command {
    pub(crate) fn execute(&self) -> anyhow::Result<()> {
        match self {
            Self::Discard(bulk) => bulk.discard(),
            Self::Export(export) => export.execute(),
            Self::Groups(groups) => groups.execute(),
            Self::List(list) => list.execute(),
            Self::Retry(bulk) => bulk.retry(),
            Self::Show { id, configuration } => show(*id, configuration),
        }
    }
}

impl List {
    fn execute(&self) -> anyhow::Result<()> {
        let config = self.configuration.load_and_log()?;
        let rows = runtime()?.block_on(async {
            let store = database::open_to_read(&config).await?;
            let filter = self.filter.checked(&store).await?;
            anyhow::Ok(store.dead_letters(&filter, None, self.limit).await?)
        })?;
        print_json(&rows)
    }
}

impl Groups {
    fn execute(&self) -> anyhow::Result<()> {
        let config = self.configuration.load_and_log()?;
        let groups = runtime()?.block_on(async {
            let store = database::open_to_read(&config).await?;
            let filter = self.filter.checked(&store).await?;
            anyhow::Ok(store.letter_groups(&filter).await?)
        })?;
        print_json(&groups)
    }
}

fn show(id: i64, configuration: &Configuration) -> anyhow::Result<()> {
    let config = configuration.load_and_log()?;
    let letter = runtime()?.block_on(async {
        let store = database::open_to_read(&config).await?;
        let letter = store.dead_letter(id).await?;
        letter.with_context(|| format!("there is no dead letter {id}"))
    })?;
    print_json(&letter.json())
}

fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    Ok(print(&(shown_json(&text) + "\n"))?)
}
