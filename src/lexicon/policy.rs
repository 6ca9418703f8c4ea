//! The validation policy of each collection: the treatment of invalid records.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::atproto::pattern::{Pattern, PatternError};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Keep an invalid record, marked as invalid.
    Flag,
    /// Do not validate.
    Off,
    /// Make an invalid record a dead letter.
    #[default]
    Reject,
}

/// The policies of all collections. The most specific matching pattern decides; without one,
/// [`Policy::default`] applies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    by_pattern: BTreeMap<Pattern, Policy>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error(transparent)]
    Pattern(#[from] PatternError),

    #[error("{0} has two policies")]
    Repeated(Pattern),

    #[error("{0:?} is not a policy; use reject, flag or off")]
    Unknown(String),
}

impl Policies {
    pub fn for_collection(&self, collection: &str) -> Policy {
        self.by_pattern
            .iter()
            .filter(|(pattern, _)| pattern.matches(collection))
            .max_by_key(|(pattern, _)| pattern.specificity())
            .map(|(_, &policy)| policy)
            .unwrap_or_default()
    }

    /// Each rule as `pattern=policy`.
    pub fn rules(&self) -> Vec<String> {
        self.by_pattern
            .iter()
            .map(|(pattern, policy)| format!("{pattern}={}", policy.as_str()))
            .collect()
    }
}

/// `pattern=policy,…`. A policy without a pattern applies to all collections:
/// `flag,com.huddle.booking=reject`.
impl FromStr for Policies {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let mut by_pattern = BTreeMap::new();
        for entry in text.split(',').map(str::trim) {
            let (pattern, policy) = entry.split_once('=').unwrap_or(("*", entry));
            let pattern: Pattern = pattern.trim().parse()?;
            if by_pattern
                .insert(pattern.clone(), policy.trim().parse()?)
                .is_some()
            {
                return Err(PolicyError::Repeated(pattern));
            }
        }
        Ok(Self { by_pattern })
    }
}

impl Policy {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Off => "off",
            Self::Reject => "reject",
        }
    }
}

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        match text {
            "flag" => Ok(Self::Flag),
            "off" => Ok(Self::Off),
            "reject" => Ok(Self::Reject),
            _ => Err(PolicyError::Unknown(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reject_is_the_default_policy() {
        let policies = Policies::default();

        assert_eq!(
            policies.for_collection("com.huddle.booking"),
            Policy::Reject
        );
    }

    #[test]
    fn the_most_specific_pattern_wins() {
        let policies: Policies = "flag, com.huddle.*=off, com.huddle.booking=reject"
            .parse()
            .unwrap();

        for (collection, policy) in [
            ("com.huddle.booking", Policy::Reject),
            ("com.huddle.slotOffer", Policy::Off),
            ("com.huddle.deeper.name", Policy::Off),
            ("com.huddlefake.slotOffer", Policy::Flag),
        ] {
            assert_eq!(policies.for_collection(collection), policy, "{collection}");
        }
    }

    #[test]
    fn rules_are_written_as_they_are_read() {
        let text = "com.huddle.booking=off,com.huddle.*=flag";
        let policies: Policies = text.parse().unwrap();
        assert_eq!(policies.rules().join(","), text);
    }

    #[test]
    fn an_invalid_pattern_or_policy_is_named_in_the_error() {
        for (text, named) in [
            ("com.huddle*=off", "com.huddle*"),
            ("huddle=off", "huddle"),
            (".*=off", ".*"),
            ("drop", "drop"),
            ("com.huddle.booking=", "\"\""),
            ("off,flag", "*"),
        ] {
            let error = text.parse::<Policies>().unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
