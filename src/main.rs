//! The command line: parse, call, exit code.

mod cli;

use std::process::ExitCode;
use std::time::Duration;

use cli::{Cli, chain, print_error};
use huddle_firehose::config::ConfigError;
use huddle_firehose::telemetry::excerpt::shown_lines;
use huddle_firehose::telemetry::log;

/// The configuration or the command line is at fault; clap exits with the same number.
const BAD_USAGE: u8 = 2;

/// How long the end of the process waits for the last log lines. A reader that stands still does
/// not keep it.
const LOG_FLUSH: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let code = match Cli::from_arguments(std::env::args_os()).execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = shown_lines(&chain(&error));
            if !log::failed(&text) {
                print_error(&format!("error: {text}"));
            }
            if error.is::<ConfigError>() {
                ExitCode::from(BAD_USAGE)
            } else {
                ExitCode::FAILURE
            }
        }
    };
    log::flush(LOG_FLUSH);
    code
}
