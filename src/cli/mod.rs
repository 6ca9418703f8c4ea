//! The commands, one file for each.

mod account;
mod admin;
mod backfill;
mod backup;
mod check;
mod commands;
mod config;
mod consume;
mod cursor;
mod database;
mod demo;
mod dlq;
mod doctor;
mod flags;
mod identities;
mod lexicon;
mod migrate;
mod mock_relay;
mod output;
mod process;
mod progress;
mod record;
mod repo;
mod reprocess;
mod request;
mod resync;
mod run;
mod service;
mod signals;
mod sink;
mod source;
mod span;
mod status;
mod time;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};

use huddle_firehose::config::{
    self as configuration, Config, ConfigError, Loaded, LogFormat, Settings,
};
use huddle_firehose::telemetry::log;

pub(crate) use output::{print, print_error};

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
    /// Make tokens for the HTTP interface that takes commands
    #[command(subcommand)]
    Admin(admin::Command),
    Backfill(Box<backfill::Backfill>),
    Backup(backup::BackupCommand),
    Check(check::Check),
    /// Show what was asked of the worker
    #[command(subcommand)]
    Commands(commands::Command),
    /// Show, check or change the configuration
    #[command(subcommand)]
    Config(config::Command),
    Consume(Box<consume::Consume>),
    /// Show or move the cursor
    #[command(subcommand)]
    Cursor(cursor::Command),
    /// Run the pipeline on a built-in recording, and show the resulting tables
    Demo(demo::Demo),
    /// Show dead letters, try them again, or discard them
    #[command(subcommand)]
    Dlq(dlq::Command),
    /// Look whether a worker with this configuration can do its work here, and say what to do
    Doctor(Configuration),
    Drain(process::Drain),
    /// Fill the stored identities
    #[command(subcommand)]
    Identities(identities::Command),
    /// Check, show and index the lexicons of collections
    #[command(subcommand)]
    Lexicon(lexicon::Command),
    LogLevel(process::LogLevel),
    /// Update the schema of the database
    Migrate(Configuration),
    /// Serve a recording like a relay
    MockRelay(mock_relay::MockRelayCommand),
    /// Write a source's raw frames to a file
    Record(record::Record),
    /// Show a repository, compare it with its host, or forget what is due for it
    #[command(subcommand)]
    Repo(repo::Command),
    Reprocess(reprocess::Reprocess),
    Resync(resync::ResyncCommand),
    /// Follow the source and keep the tables up to date
    Run(Configuration),
    /// Pause, resume, rewind, resync or remove a sink
    #[command(subcommand)]
    Sink(sink::Command),
    /// Pause, resume or reconnect the source
    #[command(subcommand)]
    Source(source::Command),
    /// Show the contents of the database: cursors, tables, gaps, dead letters
    Status(Configuration),
}

impl Cli {
    /// Parses the command line. Ends the process if it asks for help or is not valid.
    pub(crate) fn from_arguments(arguments: impl IntoIterator<Item = OsString>) -> Self {
        let command = flags::in_order_of_use(Self::command());
        let arguments = flags::join_booleans(&command, arguments);
        let mut matches = command.get_matches_from(arguments);
        Self::from_arg_matches_mut(&mut matches).unwrap_or_else(|error| error.exit())
    }

