//! `demo`: the real pipeline, from a relay in this process to a SQLite file.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use clap::Args;
use jiff::Timestamp;
use tokio::time::{MissedTickBehavior, interval};

use huddle_firehose::config::{Config, Layers, LogFormat, Settings, Verify, check_lexicons};
use huddle_firehose::store::sqlite::{SqliteStore, path_of};
use huddle_firehose::telemetry::log;
use huddle_firehose::telemetry::status::{SinkStatus, SourceStatus, Status, StatusBoard};
use huddle_firehose::testing::mock_relay::{MockRelay, Options};
use huddle_firehose::testing::recording::Recording;
use huddle_firehose::worker;

use super::progress::ProgressLine;
use super::{database, print, runtime};

/// The frames of the testbed's reference server during offers and bookings, made with `record`.
const RECORDING: &[u8] = include_bytes!("../../recordings/testbed.bin");
/// The recording is complete after this long without a frame.
const SILENCE: Duration = Duration::from_secs(1);
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// Run the pipeline on a built-in recording, and show the resulting tables
#[derive(Args, Debug)]
pub(crate) struct Demo {
    /// The database to create: a path, or sqlite://PATH [default: a new file in the folder for
    /// temporary files]
    #[arg(long, visible_alias = "database", value_name = "PATH")]
    database_url: Option<String>,
    /// Events per second
    #[arg(long, value_name = "EVENTS", default_value = "120")]
    rate: NonZeroU32,
    /// Collections to keep: an NSID, or a prefix such as com.huddle.*
    #[arg(long, value_name = "PATTERN,…", value_delimiter = ',')]
    collections: Option<Vec<String>>,
    /// Folder with lexicon documents: each collection that they describe has a view
    #[arg(long, value_name = "DIR")]
    lexicons: Option<PathBuf>,
    /// A sink that follows the tables: [NAME=]URL. May be repeated
    #[arg(long, value_name = "[NAME=]URL")]
    sink: Option<Vec<String>>,
}

impl Demo {
    pub(crate) fn execute(&self) -> anyhow::Result<()> {
        log::init(LogFormat::Text, Some("warn"))?;
        let runtime = runtime()?;
        let outcome = runtime.block_on(self.run());
        // A reader of the progress that stands still does not keep the process.
        runtime.shutdown_background();
        outcome
    }

    async fn run(&self) -> anyhow::Result<()> {
        let frames: Vec<Bytes> =
            Recording::of(Bytes::from_static(RECORDING)).collect::<Result<_, _>>()?;
        let total = frames.len();
        let options = Options {
            rate: Some(self.rate),
            ..Options::default()
        };
        let relay = MockRelay::start(frames, options).await?;
        let config = self.config(&relay)?;
        let database = config.database_url.clone();
        let file = path_of(&database)?;
        if file.exists() {
            bail!(
                "{} exists already; the demo creates a new database",
                file.display()
            );
        }
        let _lock = database::lock(&config, "demo").await?;
        print(&format!(
            "{total} frames from {} into {database}\n",
            config.source_url
        ))?;
        let mut tree = worker::start((&config).into(), None).await?;
        let silence = tree.silence(SILENCE);
        let status = tree.context().status.clone();
        tokio::select! {
            error = tree.failed() => return Err(error.into()),
            () = silence => {}
            () = show_progress(status) => {}
        }
        let status = tree.context().status.clone();
        tree.drain().await?;
        relay.stop().await;
        print("\n")?;
        print(&summary(&database).await?)?;
        print(&sinks(&status.snapshot()))?;
        Ok(())
    }

    fn config(&self, relay: &MockRelay) -> anyhow::Result<Config> {
        let database_url = self.database_url.clone().unwrap_or_else(|| {
            let name = format!("huddle-demo-{}.db", std::process::id());
            std::env::temp_dir().join(name).display().to_string()
        });
        let mut layers = Layers::new();
        layers.flags(&Settings {
            database_url: Some(database_url),
            collections: self.collections.clone(),
            lexicons: self.lexicons.clone(),
            sink: self.sink.clone(),
            ..Settings::default()
        });
        let loaded = layers.resolve()?;
        check_lexicons(&loaded)?;
        let mut config = loaded.config;
        config.source_url = relay.url().parse()?;
        // The demo makes no network requests, and the accounts that signed the recording do not
        // exist any more. So it cannot verify anything.
        config.verify = Verify::None;
        Ok(config)
    }
}

/// What each sink took.
fn sinks(status: &Status) -> String {
    let line = |(name, sink): (&String, &SinkStatus)| {
        format!(
            "The sink {name} took {} rows: {}\n",
            sink.delivered, sink.url
        )
    };
    status.sinks.iter().map(line).collect()
}

/// Does not return.
async fn show_progress(status: StatusBoard) {
    let line = ProgressLine::new();
    let mut ticks = interval(PROGRESS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut events_before = 0;
    loop {
        ticks.tick().await;
        let status = status.snapshot();
        let source = status.sources.values().next().cloned().unwrap_or_default();
        let rate = (source.events - events_before) as f64 / PROGRESS_INTERVAL.as_secs_f64();
        events_before = source.events;
        line.show(&progress_line(&source, status.queue.applied, rate))
            .await;
    }
}

fn progress_line(source: &SourceStatus, applied: u64, rate: f64) -> String {
    let lag = source
        .lag_seconds(None, Timestamp::now())
        .map_or_else(|| "-".to_owned(), |lag| format!("{lag:.1} s"));
    format!(
        "{:>5} events ({rate:>4.0}/s)  {:>4} matched  {applied:>4} applied  lag {lag}",
        source.events, source.matched
    )
}

async fn summary(database_url: &str) -> anyhow::Result<String> {
    let store = SqliteStore::open(database_url).await?;
    let counts = store.counts().await?;
    let mut text = format!("{:<28} {:>7} {:>8}\n", "collection", "records", "deleted");
    for row in store.collection_counts().await? {
        text += &format!(
            "{:<28} {:>7} {:>8}\n",
            row.collection, row.records, row.tombstones
        );
    }
    text += &format!("\n{:<28} {:>7}\n", "table", "rows");
    for (table, rows) in [
        ("offers_index", counts.offers),
        ("booking_requests", counts.booking_requests),
        ("active_booking_requests", counts.active_booking_requests),
        ("bookings", counts.bookings),
        ("accounts", counts.accounts),
        ("dead_letters", counts.dead_letters),
        ("gaps (open)", counts.open_gaps),
    ] {
        text += &format!("{table:<28} {rows:>7}\n");
    }
    let views = store.count_view_rows().await?;
    if !views.is_empty() {
        text += &format!("\n{:<28} {:>7}\n", "view", "rows");
    }
    for (view, rows) in &views {
        text += &format!("{view:<28} {rows:>7}\n");
    }
    let shown = views.first().map_or("offers_index", |(view, _)| view);
    let file = path_of(database_url)?;
    let file = file.display();
    text += &format!("\nThe database is {file}; try: sqlite3 {file} 'SELECT * FROM {shown}'\n");
    Ok(text)
}
