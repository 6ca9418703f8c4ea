//! Converts the merged layers to a checked configuration.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use toml::Table;

use super::Config;
use super::check::{check, warnings};
use super::layers::Layers;
use super::origin::Origin;
use super::problem::{ConfigError, Problem};

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// The origin of each setting.
    pub origins: BTreeMap<String, Origin>,
    /// Valid settings that may be mistakes.
    pub warnings: Vec<String>,
}

impl Layers {
    /// Checks all settings.
    ///
    /// # Errors
    /// All problems at once: unknown keys, invalid values, and values that contradict each other.
    pub fn resolve(mut self) -> Result<Loaded, ConfigError> {
        let usable = self.usable_values();
        let config = match Config::deserialize(usable) {
            Ok(config) => config,
            Err(error) => {
                self.problem("defaults", "defaults".to_owned(), error.message());
                return Err(ConfigError(self.problems));
            }
        };
        self.note_contradictions(&config);
        if !self.problems.is_empty() {
            return Err(ConfigError(self.problems));
        }
        Ok(Loaded {
            warnings: self.warnings.into_iter().chain(warnings(&config)).collect(),
            config,
            origins: self.origins,
        })
    }

    /// The values that are valid by themselves. The others become problems, and their defaults are
    /// used.
    fn usable_values(&mut self) -> Table {
        let mut usable = Self::new().values;
        for (key, value) in self.values.clone() {
            let mut attempt = usable.clone();
            attempt.insert(key.clone(), value);
            match Config::deserialize(attempt.clone()) {
                Ok(_) => usable = attempt,
                Err(error) => {
                    let subject = self.subject(&key);
                    self.problem(&key, subject, error.message());
                }
            }
        }
        usable
    }

    fn note_contradictions(&mut self, config: &Config) {
        let noted = self.problems.iter().flat_map(|problem| &problem.keys);
        let unread: BTreeSet<String> = noted.cloned().collect();
        for contradiction in check(config) {
            // If a value could not be read, its default was checked instead. Its contradictions are
            // not reported.
            if contradiction.keys.iter().any(|&key| unread.contains(key)) {
                continue;
            }
            let places: Vec<_> = contradiction.keys.iter().map(|k| self.subject(k)).collect();
            self.problems.push(Problem {
                keys: contradiction.keys.iter().map(|&k| k.to_owned()).collect(),
                subject: places.join(", "),
                message: contradiction.message,
            });
        }
    }

    /// `key` with its origin.
    fn subject(&self, key: &str) -> String {
        let origin = self.origins.get(key).unwrap_or(&Origin::Default);
        format!("{key} ({})", origin.of(key))
    }
}
