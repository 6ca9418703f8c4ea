//! The commands, one file for each.

mod account;
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

/// Indexes records from the AT Protocol firehose into SQL tables, without losing any
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Account(account::AccountCommand),
    Backfill(backfill::Backfill),
    /// Show or check the configuration
    #[command(subcommand)]
    Config(config::Command),
    /// Show or move the cursor
    #[command(subcommand)]
    Cursor(cursor::Command),
    /// Run the pipeline on a built-in recording, and show the resulting tables
    Demo(demo::Demo),
    /// Update the schema of the database
    Migrate(Configuration),
    /// Serve a recording like a relay
    MockRelay(mock_relay::MockRelayCommand),
    /// Write a source's raw frames to a file
    Record(record::Record),
    Resync(resync::ResyncCommand),
    /// Follow the source and keep the tables up to date
    Run(Configuration),
    /// Show the contents of the database: cursors, tables, gaps, dead letters
    Status(Configuration),
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// A [`ConfigError`] if the configuration is not valid; any other error is a failure of the
    /// command.
    pub(crate) fn execute(self) -> anyhow::Result<()> {
        match self.command {
            Command::Account(command) => command.execute(),
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

/// The options of every command that reads the configuration.
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

    /// Loads the configuration, starts the log with its settings, and logs its warnings.
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

/// Writes `text` to standard output. `print!` would panic if the reader is gone (`config print |
/// head -1`).
fn print(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}
