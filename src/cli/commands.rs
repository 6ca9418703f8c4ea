//! `commands`: what was asked of the worker, and what became of it.

use clap::{Args, Subcommand};

use huddle_firehose::telemetry::excerpt::shown_json;

use super::{Configuration, database, print, runtime};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the last commands, the newest first
    List(List),
    /// Show the last rows of the audit, the newest first
    Audit(List),
}

#[derive(Args, Debug)]
pub(crate) struct List {
    /// How many
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    #[command(flatten)]
    configuration: Configuration,
}

impl Command {
    pub(crate) fn execute(&self) -> anyhow::Result<()> {
        let (Self::List(list) | Self::Audit(list)) = self;
        let config = list.configuration.load_and_log()?;
        let text = runtime()?.block_on(async {
            let store = database::open_to_read(&config).await?;
            let rows = match self {
                Self::List(_) => serde_json::to_value(store.commands(None, list.limit).await?)?,
                Self::Audit(_) => serde_json::to_value(store.audit_rows(None, list.limit).await?)?,
            };
            anyhow::Ok(serde_json::to_string_pretty(&rows)?)
        })?;
        Ok(print(&(shown_json(&text) + "\n"))?)
    }
}
