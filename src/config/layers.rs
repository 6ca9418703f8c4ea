//! Merges the layers of settings: flags over environment over file over defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;
use std::thread::available_parallelism;

use toml::{Table, Value};

use super::near_miss::near_miss;
use super::origin::{ENVIRONMENT_PREFIX, Origin, variable_name};
use super::problem::Problem;
use super::settings::Settings;

/// Variables with the `HUDDLE_` prefix that are not settings: the path of the file, and variables of
/// the test suite.
const OTHER_VARIABLES: [&str; 4] = [
    "HUDDLE_CONFIG",
    "HUDDLE_TEST_DATA",
    "HUDDLE_TEST_NATS",
    "HUDDLE_TEST_POSTGRES",
];

/// Settings of which each layer adds to the layers before.
const ADDED: [&str; 1] = ["sink"];

/// Names that are not settings, and that a variable may be meant to have.
const OTHER_KEYS: [&str; 2] = ["config", "database"];

/// The merged settings so far. A later layer overrides the earlier ones.
#[derive(Debug)]
pub struct Layers {
    pub(super) values: Table,
    pub(super) origins: BTreeMap<String, Origin>,
    pub(super) problems: Vec<Problem>,
    /// What is ignored, and may be a mistake.
    pub(super) warnings: Vec<String>,
    known: BTreeSet<String>,
}

impl Default for Layers {
    fn default() -> Self {
        Self::new()
    }
}

impl Layers {
    /// The defaults only.
    pub fn new() -> Self {
        let mut layers = Self {
            values: Table::new(),
            origins: BTreeMap::new(),
            known: Settings::keys().into_iter().collect(),
            problems: Vec::new(),
            warnings: Vec::new(),
        };
        let cores = available_parallelism().map_or(1, |cores| cores.get().min(256));
        layers.set("decoders", Value::from(cores as u32), Origin::Default);
        layers.toml(
            Path::new("default.toml"),
            include_str!("default.toml"),
            &Origin::Default,
        );
        layers
    }

    /// Adds the `text` of a TOML file; `path` is only used in messages.
    pub fn file(&mut self, path: &Path, text: &str) {
        self.toml(path, text, &Origin::File(path.to_path_buf()));
    }

    /// Adds the `HUDDLE_` variables among `variables`. An empty one counts as unset.
    ///
    /// A variable that is no setting may be another program's, or Kubernetes' way of telling where
    /// a service named `huddle` is. It is a problem only if it is a mistyped setting.
    pub fn environment(&mut self, variables: impl IntoIterator<Item = (OsString, OsString)>) {
        for (name, value) in variables {
            let name = name.to_string_lossy();
            let Some(suffix) = name.strip_prefix(ENVIRONMENT_PREFIX) else {
                continue;
            };
            if OTHER_VARIABLES.contains(&name.as_ref()) {
                continue;
            }
            let key = suffix.to_ascii_lowercase();
            if !self.known.contains(&key) || variable_name(&key) != name {
                self.unknown_variable(&key, &name);
            } else if let Some(text) = value.to_str() {
                if !text.is_empty() {
                    self.set(&key, from_text(text), Origin::Environment);
                }
            } else {
                self.problem(&key, format!("environment {name}"), "is not UTF-8");
            }
        }
    }

    fn unknown_variable(&mut self, key: &str, name: &str) {
        let known = self.known.iter().map(String::as_str).chain(OTHER_KEYS);
        match near_miss(key, known) {
            Some(meant) => {
                // The flag has two names, so the variable may be taken to have two.
                let meant = if meant == "database" {
                    "database_url"
                } else {
                    meant
                };
                let message = format!("no such setting; did you mean {}?", variable_name(meant));
                self.problem(key, format!("environment {name}"), &message);
            }
            None => self
                .warnings
                .push(format!("environment {name}: no such setting; ignored")),
        }
    }

    /// Adds the flags of the command line.
    pub fn flags(&mut self, settings: &Settings) {
        match Table::try_from(settings) {
            Ok(table) => {
                for (key, value) in table {
                    self.set(&key, without_empty(value), Origin::Flag);
                }
            }
            Err(error) => self.problem("flags", "flags".to_owned(), &error.to_string()),
        }
    }

    fn toml(&mut self, path: &Path, text: &str, origin: &Origin) {
        let table = match text.parse::<Table>() {
            Ok(table) => table,
            Err(error) => return self.unusable("config", path, &format!("is not TOML: {error}")),
        };
        for (key, value) in table {
            if self.known.contains(&key) {
                self.set(&key, value, origin.clone());
            } else {
                self.problem(
                    &key,
                    format!("{key} (file {})", path.display()),
                    "no such setting",
                );
            }
        }
    }

    fn set(&mut self, key: &str, mut value: Value, origin: Origin) {
        if ADDED.contains(&key)
            && let Some(before) = self.values.remove(key)
        {
            value = joined(before, value);
        }
        self.values.insert(key.to_owned(), value);
        self.origins.insert(key.to_owned(), origin);
    }

    pub(super) fn unusable(&mut self, key: &str, path: &Path, message: &str) {
        self.problem(key, format!("{key} (file {})", path.display()), message);
    }

    pub(super) fn problem(&mut self, key: &str, subject: String, message: &str) {
        self.problems.push(Problem {
            keys: vec![key.to_owned()],
            subject,
            message: message.trim_end().to_owned(),
        });
    }
}

/// The elements of both values. A value that is no list is one element.
fn joined(before: Value, after: Value) -> Value {
    let elements = |value: Value| match value {
        Value::Array(elements) => elements,
        value => vec![value],
    };
    let (mut all, more) = (elements(before), elements(after));
    all.extend(more);
    Value::Array(all)
}

/// Guesses the TOML type of a variable's text. This is safe, because no setting accepts both
/// numbers and words that look like numbers, or both booleans and words that look like booleans.
fn from_text(text: &str) -> Value {
    let number = text.parse::<i64>().map(Value::from).ok();
    let boolean = || text.parse::<bool>().map(Value::from).ok();
    number.or_else(boolean).unwrap_or_else(|| Value::from(text))
}

/// Removes empty texts: `--dids-deny ''` is an empty list.
fn without_empty(value: Value) -> Value {
    match value {
        Value::Array(items) => items
            .into_iter()
            .filter(|item| item.as_str() != Some(""))
            .collect::<Vec<_>>()
            .into(),
        other => other,
    }
}