    /// Runs the command.
    ///
    /// # Errors
    /// A [`ConfigError`] if the configuration is not valid; any other error is a failure of the
    /// command.
    pub(crate) fn execute(self) -> anyhow::Result<()> {
        match self.command {
            Command::Account(command) => command.execute(),
            Command::Admin(command) => command.execute(),
            Command::Backfill(backfill) => backfill.execute(),
            Command::Backup(command) => command.execute(),
            Command::Check(command) => command.execute(),
            Command::Commands(command) => command.execute(),
            Command::Config(command) => command.execute(),
            Command::Consume(consume) => consume.execute(),
            Command::Cursor(command) => command.execute(),
            Command::Demo(demo) => demo.execute(),
            Command::Dlq(command) => command.execute(),
            Command::Doctor(configuration) => doctor::execute(&configuration),
            Command::Drain(drain) => drain.execute(),
            Command::Identities(command) => command.execute(),
            Command::Lexicon(command) => command.execute(),
            Command::LogLevel(command) => command.execute(),
            Command::Migrate(configuration) => migrate::execute(&configuration),
            Command::MockRelay(command) => command.execute(),
            Command::Record(command) => command.execute(),
            Command::Repo(command) => command.execute(),
            Command::Reprocess(command) => command.execute(),
            Command::Resync(command) => command.execute(),
            Command::Run(configuration) => run::execute(&configuration),
            Command::Sink(command) => command.execute(),
            Command::Source(command) => command.execute(),
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
        let (file, environment) = (self.config.as_deref(), std::env::vars_os());
        configuration::load_with_lexicons(file, environment, &self.settings)
    }

    /// Loads the configuration for a command that needs no lexicons, repairs them, or tells their
    /// problems by itself.
    fn load_without_lexicons(&self) -> Result<Loaded, ConfigError> {
        configuration::load(self.config.as_deref(), std::env::vars_os(), &self.settings)
    }

    /// Loads the configuration, and starts the log with its settings. A broken lexicon document stops
    /// neither a backup nor a request to a worker that runs.
    fn load_and_log(&self) -> anyhow::Result<Config> {
        Ok(self.start_log_of(self.load_without_lexicons())?.config)
    }

    /// The same for a command that judges records.
    fn load_and_log_with_lexicons(&self) -> anyhow::Result<Config> {
        Ok(self.start_log_of(self.load())?.config)
    }

    /// Loads the configuration of a worker: its warnings are logged.
    fn load_for_worker(&self) -> anyhow::Result<Config> {
        let Loaded {
            config, warnings, ..
        } = self.start_log_of(self.load())?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        Ok(config)
    }

    fn start_log_of(&self, loaded: Result<Loaded, ConfigError>) -> anyhow::Result<Loaded> {
        match loaded {
            Ok(loaded) => {
                start_log(loaded.config.log_format)?;
                Ok(loaded)
            }
            Err(error) => {
                let file = self.config.as_deref();
                let environment = std::env::vars_os();
                start_log(configuration::log_format(file, environment, &self.settings))?;
                Err(error.into())
            }
        }
    }
}

fn start_log(format: LogFormat) -> anyhow::Result<()> {
    let filter = std::env::var("RUST_LOG").ok();
    Ok(log::init(format, filter.as_deref())?)
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread().enable_all().build()
}

/// The error with its causes. A cause that the text before it tells already is left out.
pub(crate) fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text += &format!(": {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;
    use clap::CommandFactory;

    use super::*;

    fn parse(arguments: &[&str]) -> Cli {
        let command = flags::in_order_of_use(Cli::command());
        let arguments = ["huddle-firehose"]
            .iter()
            .chain(arguments)
            .map(OsString::from);
        let arguments = flags::join_booleans(&command, arguments);
        let matches = command.try_get_matches_from(arguments).unwrap();
        Cli::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn the_commands_are_consistent() {
        flags::in_order_of_use(Cli::command()).debug_assert();
    }

    #[test]
    fn every_boolean_takes_its_value_in_three_ways() {
        for (arguments, value) in [
            (&["backfill", "--beside"][..], true),
            (&["backfill", "--beside", "true"], true),
            (&["backfill", "--beside=true"], true),
            (&["backfill", "--beside", "false"], false),
            (&["backfill", "--beside=false"], false),
            (&["backfill"], false),
        ] {
            let Command::Backfill(backfill) = parse(arguments).command else {
                panic!("{arguments:?}");
            };
            assert_eq!(backfill.beside, value, "{arguments:?}");
        }
        for (arguments, value) in [
            (&["run", "--allow-private-addresses"][..], Some(true)),
            (&["run", "--allow-private-addresses", "false"], Some(false)),
            (&["run", "--allow-private-addresses=true"], Some(true)),
            (&["run"], None),
        ] {
            let Command::Run(configuration) = parse(arguments).command else {
                panic!("{arguments:?}");
            };
            assert_eq!(configuration.settings.allow_private_addresses, value);
        }
        let Command::Account(_) = parse(&["account", "--active", "did:plc:ann"]).command else {
            panic!("the DID is not the value of --active");
        };
    }

    #[test]
    fn every_command_takes_the_database_by_both_flags() {
        for command in [
            &["account", "did:plc:ann"][..],
            &["admin", "token", "new", "ann", "--role", "read"],
            &["backfill"],
            &["backfill", "cancel"],
            &["backfill", "pause"],
            &["backfill", "resume"],
            &["backfill", "start"],
            &["backup", "copy.db"],
            &["check"],
            &["commands", "audit"],
            &["commands", "list"],
            &["config", "check"],
            &["config", "print"],
            &["config", "reset", "collections"],
            &["config", "set", "collections", "*"],
            &["consume", "--from", "nats://a", "--into", "postgres://b/c"],
            &["cursor", "show"],
            &["cursor", "set", "5"],
            &["cursor", "reset"],
            &["cursor", "rewind", "--by", "1h"],
            &["demo"],
            &["dlq", "discard", "7"],
            &["dlq", "export"],
            &["dlq", "groups"],
            &["dlq", "list"],
            &["dlq", "retry", "--all"],
            &["dlq", "show", "7"],
            &["doctor"],
            &["drain"],
            &["identities", "import", "export.jsonl"],
            &["lexicon", "check"],
            &["lexicon", "fetch", "com.example.note"],
            &["lexicon", "index", "com.example.note", "title"],
            &["lexicon", "show", "com.example.note"],
            &["log-level", "debug"],
            &["migrate"],
            &["mock-relay", "--file", "x"],
            &["record", "--out", "x"],
            &["repo", "recheck", "did:plc:ann"],
            &["repo", "show", "ann.example"],
            &["repo", "untrack", "did:plc:ann"],
            &["reprocess", "--all"],
            &["resync", "did:plc:ann"],
            &["run"],
            &["source", "pause"],
            &["source", "reconnect"],
            &["source", "resume"],
            &["status"],
        ] {
            for flag in ["--database", "--database-url"] {
                parse(&[command, &[flag, "huddle.db"]].concat());
            }
        }
    }

    #[test]
    fn the_help_of_a_small_command_begins_with_what_it_uses() {
        let command = flags::in_order_of_use(Cli::command());
        let mut status = command.find_subcommand("status").unwrap().clone();
        let help = status.render_help().to_string();
        let at = |text: &str| help.find(text).unwrap_or_else(|| panic!("{text}: {help}"));
        assert!(at("--database") < at("--config"), "{help}");
        assert!(at("--config") < at("--source-url"), "{help}");
    }

    #[test]
    fn an_error_tells_each_cause_once() {
        let error = anyhow!("disk full").context("the database is unavailable: disk full");
        let error = error.context("cannot open huddle.db");
        assert_eq!(
            chain(&error),
            "cannot open huddle.db: the database is unavailable: disk full"
        );
    }
}
