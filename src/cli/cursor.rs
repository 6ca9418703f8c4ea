//! `cursor show|set|reset`: the stored cursor of the configured source.

use anyhow::bail;
use clap::{ArgAction, Subcommand};

use huddle_firehose::atproto::skim::SEQS;
use huddle_firehose::config::Config;
use huddle_firehose::model::{Gap, GapCause, Position, SourceId};
use huddle_firehose::store::Store;
use huddle_firehose::store::sqlite::SqliteStore;
use huddle_firehose::worker;

use super::{Configuration, database, print, runtime};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the cursor of each source
    Show(Configuration),
    /// Set the cursor of the configured source to a seq, and record a gap if it moves ahead
    ///
    /// It is refused while a worker runs, because the worker would continue from its own position.
    Set {
        /// The last seq that counts as applied
        #[arg(value_parser = clap::value_parser!(u64).range(..SEQS.end))]
        seq: u64,
        /// Also if the database has cursors, but none of this source
        #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
              default_missing_value = "true", default_value_t = false, hide_default_value = true)]
        new_source: bool,
        #[command(flatten)]
        configuration: Configuration,
    },
    /// Set the cursor back to the oldest event that the configured source still holds
    Reset(Configuration),
}

impl Command {
    pub(crate) fn execute(&self) -> anyhow::Result<()> {
        let (Self::Show(configuration)
        | Self::Set { configuration, .. }
        | Self::Reset(configuration)) = self;
        let config = configuration.load_and_log()?;
        runtime()?.block_on(async {
            let (command, seq, may_be_new) = match *self {
                Self::Show(_) => {
                    let store = database::open_to_read(&config).await?;
                    return Ok(print(&table(&store).await?)?);
                }
                Self::Set {
                    seq, new_source, ..
                } => ("cursor set", seq, new_source),
                Self::Reset(_) => ("cursor reset", 0, false),
            };
            let (store, _lock) = database::open_to_write(&config, command).await?;
            if !may_be_new {
                check_source(&store, &config, command).await?;
            }
            put(&store, &config, seq).await?;
            Ok(print(&table(&store).await?)?)
        })
    }
}

/// Refuses a source that the database does not know although it knows others: it is more probably
/// a forgotten `--source-url` than a new source.
async fn check_source(store: &SqliteStore, config: &Config, command: &str) -> anyhow::Result<()> {
    let source: SourceId = worker::source(&config.into())?.id().clone();
    let rows = store.cursors().await?;
    let known: Vec<&str> = rows
        .iter()
        .filter_map(|row| row.source.as_deref())
        .collect();
    if known.is_empty() || known.contains(&source.as_str()) {
        return Ok(());
    }
    let hint = match command {
        "cursor set" => "; set source_url to one of them, or add --new-source",
        _ => "; set source_url to one of them",
    };
    bail!(
        "unknown source {source}: the database has cursors of {}{hint}",
        known.join(", ")
    )
}

/// Moving the cursor ahead skips events, so it records a gap. Moving it back only repeats events.
async fn put(store: &SqliteStore, config: &Config, seq: u64) -> anyhow::Result<()> {
    let source: SourceId = worker::source(&config.into())?.id().clone();
    let from = store.load_cursor(&source).await?.position;
    let gap = (seq > from.seq).then_some(Gap {
        cause: GapCause::CursorMoved,
        from_seq: from.seq,
        from_time: from.time,
        to_seq: Some(seq),
        to_time: None,
    });
    let position = Position { seq, time: None };
    Ok(store.move_cursor(&source, position, gap.as_ref()).await?)
}

async fn table(store: &SqliteStore) -> anyhow::Result<String> {
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
