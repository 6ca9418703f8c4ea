//! `cursor show|set|reset`: the stored cursor of the configured source.

use clap::Subcommand;

use huddle_firehose::atproto::skim::SEQS;
use huddle_firehose::config::Config;
use huddle_firehose::model::{Gap, GapCause, Position, SourceId};
use huddle_firehose::store::Store;
use huddle_firehose::store::sqlite::{Options, SqliteStore};
use huddle_firehose::worker;

use super::{Configuration, print, runtime};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the cursor of each source
    Show(Configuration),
    /// Set the cursor of the configured source to a seq, and record a gap if it moves ahead
    ///
    /// The worker must not run at the same time, because it would continue from its own position.
    Set {
        /// The last seq that counts as applied
        #[arg(value_parser = clap::value_parser!(u64).range(..SEQS.end))]
        seq: u64,
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
            let options = Options {
                create_if_missing: false,
                ..Options::default()
            };
            let store = SqliteStore::open_with(&config.database_url, options).await?;
            match *self {
                Self::Show(_) => {}
                Self::Set { seq, .. } => put(&store, &config, seq).await?,
                Self::Reset(_) => put(&store, &config, 0).await?,
            }
            Ok(print(&table(&store).await?)?)
        })
    }
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
