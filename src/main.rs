//! The command line: parse, call, exit code.

mod cli;

use std::process::ExitCode;

use clap::Parser;

use cli::Cli;
use huddle_firehose::config::ConfigError;

/// The configuration or the command line is at fault; clap exits with the same number.
const BAD_USAGE: u8 = 2;

fn main() -> ExitCode {
    match Cli::parse().execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            if error.is::<ConfigError>() {
                ExitCode::from(BAD_USAGE)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}
