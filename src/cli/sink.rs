//! `sink`: the configured sinks.

use anyhow::bail;
use clap::{ArgGroup, Args, Subcommand};
use jiff::{SignedDuration, Timestamp};

use huddle_firehose::command::{Command as Given, FeedPlace};

use super::{Configuration, request, runtime, span};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Deliver nothing to a sink until it is resumed, also after a restart
    Pause(Act),
    /// Deliver to a sink again
    Resume(Act),
    /// Deliver again to a sink what was written behind a place of the change feed
    Rewind(Rewind),
    /// Deliver everything again to a sink, also to one that was removed
    Resync(Act),
    /// Deliver to a sink no more, although the configuration still has it
    Remove(Act),
}

#[derive(Args, Debug)]
pub(crate) struct Act {
    /// The name of the sink
    #[arg(value_name = "NAME")]
    name: String,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    configuration: Configuration,
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("place").required(true))]
pub(crate) struct Rewind {
    /// The last change that counts as delivered
    #[arg(long, value_name = "CHANGE", group = "place")]
    to: Option<u64>,
    /// How far: 90s, 30m, 1h or 2d
    #[arg(long, value_name = "TIME", value_parser = span::seconds, group = "place")]
    by: Option<u32>,
    #[command(flatten)]
    act: Act,
}

impl Command {
    pub(crate) fn execute(&self) -> anyhow::Result<()> {
        let (Self::Pause(act)
        | Self::Resume(act)
        | Self::Rewind(Rewind { act, .. })
        | Self::Resync(act)
        | Self::Remove(act)) = self;
        let config = act.configuration.load_and_log()?;
        let is_named = |sink: &&huddle_firehose::sink::SinkOptions| *sink.name == *act.name;
        if !config.sink.iter().any(|sink| is_named(&sink)) {
            bail!("no sink {:?} is configured", act.name);
        }
        let (name, command) = self.given(act.name.clone());
        runtime()?.block_on(async {
            let row = request::give(&config, name, command, act.reason.clone()).await?;
            request::show(&row)
        })
    }

    fn given(&self, sink: String) -> (&'static str, Given) {
        match self {
            Self::Pause(_) => ("sink pause", Given::SinkPause { sink }),
            Self::Resume(_) => ("sink resume", Given::SinkResume { sink }),
            Self::Rewind(rewind) => {
                let to = rewind.place();
                ("sink rewind", Given::SinkRewind { sink, to })
            }
            Self::Resync(_) => ("sink resync", Given::SinkResync { sink }),
            Self::Remove(_) => ("sink remove", Given::SinkRemove { sink }),
        }
    }
}

impl Rewind {
    fn place(&self) -> FeedPlace {
        let by = SignedDuration::from_secs(self.by.unwrap_or_default().into());
        let since = Timestamp::now().saturating_sub(by);
        match self.to {
            Some(change) => FeedPlace::Change(change),
            None => FeedPlace::Since(since.unwrap_or(Timestamp::MIN)),
        }
    }
}
