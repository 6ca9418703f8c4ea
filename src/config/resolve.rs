//! From what was said to what holds.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use toml::Table;

use super::Config;
use super::check::{check, warnings};
use super::layers::Layers;
use super::origin::Origin;
use super::problem::{ConfigError, Problem};

/// A configuration that may be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// Where each setting came from.
    pub origins: BTreeMap<String, Origin>,
    /// What is allowed and yet worth a second look.
    pub warnings: Vec<String>,
}

impl Layers {
    /// Checks the whole.
    ///
    /// # Errors
    /// Every problem at once: unknown keys, values that are not what they should be, values that
    /// contradict each other.
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
            warnings: warnings(&config),
            config,
            origins: self.origins,
        })
    }

    /// The values that can be read, each by itself; the others are noted, and their defaults stand.
    fn usable_values(&mut self) -> Table {
        let mut usable = Self::new().values;
        for (key, value) in self.values.clone() {
            let mut attempt = usable.clone();
            attempt.insert(key.clone(), value);
            match Config::deserialize(attempt.clone()) {
                Ok(_) => usable = attempt,
                Err(error) => {
                    let place = self.place(&key);
                    self.problem(&key, place, error.message());
                }
            }
        }
        usable
    }

    fn note_contradictions(&mut self, config: &Config) {
        let noted = self.problems.iter().flat_map(|problem| &problem.keys);
        let unread: BTreeSet<String> = noted.cloned().collect();
        for contradiction in check(config) {
            // Where a value could not be read its default stands, and contradicts nobody.
            if contradiction.keys.iter().any(|&key| unread.contains(key)) {
                continue;
            }
            let places: Vec<_> = contradiction.keys.iter().map(|k| self.place(k)).collect();
            self.problems.push(Problem {
                keys: contradiction.keys.iter().map(|&k| k.to_owned()).collect(),
                subject: places.join(", "),
                message: contradiction.message,
            });
        }
    }

    /// `key` and where it was set.
    fn place(&self, key: &str) -> String {
        let origin = self.origins.get(key).unwrap_or(&Origin::Default);
        format!("{key} ({})", origin.of(key))
    }
}
