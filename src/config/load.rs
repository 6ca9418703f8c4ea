//! Reads the configuration from the file, the environment and the flags.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::layers::Layers;
use super::problem::ConfigError;
use super::resolve::Loaded;
use super::settings::Settings;
use crate::telemetry::log::LogFormat;

/// Reads and merges all layers.
///
/// `file` is the path from `--config`; without it, `HUDDLE_CONFIG` in `environment` applies.
///
/// # Errors
/// All problems at once, each with its key.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    flags: &Settings,
) -> Result<Loaded, ConfigError> {
    layers(file, environment, flags).resolve()
}

/// The same, and checks the documents of the setting `lexicons`.
///
/// # Errors
/// All problems at once, of the settings and of the documents.
pub fn load_with_lexicons(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    flags: &Settings,
) -> Result<Loaded, ConfigError> {
    let layers = layers(file, environment, flags);
    let of_lexicons = layers.problem_of_lexicons();
    let (loaded, mut problems) = match layers.resolve() {
        Ok(loaded) => (Some(loaded), Vec::new()),
        Err(ConfigError(problems)) => (None, problems),
    };
    problems.extend(of_lexicons);
    match loaded {
        Some(loaded) if problems.is_empty() => Ok(loaded),
        _ => Err(ConfigError(problems)),
    }
}

/// The format of the log, also if other settings are not valid. So the problems of a configuration
/// are in the format that the reader of the log expects.
pub fn log_format(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    flags: &Settings,
) -> LogFormat {
    let mut layers = layers(file, environment, flags);
    let format = layers.values.remove("log_format");
    format
        .and_then(|format| format.try_into().ok())
        .unwrap_or_default()
}

fn layers(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    flags: &Settings,
) -> Layers {
    let environment: Vec<_> = environment.into_iter().collect();
    let from_environment = environment
        .iter()
        .find(|(name, path)| name == "HUDDLE_CONFIG" && !path.is_empty())
        .map(|(_, path)| PathBuf::from(path));
    let path = file.map(Path::to_path_buf).or(from_environment);

    let mut layers = Layers::new();
    if let Some(path) = path {
        match fs::read_to_string(&path) {
            Ok(text) => layers.file(&path, &text),
            Err(error) => layers.unusable("config", &path, &format!("can't be read: {error}")),
        }
    }
    layers.environment(environment);
    layers.flags(flags);
    layers
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use toml::Table;

    use super::*;
    use crate::config::Origin;
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
        let layers = file(
            "stop_after_idle = 5\ndirectory_url = 'https://directory.example'\n\
             plc_requests_per_second = 5\nadmin_listen = '127.0.0.1:9'\n\
             admin_tokens_file = 'tokens'\nlexicons = 'lexicons'\nrecheck_interval_hours = 24\n\
             changes_token_file = 'token'",
        );
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
                "environment HUDDLE_BATCH_FRAME: no such setting; did you mean HUDDLE_BATCH_FRAMES?",
            ]
        );
    }

    #[test]
    fn a_variable_that_resembles_no_setting_is_ignored_with_a_warning() {
        let mut layers = Layers::new();
        layers.environment(variables(&[
            ("HUDDLE_FIREHOSE_PORT", "tcp://10.0.0.1:8080"),
            ("HUDDLE_SERVICE_HOST", "10.0.0.1"),
            ("HUDDLE_BATCH_FRAMES", "7"),
        ]));
        let loaded = layers.resolve().unwrap();
        assert_eq!(
            loaded.warnings,
            [
                "environment HUDDLE_FIREHOSE_PORT: no such setting; ignored",
                "environment HUDDLE_SERVICE_HOST: no such setting; ignored",
            ]
        );
        assert_eq!(loaded.config.batch_frames, 7);
    }

    #[test]
    fn the_format_of_the_log_is_known_though_other_settings_are_not_valid() {
        let flags = Settings {
            batch_frames: Some(0),
            ..Settings::default()
        };
        let variables = variables(&[("HUDDLE_LOG_FORMAT", "json")]);
        assert!(load(None, variables.clone(), &flags).is_err());
        assert_eq!(log_format(None, variables, &flags), LogFormat::Json);
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
