//! The commands, one file each.

mod backfill;
mod config;
mod cursor;
mod demo;
mod migrate;
mod mock_relay;
mod progress;
mod record;
mod resync;
mod run;
mod signals;
mod status;

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};

use huddle_firehose::config::{self as configuration, Config, ConfigError, Loaded, Settings};
use huddle_firehose::telemetry::log;

/// From the AT Protocol firehose to SQL tables, losing nothing
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Backfill(backfill::Backfill),
    /// Show or check the configuration
    #[command(subcommand)]
    Config(config::Command),
    /// Show or move the cursor
    #[command(subcommand)]
    Cursor(cursor::Command),
    /// Run the real pipeline on a recording that is built in, and show what it made
    Demo(demo::Demo),
    /// Bring the database's schema up to date
    Migrate(Configuration),
    /// Serve a recording as a relay would
    MockRelay(mock_relay::MockRelayCommand),
    /// Write a source's raw frames to a file
    Record(record::Record),
    Resync(resync::ResyncCommand),
    /// Follow the source and keep the tables up to date
    Run(Configuration),
    /// Show what the database holds: cursors, tables, gaps, dead letters
    Status(Configuration),
}

impl Cli {
    /// Does what was asked.
    ///
    /// # Errors
    /// A [`ConfigError`] where the configuration is at fault; anything else is a failure of the
    /// command.
    pub(crate) fn execute(self) -> anyhow::Result<()> {
        match self.command {
            Command::Backfill(backfill) => backfill.execute(),
            Command::Config(command) => command.execute(),
            Command::Cursor(command) => command.execute(),
            Command::Demo(demo) => demo.execute(),
            Command::Migrate(configuration) => migrate::execute(&configuration),
            Command::MockRelay(command) => command.execute(),
            Command::Record(command) => command.execute(),
            Command::Resync(command) => command.execute(),
            Command::Run(configuration) => run::execute(&configuration),
            Command::Status(configuration) => status::execute(&configuration),
        }
    }
}

/// What every command takes that reads the configuration.
#[derive(Args, Debug)]
#[command(
    after_help = "Each setting is also a key of the TOML file (batch_bytes) and a variable \
                  (HUDDLE_BATCH_BYTES).\nA flag outranks the variable, which outranks the file. \
                  `config print` shows what is in force, and from where."
)]
struct Configuration {
    /// The TOML file with the settings [variable: HUDDLE_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    settings: Settings,
}

impl Configuration {
    fn load(&self) -> Result<Loaded, ConfigError> {
        configuration::load(self.config.as_deref(), std::env::vars_os(), &self.settings)
    }

    /// Loads the configuration, has what is logged written as it says, and logs its warnings.
    fn load_and_log(&self) -> anyhow::Result<Config> {
        let Loaded {
            config, warnings, ..
        } = self.load()?;
        start_log(&config)?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        Ok(config)
    }
}

fn start_log(config: &Config) -> anyhow::Result<()> {
    Ok(log::init(
        config.log_format,
        std::env::var("RUST_LOG").ok().as_deref(),
    )?)
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread().enable_all().build()
}

/// Writes `text` for a person or a pipe. Not `print!`, which panics where the reader has gone
/// (`config print | head -1`).
fn print(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}
