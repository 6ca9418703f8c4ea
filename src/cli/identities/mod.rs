//! `identities import`: fills the stored identities from the export of a PLC directory.

mod file;
mod pages;

use std::path::Path;

use anyhow::Context;
use clap::{ArgAction, Subcommand};
use url::Url;

use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::config::Config;
use huddle_firehose::identity::export::ExportLine;
use huddle_firehose::identity::import::Import;
use huddle_firehose::store::repo_store::RepoStore;
use huddle_firehose::store::sqlite::{ImportProgress, SqliteStore};

use super::{Configuration, database, print, runtime};

/// Changes that are written in one transaction.
const PER_TRANSACTION: usize = 5000;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Fill the stored identities from the export of a PLC directory
    ///
    /// It saves the worker's look-ups. Accounts that are tracked come first, others get the room that
    /// the setting `identity_cache` leaves. An import that was interrupted, or a later one of the same
    /// source, goes on where the last one ended. It is refused while a worker runs.
    Import {
        /// A file with the JSON lines of a directory's `/export`, or the URL of a directory that has it
        #[arg(value_name = "FILE|URL")]
        source: String,
        /// Read it from its beginning
        #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
              default_missing_value = "true", default_value_t = false, hide_default_value = true)]
        anew: bool,
        #[command(flatten)]
        configuration: Configuration,
    },
}

impl Command {
    pub(crate) fn execute(&self) -> anyhow::Result<()> {
        let Self::Import {
            source,
            anew,
            configuration,
        } = self;
        let config = configuration.load_and_log()?;
        runtime()?.block_on(import(&config, source, *anew))
    }
}

/// An import under way.
struct Importing {
    store: SqliteStore,
    /// The name under which the progress is kept.
    source: String,
    import: Import,
    progress: ImportProgress,
}

async fn import(config: &Config, source: &str, anew: bool) -> anyhow::Result<()> {
    let url = Url::parse(source).ok();
    let url = url.filter(|url| matches!(url.scheme(), "http" | "https"));
    let name = match &url {
        Some(url) => pages::export_url(url).to_string(),
        None => file::name(Path::new(source))?,
    };
    let (store, _lock) = database::open_to_write(config, "identities import").await?;
    let mut importing = Importing::begin(store, name, config.identity_cache, anew).await?;
    let began_at = importing.progress.lines;
    if began_at > 0 {
        print(&format!(
            "{began_at} lines were read before; reading on from there\n"
        ))?;
    }
    let read = match url {
        Some(url) => pages::read(&mut importing, &url, config).await,
        None => file::read(&mut importing, Path::new(source)).await,
    };
    let counts = importing.import.counts();
    print(&format!(
        "{} lines read: {} nullified, {} older than what was known, {} without room\n",
        counts.lines, counts.nullified, counts.known, counts.without_room
    ))?;
    read?;
    let as_of = importing.progress.as_of;
    let finished = importing.store.finish_import(as_of, config.identity_cache);
    let (identities, tracked) = finished.await?;
    print(&format!(
        "{identities} identities are stored, {tracked} of them of tracked accounts\n"
    ))?;
    Ok(())
}

impl Importing {
    async fn begin(
        store: SqliteStore,
        source: String,
        capacity: usize,
        anew: bool,
    ) -> anyhow::Result<Self> {
        let before = store.import_progress(&source).await?;
        let tracked = store.tracked().await?;
        let tracked = tracked.iter().filter_map(|did| Did::parse(did).ok());
        let import = Import::new(capacity, store.identity_times().await?, tracked);
        Ok(Self {
            progress: before.filter(|_| !anew).unwrap_or_default(),
            store,
            source,
            import,
        })
    }

    /// Takes a line.
    fn take(&mut self, line: ExportLine) {
        self.progress.lines += 1;
        self.import.take(line);
    }

    /// Writes what was taken. The next part begins at `position`.
    async fn save(&mut self, position: String) -> anyhow::Result<()> {
        self.progress.position = position;
        self.progress.as_of = self.progress.as_of.max(self.import.newest());
        let changes = self.import.take_changes();
        self.store
            .save_import(&self.source, &self.progress, &changes)
            .await
            .context("cannot write identities; what was read before is kept")
    }
}

/// Parses a line of an export. `place` is the error's.
fn parse(text: &str, place: impl FnOnce() -> String) -> anyhow::Result<ExportLine> {
    ExportLine::parse(text).with_context(place)
}
