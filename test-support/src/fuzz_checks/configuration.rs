//! A configuration from file, environment and command line: it is valid, or every problem names its
//! keys. A printed configuration reads back as the same.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use clap::{Args, Command, FromArgMatches};
use huddle_firehose::config::{ConfigError, Layers, Settings};

/// A line of the input that begins with `HUDDLE_` is a variable, one that begins with `--` is an
/// argument; the others are the file.
pub fn check(input: &[u8]) {
    let mut file = Vec::new();
    let mut variables = Vec::new();
    let mut arguments = vec![OsString::from("huddle-firehose")];
    for line in input.split_inclusive(|byte| *byte == b'\n') {
        let text = OsStr::from_bytes(line.strip_suffix(b"\n").unwrap_or(line));
        if line.starts_with(b"HUDDLE_") {
            let mut parts = text.as_bytes().splitn(2, |byte| *byte == b'=');
            let mut part = || OsStr::from_bytes(parts.next().unwrap_or_default()).to_owned();
            variables.push((part(), part()));
        } else if line.starts_with(b"--") {
            arguments.push(text.to_owned());
        } else {
            file.extend(line);
        }
    }
    let Ok(file) = String::from_utf8(file) else {
        return;
    };
    let mut layers = Layers::new();
    layers.file(Path::new("huddle.toml"), &file);
    layers.environment(variables);
    if let Some(settings) = settings(arguments) {
        layers.flags(&settings);
    }
    check_layers(layers);
}

/// `None` if the command line itself is refused.
fn settings(arguments: Vec<OsString>) -> Option<Settings> {
    let command = Settings::augment_args(Command::new("huddle-firehose"));
    let matches = command.try_get_matches_from(arguments).ok()?;
    Settings::from_arg_matches(&matches).ok()
}

fn check_layers(layers: Layers) {
    match layers.resolve() {
        Err(ConfigError(problems)) => {
            assert!(!problems.is_empty());
            for problem in problems {
                assert!(!problem.keys.is_empty());
                assert!(!problem.subject.is_empty());
                assert!(!problem.message.is_empty());
            }
        }
        Ok(loaded) => {
            let printed = loaded.to_toml().expect("what was loaded can be printed");
            let mut layers = Layers::new();
            layers.file(Path::new("printed.toml"), &printed);
            let again = layers.resolve().expect("what was printed can be used");
            assert_eq!(again.config, loaded.config);
            assert_eq!(again.warnings, loaded.warnings);
        }
    }
}
