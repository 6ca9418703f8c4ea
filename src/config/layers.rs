//! Merges the layers of settings: flags over environment over file over defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;
use std::thread::available_parallelism;

use toml::{Table, Value};

use super::origin::{ENVIRONMENT_PREFIX, Origin, variable_name};
use super::problem::Problem;
use super::settings::Settings;

/// Variables with the `HUDDLE_` prefix that are not settings: the path of the file, and a variable
/// that the test suite passes to the programs that it starts.
const OTHER_VARIABLES: [&str; 2] = ["HUDDLE_CONFIG", "HUDDLE_TEST_DATA"];

/// The merged settings so far. A later layer overrides the earlier ones.
#[derive(Debug)]
pub struct Layers {
    pub(super) values: Table,
    pub(super) origins: BTreeMap<String, Origin>,
    pub(super) problems: Vec<Problem>,
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
                self.problem(&key, format!("environment {name}"), "no such setting");
            } else if let Some(text) = value.to_str() {
                if !text.is_empty() {
                    self.set(&key, from_text(text), Origin::Environment);
                }
            } else {
                self.problem(&key, format!("environment {name}"), "is not UTF-8");
            }
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

    fn set(&mut self, key: &str, value: Value, origin: Origin) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lexicon::Policies;

    fn file(text: &str) -> Layers {
        let mut layers = Layers::new();
        layers.file(Path::new("huddle.toml"), text);
        layers
    }

    fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        let owned = |&(name, value): &(&str, &str)| (name.into(), value.into());
        pairs.iter().map(owned).collect()
    }

    fn problems(layers: Layers) -> Vec<String> {
        let ConfigError(problems) = layers.resolve().unwrap_err();
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_defaults_are_a_whole_configuration_without_warnings() {
        let loaded = Layers::new().resolve().unwrap();
        assert_eq!(loaded.warnings, Vec::<String>::new());
        assert_eq!(loaded.config.collections, ["com.huddle.*".parse().unwrap()]);
        assert_eq!(loaded.config.memory_budget, 64 << 20);
        assert_eq!(loaded.config.stop_after_idle, None);
        assert!(loaded.origins.values().all(|o| *o == Origin::Default));
    }

    #[test]
    fn every_field_of_the_configuration_has_a_flag_and_every_flag_a_field() {
        let layers = file("stop_after_idle = 5\ndirectory_url = 'https://directory.example'");
        let config = layers.resolve().unwrap().config;
        let fields: BTreeSet<_> = Table::try_from(&config).unwrap().keys().cloned().collect();
        assert_eq!(fields, Settings::keys().into_iter().collect());
    }

    #[test]
    fn flags_outrank_the_environment_which_outranks_the_file() {
        let mut layers = file("batch_frames = 1\nindex_batch = 1\nindex_retries = 1");
        layers.environment(variables(&[
            ("HUDDLE_BATCH_FRAMES", "2"),
            ("HUDDLE_INDEX_BATCH", "2"),
        ]));
        layers.flags(&Settings {
            batch_frames: Some(3),
            ..Settings::default()
        });
        let Loaded {
            config, origins, ..
        } = layers.resolve().unwrap();
        assert_eq!(
            (
                config.batch_frames,
                config.index_batch,
                config.index_retries
            ),
            (3, 2, 1)
        );
        assert_eq!(origins["batch_frames"], Origin::Flag);
        assert_eq!(origins["index_batch"], Origin::Environment);
        assert_eq!(origins["index_retries"], Origin::File("huddle.toml".into()));
        assert_eq!(origins["batch_bytes"], Origin::Default);
    }

    #[test]
    fn lists_and_policies_read_the_same_from_every_layer() {
        let policies: Policies = "com.huddle.*=flag,com.huddle.booking=off".parse().unwrap();
        for text in [
            "validation = ['com.huddle.*=flag', 'com.huddle.booking=off']",
            "validation = 'com.huddle.*=flag,com.huddle.booking=off'",
            "validation = { 'com.huddle.*' = 'flag', 'com.huddle.booking' = 'off' }",
        ] {
            assert_eq!(file(text).resolve().unwrap().config.validation, policies);
        }

        let mut layers = Layers::new();
        layers.environment(variables(&[
            ("HUDDLE_COLLECTIONS", "com.huddle.*, app.bsky.feed.*"),
            ("HUDDLE_VALIDATION", "flag"),
        ]));
        let config = layers.resolve().unwrap().config;
        let patterns = ["com.huddle.*", "app.bsky.feed.*"].map(|text| text.parse().unwrap());
        assert_eq!(config.collections, patterns);
        assert_eq!(config.validation, "flag".parse().unwrap());
    }

    #[test]
    fn booleans_read_the_same_from_every_layer() {
        let mut layers = Layers::new();
        layers.environment(variables(&[("HUDDLE_ALLOW_PRIVATE_ADDRESSES", "true")]));
        assert!(layers.resolve().unwrap().config.allow_private_addresses);

        let mut layers = file("allow_private_addresses = true");
        layers.flags(&Settings {
            allow_private_addresses: Some(false),
            ..Settings::default()
        });
        assert!(!layers.resolve().unwrap().config.allow_private_addresses);

        let mut layers = Layers::new();
        layers.environment(variables(&[("HUDDLE_ALLOW_PRIVATE_ADDRESSES", "yes")]));
        let found = problems(layers);
        assert!(
            found[0].starts_with("allow_private_addresses ("),
            "{found:?}"
        );
    }

    #[test]
    fn an_empty_variable_is_unset_and_an_empty_flag_an_empty_list() {
        let mut layers = file("dids_deny = ['did:plc:abc']\nstop_after_idle = 5");
        layers.environment(variables(&[("HUDDLE_STOP_AFTER_IDLE", "")]));
        layers.flags(&Settings {
            dids_deny: Some(vec![String::new()]),
            ..Settings::default()
        });
        let config = layers.resolve().unwrap().config;
        assert_eq!(config.dids_deny, []);
        assert_eq!(config.stop_after_idle.map(|idle| idle.as_secs()), Some(5));
    }

    #[test]
    fn unknown_keys_and_variables_are_named() {
        let mut layers = file("batch_frame = 1");
        layers.environment(variables(&[
            ("HUDDLE_BATCH_FRAME", "1"),
            ("huddle_batch_frames", "1"),
            ("PATH", "1"),
            ("HUDDLE_CONFIG", "read elsewhere"),
        ]));
        assert_eq!(
            problems(layers),
            [
                "batch_frame (file huddle.toml): no such setting",
                "environment HUDDLE_BATCH_FRAME: no such setting",
            ]
        );
    }

    #[test]
    fn every_problem_of_every_layer_is_reported_at_once() {
        let mut layers = file("batch_frames = 'many'\nlisten = 'here'\nmemory_budget = -1");
        layers.environment(variables(&[
            ("HUDDLE_SOURCE_URL", "ftp://x"),
            ("HUDDLE_VALIDATION", "maybe"),
            ("HUDDLE_INDEX_BATCH", "1001"),
        ]));
        let found = problems(layers);
        assert_eq!(found.len(), 6, "{found:#?}");
        for start in [
            "batch_frames (file huddle.toml): ",
            "listen (file huddle.toml): ",
            "memory_budget (file huddle.toml): ",
            "source_url (environment HUDDLE_SOURCE_URL): ",
            "validation (environment HUDDLE_VALIDATION): ",
            "index_batch (environment HUDDLE_INDEX_BATCH): ",
        ] {
            assert!(found.iter().any(|t| t.starts_with(start)), "{found:#?}");
        }
    }

    #[test]
    fn an_invalid_or_missing_file_is_a_problem() {
        assert!(problems(file("batch_frames = = 1"))[0].contains("is not TOML"));
        let missing = load(Some(Path::new("no/such/file")), [], &Settings::default());
        assert!(missing.unwrap_err().to_string().contains("no/such/file"));
    }

    #[test]
    fn the_environment_may_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("huddle.toml");
        fs::write(&path, "batch_frames = 7").unwrap();
        let variables = variables(&[("HUDDLE_CONFIG", path.to_str().unwrap())]);
        let loaded = load(None, variables, &Settings::default()).unwrap();
        assert_eq!(loaded.config.batch_frames, 7);
    }
}
