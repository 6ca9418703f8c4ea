//! The commands, one file each.

mod config;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use huddle_firehose::config::{self as configuration, ConfigError, Loaded, Settings};

/// From the AT Protocol firehose to SQL tables, losing nothing
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show or check the configuration
    #[command(subcommand)]
    Config(config::Command),
}

impl Cli {
    /// Does what was asked.
    ///
    /// # Errors
    /// A [`ConfigError`] where the configuration is at fault; anything else is a failure of the
    /// command.
    pub(crate) fn execute(self) -> anyhow::Result<()> {
        match self.command {
            Command::Config(command) => command.execute(),
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
}
