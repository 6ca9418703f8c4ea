//! `drain` and `log-level`: the process of the worker.

use clap::Args;

use huddle_firehose::command::Command;

use super::{Configuration, request, runtime, span};

/// Have the running worker apply what it has read, write the cursor, and end
#[derive(Args, Debug)]
pub(crate) struct Drain {
    /// Why, for the audit
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    configuration: Configuration,
}

impl Drain {
    pub(crate) fn execute(&self) -> anyhow::Result<()> {
        let config = self.configuration.load_and_log()?;
        runtime()?.block_on(async {
            let reason = self.reason.clone();
            let row = request::give(&config, "drain", Command::Drain {}, reason).await?;
            request::show(&row)
        })
    }
}

/// Change what the running worker logs, for a time
#[derive(Args, Debug)]
pub(crate) struct LogLevel {
    /// As in RUST_LOG: a level, or target=level,…
    #[arg(value_name = "FILTER")]
    filter: String,
    /// For how long: 90s, 30m, 1h
    #[arg(long = "for", value_name = "TIME", value_parser = span::seconds, default_value = "10m")]
    for_seconds: u32,
    #[command(flatten)]
    configuration: Configuration,
}

impl LogLevel {
    pub(crate) fn execute(&self) -> anyhow::Result<()> {
        let config = self.configuration.load_and_log()?;
        let command = Command::LogLevel {
            filter: self.filter.clone(),
            for_seconds: self.for_seconds,
        };
        runtime()?.block_on(async {
            let row = request::give(&config, "log-level", command, None).await?;
            request::show(&row)
        })
    }
}
