//! `source`: the connection of the configured source.

use clap::{Args, Subcommand};

use huddle_firehose::command::Command as Given;
use huddle_firehose::worker;

use super::{Configuration, request, runtime};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Read nothing from the configured source until it is resumed, also after a restart
    Pause(Act),
    /// Read from the configured source again
    Resume(Act),
    /// Dial the configured source anew
    Reconnect(Act),
}

#[derive(Args, Debug)]
pub(crate) struct Act {
    /// Why, for the audit
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    configuration: Configuration,
}

impl Command {
    pub(crate) fn execute(&self) -> anyhow::Result<()> {
        let (Self::Pause(act) | Self::Resume(act) | Self::Reconnect(act)) = self;
        let config = act.configuration.load_and_log()?;
        let source = worker::source(&(&config).into())?.id().clone();
        let (name, command) = match self {
            Self::Pause(_) => ("source pause", Given::SourcePause { source }),
            Self::Resume(_) => ("source resume", Given::SourceResume { source }),
            Self::Reconnect(_) => ("source reconnect", Given::SourceReconnect { source }),
        };
        runtime()?.block_on(async {
            let row = request::give(&config, name, command, act.reason.clone()).await?;
            request::show(&row)
        })
    }
}
