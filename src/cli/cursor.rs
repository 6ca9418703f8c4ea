//! `cursor show|set|reset|rewind`: the stored cursor of the configured source.

use clap::{ArgAction, Subcommand};

use huddle_firehose::atproto::skim::SEQS;
use huddle_firehose::command::{Command as Given, CursorSet};
use huddle_firehose::config::Config;
use huddle_firehose::model::{CommandRow, SourceId};
use huddle_firehose::store::sqlite::SqliteStore;
use huddle_firehose::telemetry::excerpt::shown;
use huddle_firehose::worker;

use super::{Configuration, database, print, print_error, request, runtime, span};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the cursor of each source
    Show(Configuration),
    /// Set the cursor of the configured source to a seq
    ///
    /// A worker that runs applies what it has read first, and goes on behind that seq.
    Set {
        /// The last seq that counts as applied
        #[arg(value_parser = clap::value_parser!(u64).range(..SEQS.end))]
        seq: u64,
        /// Leave out the events up to there, if it is ahead, and record the gap
        #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
              default_missing_value = "true", default_value_t = false, hide_default_value = true)]
        accept_gap: bool,
        /// Also if the database has cursors, but none of this source
        #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
              default_missing_value = "true", default_value_t = false, hide_default_value = true)]
        new_source: bool,
        /// Why, for the audit
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        configuration: Configuration,
    },
    /// Set the cursor back to the oldest event that the configured source still holds
    Reset {
        /// Why, for the audit
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        configuration: Configuration,
    },
    /// Set the cursor of the configured source back by a time, as the events' times tell
    Rewind {
        /// How far: 90s, 30m, 1h or 2d
        #[arg(long, value_name = "TIME", value_parser = span::seconds)]
        by: u32,
        /// Why, for the audit
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        configuration: Configuration,
    },
}

impl Command {
    pub(crate) fn execute(&self) -> anyhow::Result<()> {
        let (Self::Show(configuration)
        | Self::Set { configuration, .. }
        | Self::Reset { configuration, .. }
        | Self::Rewind { configuration, .. }) = self;
        let config = configuration.load_and_log()?;
        runtime()?.block_on(async {
            let source = worker::source(&(&config).into())?.id().clone();
            if let Some((name, command)) = self.given(source) {
                let row = request::give(&config, name, command, self.reason()).await?;
                tell(&row);
            }
            Ok(print(&table(&config).await?)?)
        })
    }

    fn reason(&self) -> Option<String> {
        match self {
            Self::Show(_) => None,
            Self::Set { reason, .. } | Self::Reset { reason, .. } | Self::Rewind { reason, .. } => {
                reason.clone()
            }
        }
    }

    /// The command to give; `None` to show only.
    fn given(&self, source: SourceId) -> Option<(&'static str, Given)> {
        match *self {
            Self::Show(_) => None,
            Self::Set {
                seq,
                accept_gap,
                new_source,
                ..
            } => Some((
                "cursor set",
                Given::CursorSet(CursorSet {
                    source,
                    seq,
                    accept_gap,
                    new_source,
                }),
            )),
            Self::Reset { .. } => Some(("cursor reset", Given::CursorReset { source })),
            Self::Rewind { by, .. } => {
                let by_seconds = by;
                let command = Given::CursorRewind { source, by_seconds };
                Some(("cursor rewind", command))
            }
        }
    }
}

/// Says what was done, and what the operator should know beside it. A worker that runs may have moved the cursor
/// on already.
fn tell(row: &CommandRow) {
    let Some(result) = &row.result else {
        return;
    };
    let seq = |name: &str| result[name]["seq"].as_u64().unwrap_or_default();
    print_error(&format!(
        "the cursor was moved from seq {} to seq {}",
        seq("from"),
        seq("to")
    ));
    if !result["gap"].is_null() {
        print_error("the events between them are left out; a gap is recorded");
    }
    if let Some(note) = result["note"].as_str() {
        print_error(&shown(note));
    }
}

async fn table(config: &Config) -> anyhow::Result<String> {
    let store: SqliteStore = database::open_to_read(config).await?;
    let mut text = String::new();
    for row in store.cursors().await? {
        let source = row.source.as_deref().unwrap_or("(no source yet)");
        let time = row
            .position
            .time
            .map_or_else(|| "-".to_owned(), |time| time.to_string());
        text += &format!("{source}\tseq {}\tevent time {time}\n", row.position.seq);
    }
    Ok(text)
}
