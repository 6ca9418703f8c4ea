//! Prints the effective configuration as a TOML file.

use toml::Table;

use super::{Loaded, Origin, Settings};

impl Loaded {
    /// One line for each setting, with its origin as a comment.
    ///
    /// # Errors
    /// The serializer's error. It does not occur for a loaded configuration.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        let values = Table::try_from(&self.config)?;
        let lines = Settings::keys().into_iter().map(|key| {
            let origin = self.origins.get(&key).unwrap_or(&Origin::Default).of(&key);
            match values.get(&key) {
                Some(value) => format!("{key} = {value} # {origin}\n"),
                None => format!("# {key} is not set\n"),
            }
        });
        Ok(lines.collect())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Layers, Loaded};

    fn load(text: &str) -> Loaded {
        let mut layers = Layers::new();
        layers.file(Path::new("huddle.toml"), text);
        layers.resolve().unwrap()
    }

    #[test]
    fn a_printed_configuration_reads_back_as_the_same() {
        for text in [
            "",
            "stop_after_idle = 5\nmemory_budget = 12345678\nvalidation = ['*=flag']\n\
             dids_deny = ['did:plc:abc']\nsource_url = 'https://pds.example'",
        ] {
            let loaded = load(text);
            let again = load(&loaded.to_toml().unwrap());
            assert_eq!(again.config, loaded.config);
        }
    }

    #[test]
    fn each_value_is_printed_with_its_origin() {
        let text = load("batch_bytes = '1MiB'").to_toml().unwrap();
        let has = |line: &str| text.lines().any(|printed| printed == line);
        assert!(has("batch_bytes = \"1MiB\" # file huddle.toml"), "{text}");
        assert!(has("collections = [\"com.huddle.*\"] # default"), "{text}");
        assert!(has("# stop_after_idle is not set"), "{text}");
    }
}
