//! The settings that an operator may change while the worker runs: what is kept, and how it is judged.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::atproto::pattern::{Pattern, PatternError};
use crate::atproto::syntax::{Did, SyntaxError};
use crate::lexicon::{Policies, PolicyError};
use crate::model::RunTimeSetting;

/// The name of such a setting, as in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SettingName {
    Collections,
    DidsAllow,
    DidsDeny,
    Validation,
}

impl SettingName {
    pub const ALL: [Self; 4] = [
        Self::Collections,
        Self::DidsAllow,
        Self::DidsDeny,
        Self::Validation,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Collections => "collections",
            Self::DidsAllow => "dids_allow",
            Self::DidsDeny => "dids_deny",
            Self::Validation => "validation",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.as_str() == text)
    }
}

/// A change of a setting, which is a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SettingChange {
    /// The whole list.
    Whole(Vec<String>),
    /// Single items: `true` adds one, `false` removes it. So two operators do not undo each other's
    /// changes.
    Items(BTreeMap<String, bool>),
}

impl SettingChange {
    /// The list after the change of `before`.
    pub fn of(&self, before: Vec<String>) -> Vec<String> {
        match self {
            Self::Whole(list) => list.clone(),
            Self::Items(items) => {
                let mut list = before;
                list.retain(|item| items.get(item) != Some(&false));
                let added = items.iter().filter(|(_, is_added)| **is_added);
                for (item, _) in added {
                    if !list.contains(item) {
                        list.push(item.clone());
                    }
                }
                list
            }
        }
    }
}

/// The values of these settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptSettings {
    pub collections: Vec<Pattern>,
    pub dids_allow: Vec<Did>,
    pub dids_deny: Vec<Did>,
    pub validation: Policies,
}

/// The settings in force.
#[derive(Debug)]
pub struct Overlay<'a> {
    pub kept: KeptSettings,
    /// Those of the run time that win over the configuration.
    pub winning: Vec<&'a RunTimeSetting>,
}

