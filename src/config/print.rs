//! The configuration in force, as the TOML file that would bring it about.

use toml::Table;

use super::{Loaded, Origin, Settings};

impl Loaded {
    /// One line a setting, with the place where it was set as a comment.
    ///
    /// # Errors
    /// Never for a configuration that was loaded; the error is the serializer's.
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
    fn what_is_printed_reads_back_as_the_same_configuration() {
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
    fn each_value_tells_where_it_was_set() {
        let text = load("batch_bytes = '1MiB'").to_toml().unwrap();
        let has = |line: &str| text.lines().any(|printed| printed == line);
        assert!(has("batch_bytes = \"1MiB\" # file huddle.toml"), "{text}");
        assert!(has("collections = [\"com.huddle.*\"] # default"), "{text}");
        assert!(has("# stop_after_idle is not set"), "{text}");
    }
}
