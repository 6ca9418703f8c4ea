//! Checks the lexicon documents that the configuration names.

use super::origin::Origin;
use super::problem::{ConfigError, Problem};
use super::resolve::Loaded;
use crate::lexicon::Lexicons;

/// The name of the setting.
const KEY: &str = "lexicons";

/// Reads the documents in the folder of the setting `lexicons`.
///
/// # Errors
/// All problems of the documents, each with its file and the place in it.
pub fn check_lexicons(loaded: &Loaded) -> Result<Lexicons, ConfigError> {
    Lexicons::load(loaded.config.lexicons.as_deref()).map_err(|errors| {
        let origin = loaded.origins.get(KEY).unwrap_or(&Origin::Default);
        let problem = Problem {
            keys: vec![KEY.to_owned()],
            subject: format!("{KEY} ({})", origin.of(KEY)),
            message: errors.to_string(),
        };
        ConfigError(vec![problem])
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::config::{Layers, Settings, check_lexicons};

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
}
