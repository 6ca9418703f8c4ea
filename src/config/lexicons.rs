//! Checks the lexicon documents that the configuration names.

use std::path::Path;

use toml::Value;

use super::layers::Layers;
use super::origin::Origin;
use super::problem::{ConfigError, Problem};
use super::resolve::Loaded;
use crate::lexicon::{LexiconErrors, Lexicons};

/// The name of the setting.
const KEY: &str = "lexicons";

/// Reads the documents in the folder of the setting `lexicons`.
///
/// # Errors
/// All problems of the documents, each with its file and the place in it.
pub fn check_lexicons(loaded: &Loaded) -> Result<Lexicons, ConfigError> {
    let folder = loaded.config.lexicons.as_deref();
    Lexicons::load(folder).map_err(|errors| {
        let origin = loaded.origins.get(KEY).unwrap_or(&Origin::Default);
        ConfigError(vec![problem(origin, &errors)])
    })
}

impl Layers {
    /// What is wrong with the documents, whatever else is wrong. A setting that is no path is another
    /// problem.
    pub(super) fn problem_of_lexicons(&self) -> Option<Problem> {
        let folder = self.values.get(KEY).and_then(Value::as_str);
        let errors = Lexicons::load(folder.map(Path::new)).err()?;
        let origin = self.origins.get(KEY).unwrap_or(&Origin::Default);
        Some(problem(origin, &errors))
    }
}

fn problem(origin: &Origin, errors: &LexiconErrors) -> Problem {
    Problem {
        keys: vec![KEY.to_owned()],
        subject: format!("{KEY} ({})", origin.of(KEY)),
        message: errors.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::config::{ConfigError, Layers, Settings, check_lexicons, load_with_lexicons};

    #[test]
    fn a_document_that_cannot_be_used_is_a_problem_of_the_setting() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.json"), "{}").unwrap();
        let mut layers = Layers::new();
        layers.flags(&Settings {
            lexicons: Some(folder.path().to_owned()),
            ..Settings::default()
        });
        let error = check_lexicons(&layers.resolve().unwrap()).unwrap_err();
        assert_eq!(error.0[0].keys, ["lexicons"]);
        let text = error.to_string();
        assert!(text.contains("lexicons (flag --lexicons): "), "{text}");
        assert!(
            text.contains("/a.json: not a lexicon document: missing field `lexicon`"),
            "{text}"
        );
    }

    #[test]
    fn the_documents_and_the_settings_are_told_at_once() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.json"), "{}").unwrap();
        let flags = Settings {
            lexicons: Some(folder.path().to_owned()),
            validation: Some(vec!["bogus".to_owned()]),
            ..Settings::default()
        };
        let ConfigError(problems) = load_with_lexicons(None, [], &flags).unwrap_err();
        let keys: Vec<&str> = problems.iter().map(|problem| &*problem.keys[0]).collect();
        assert_eq!(keys, ["validation", "lexicons"]);
    }
}
