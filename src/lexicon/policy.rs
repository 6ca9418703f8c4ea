//! What becomes of records that break their lexicon, per collection.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::protocol::syntax;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Keep it, marked as invalid.
    Flag,
    /// Do not look.
    Off,
    /// Make it a dead letter.
    #[default]
    Reject,
}

/// The policies of all collections. The most specific pattern wins; what none matches is under
/// [`Policy::default`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    try_from = "BTreeMap<String, Policy>",
    into = "BTreeMap<String, Policy>"
)]
pub struct Policies {
    /// By pattern: an NSID, `com.huddle.*`, or `*`.
    by_pattern: BTreeMap<String, Policy>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("{0:?} is neither an NSID, nor the beginning of one such as com.huddle.*, nor *")]
    Pattern(String),

    #[error("{0:?} has two policies")]
    Repeated(String),

    #[error("{0:?} is not a policy: it is reject, flag or off")]
    Unknown(String),
}

impl Policies {
    pub fn for_collection(&self, collection: &str) -> Policy {
        let mut prefix = collection;
        let mut found = self.by_pattern.get(collection);
        while let (None, Some((shorter, _))) = (found, prefix.rsplit_once('.')) {
            prefix = shorter;
            found = self.by_pattern.get(&format!("{prefix}.*"));
        }
        found
            .or_else(|| self.by_pattern.get("*"))
            .copied()
            .unwrap_or_default()
    }
}

impl TryFrom<BTreeMap<String, Policy>> for Policies {
    type Error = PolicyError;

    fn try_from(by_pattern: BTreeMap<String, Policy>) -> Result<Self, PolicyError> {
        match by_pattern.keys().find(|pattern| !is_pattern(pattern)) {
            Some(pattern) => Err(PolicyError::Pattern(pattern.clone())),
            None => Ok(Self { by_pattern }),
        }
    }
}

impl From<Policies> for BTreeMap<String, Policy> {
    fn from(policies: Policies) -> Self {
        policies.by_pattern
    }
}

/// `pattern=policy,…`, where a policy alone is meant for all: `flag,com.huddle.booking=reject`.
impl FromStr for Policies {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let mut by_pattern = BTreeMap::new();
        for entry in text.split(',').map(str::trim) {
            let (pattern, policy) = entry.split_once('=').unwrap_or(("*", entry));
            if by_pattern
                .insert(pattern.to_owned(), policy.parse()?)
                .is_some()
            {
                return Err(PolicyError::Repeated(pattern.to_owned()));
            }
        }
        Self::try_from(by_pattern)
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

fn is_pattern(pattern: &str) -> bool {
    match pattern.strip_suffix(".*") {
        // Two more labels make an NSID of any beginning.
        Some(prefix) => syntax::is_nsid(&format!("{prefix}.a.a")),
        None => pattern == "*" || syntax::is_nsid(pattern),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_rejected_where_no_pattern_says_otherwise() {
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
    fn a_table_of_patterns_is_read_and_written() {
        let json = r#"{"com.huddle.*":"flag","com.huddle.booking":"off"}"#;

        let policies: Policies = serde_json::from_str(json).unwrap();

        assert_eq!(serde_json::to_string(&policies).unwrap(), json);
    }

    #[test]
    fn what_is_no_pattern_or_policy_is_refused_by_name() {
        for (text, error) in [
            (
                "com.huddle*=off",
                PolicyError::Pattern("com.huddle*".into()),
            ),
            ("huddle=off", PolicyError::Pattern("huddle".into())),
            (".*=off", PolicyError::Pattern(".*".into())),
            ("drop", PolicyError::Unknown("drop".into())),
            ("com.huddle.booking=", PolicyError::Unknown(String::new())),
            ("off,flag", PolicyError::Repeated("*".into())),
        ] {
            assert_eq!(text.parse::<Policies>(), Err(error), "{text}");
        }
    }
}