/// A value that is not valid.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSetting {
    #[error("collections names no collection, so no record would be kept; use * to keep all")]
    NoCollection,
    #[error("{0} is both in dids_allow and in dids_deny")]
    AllowedAndDenied(Did),
    #[error(transparent)]
    Did(#[from] SyntaxError),
    #[error(transparent)]
    Pattern(#[from] PatternError),
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error("not a list of texts: {0}")]
    NoList(#[from] serde_json::Error),
}

impl KeptSettings {
    /// The value of one setting, as a list of texts.
    pub fn list(&self, name: SettingName) -> Vec<String> {
        let dids = |dids: &[Did]| dids.iter().map(Did::to_string).collect();
        match name {
            SettingName::Collections => self.collections.iter().map(Pattern::to_string).collect(),
            SettingName::DidsAllow => dids(&self.dids_allow),
            SettingName::DidsDeny => dids(&self.dids_deny),
            SettingName::Validation => self.validation.rules(),
        }
    }

    /// The same as JSON.
    pub fn json(&self, name: SettingName) -> Value {
        json!(self.list(name))
    }

    /// These values with another one of `name`.
    ///
    /// # Errors
    /// If the value is not valid, by itself or with the others.
    pub fn with(self, name: SettingName, list: &[String]) -> Result<Self, InvalidSetting> {
        let changed = self.replacing(name, list)?;
        changed.check()?;
        Ok(changed)
    }

    fn replacing(mut self, name: SettingName, list: &[String]) -> Result<Self, InvalidSetting> {
        let dids = || -> Result<Vec<Did>, SyntaxError> {
            list.iter().map(|text| Did::parse(text)).collect()
        };
        match name {
            SettingName::Collections => {
                let patterns = list.iter().map(|text| text.parse());
                self.collections = patterns.collect::<Result<Vec<Pattern>, PatternError>>()?;
            }
            SettingName::DidsAllow => self.dids_allow = dids()?,
            SettingName::DidsDeny => self.dids_deny = dids()?,
            SettingName::Validation if list.is_empty() => self.validation = Policies::default(),
            SettingName::Validation => self.validation = list.join(",").parse()?,
        }
        Ok(self)
    }

    /// These values, which are those of the configuration, with the settings that were changed at run
    /// time. A setting wins as long as the configuration says the same as when it was changed. Where an
    /// account would be both allowed and denied, the configuration wins for both lists: it has changed
    /// since, or an order of changes has led there.
    ///
    /// # Errors
    /// If a setting is not valid by itself.
    pub fn overlaid<'a>(
        &self,
        settings: &'a [RunTimeSetting],
    ) -> Result<Overlay<'a>, InvalidSetting> {
        let named = settings.iter().filter_map(|setting| {
            let name = SettingName::parse(&setting.name)?;
            (self.json(name) == setting.configured).then_some((name, setting))
        });
        let mut winning: Vec<(SettingName, &RunTimeSetting)> = named.collect();
        let mut kept = self.replaced_by(&winning)?;
        if kept.check().is_err() {
            winning.retain(|(name, _)| {
                !matches!(name, SettingName::DidsAllow | SettingName::DidsDeny)
            });
            kept = self.replaced_by(&winning)?;
            kept.check()?;
        }
        let winning = winning.into_iter().map(|(_, setting)| setting).collect();
        Ok(Overlay { kept, winning })
    }

    fn replaced_by(
        &self,
        settings: &[(SettingName, &RunTimeSetting)],
    ) -> Result<Self, InvalidSetting> {
        settings
            .iter()
            .try_fold(self.clone(), |kept, (name, setting)| {
                let list: Vec<String> = serde_json::from_value(setting.value.clone())?;
                kept.replacing(*name, &list)
            })
    }

    fn check(&self) -> Result<(), InvalidSetting> {
        if self.collections.is_empty() {
            return Err(InvalidSetting::NoCollection);
        }
        let mut allowed = self.dids_allow.iter();
        match allowed.find(|did| self.dids_deny.contains(did)) {
            Some(both) => Err(InvalidSetting::AllowedAndDenied(both.clone())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;

    fn kept() -> KeptSettings {
        let empty = KeptSettings::default();
        empty
            .with(SettingName::Collections, &["com.huddle.*".to_owned()])
            .unwrap()
    }

    fn set(name: SettingName, value: &Value, configured: &KeptSettings) -> RunTimeSetting {
        RunTimeSetting {
            name: name.as_str().to_owned(),
            value: value.clone(),
            configured: configured.json(name),
            set_at: String::new(),
            set_by: String::new(),
        }
    }

    /// Holds invariant 13.4: no settings keep a worker from its start.
    #[test]
    fn lists_that_contradict_each_other_are_those_of_the_configuration() {
        let ann = texts(&["did:plc:ann"]);
        let configured = kept().with(SettingName::DidsDeny, &ann).unwrap();
        let allow = set(SettingName::DidsAllow, &json!(ann), &configured);
        let deny_none = set(SettingName::DidsDeny, &json!([]), &configured);
        // In the order of their names the first one contradicts the configuration, both together do not.
        let both = [allow.clone(), deny_none];
        let overlay = configured.overlaid(&both).unwrap();
        assert_eq!(overlay.kept.list(SettingName::DidsAllow), ann);
        assert_eq!(overlay.winning.len(), 2);
        let collections = set(SettingName::Collections, &json!(["*"]), &configured);
        let settings = [allow, collections.clone()];
        let overlay = configured.overlaid(&settings).unwrap();
        assert_eq!(overlay.kept.list(SettingName::DidsDeny), ann);
        assert!(overlay.kept.list(SettingName::DidsAllow).is_empty());
        assert_eq!(overlay.winning, [&collections]);
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn a_list_is_replaced_and_items_are_added_and_removed() {
        let whole: SettingChange = serde_json::from_str(r#"["a", "b"]"#).unwrap();
        assert_eq!(whole.of(texts(&["c"])), ["a", "b"]);
        let items: SettingChange = serde_json::from_str(r#"{"a": true, "c": false}"#).unwrap();
        assert_eq!(items.of(texts(&["c", "b"])), ["b", "a"]);
        assert_eq!(items.of(texts(&["a"])), ["a"]);
    }

    #[test]
    fn every_setting_is_read_as_it_is_written() {
        for (name, list) in [
            (
                SettingName::Collections,
                texts(&["app.example.*", "com.x.y"]),
            ),
            (SettingName::DidsAllow, texts(&["did:plc:ann"])),
            (SettingName::DidsDeny, texts(&["did:web:bob.example"])),
            (SettingName::Validation, texts(&["com.x.y=off", "*=flag"])),
        ] {
            let setting = set(name, &json!(list), &kept());
            let changed = kept().overlaid(slice::from_ref(&setting)).unwrap().kept;
            assert_eq!(changed.list(name), list);
            assert_eq!(SettingName::parse(name.as_str()), Some(name));
        }
    }

    #[test]
    fn values_that_are_not_valid_are_refused() {
        for (name, list, word) in [
            (SettingName::Collections, texts(&[]), "no collection"),
            (SettingName::Collections, texts(&["com.*.x"]), "com.*.x"),
            (SettingName::DidsDeny, texts(&["ann"]), "ann"),
            (SettingName::Validation, texts(&["maybe"]), "maybe"),
        ] {
            let error = kept().with(name, &list).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
        let ann = texts(&["did:plc:ann"]);
        let allowed = kept().with(SettingName::DidsAllow, &ann).unwrap();
        let error = allowed.with(SettingName::DidsDeny, &ann).unwrap_err();
        assert!(error.to_string().contains("did:plc:ann"), "{error}");
    }
}
