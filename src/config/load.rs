//! Reads the configuration from the file, the environment and the flags.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::layers::Layers;
use super::problem::ConfigError;
use super::resolve::Loaded;
use super::settings::Settings;

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
    layers.resolve()
}
