//! Adds the settings that were changed while a worker ran, for the output of the configuration.

use super::{Loaded, Origin};
use crate::command::{InvalidSetting, Overlay};
use crate::model::RunTimeSetting;
use crate::worker::Options;

impl Loaded {
    /// The configuration with these settings, as far as they win over it: it says the same as when they
    /// were changed.
    ///
    /// # Errors
    /// If one of them is not valid.
    pub fn with_run_time(mut self, settings: &[RunTimeSetting]) -> Result<Self, InvalidSetting> {
        let configured = Options::from(&self.config).kept();
        let Overlay { kept, winning } = configured.overlaid(settings)?;
        for setting in winning {
            let origin = Origin::RunTime {
                by: setting.set_by.clone(),
                at: setting.set_at.clone(),
            };
            self.origins.insert(setting.name.clone(), origin);
        }
        self.config.collections = kept.collections;
        self.config.dids_allow = kept.dids_allow;
        self.config.dids_deny = kept.dids_deny;
        self.config.validation = kept.validation;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::Layers;

    fn setting(name: &str, value: Value, configured: Value) -> RunTimeSetting {
        RunTimeSetting {
            name: name.to_owned(),
            value,
            configured,
            set_at: "2026-11-28T05:00:00.000Z".to_owned(),
            set_by: "uid 0".to_owned(),
        }
    }

    /// Holds invariant 13.4.
    #[test]
    fn a_setting_of_the_run_time_wins_until_the_configuration_says_something_new() {
        let configured = json!(["com.huddle.*"]);
        let set = setting("collections", json!(["app.example.*"]), configured);
        let loaded = Layers::new().resolve().unwrap();
        let text = loaded.with_run_time(&[set]).unwrap().to_toml().unwrap();
        let line = "collections = [\"app.example.*\"] # run time, by uid 0 at \
                    2026-11-28T05:00:00.000Z";
        assert!(text.lines().any(|printed| printed == line), "{text}");

        let outdated = setting("collections", json!(["app.example.*"]), json!(["*"]));
        let loaded = Layers::new().resolve().unwrap();
        let text = loaded.with_run_time(&[outdated]).unwrap();
        let text = text.to_toml().unwrap();
        assert!(
            text.contains("collections = [\"com.huddle.*\"] # default"),
            "{text}"
        );
    }
}
