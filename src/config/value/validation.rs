//! The validation policies: `{ "com.huddle.*" = "flag" }`, `["com.huddle.*=flag"]`,
//! `"com.huddle.*=flag"`, or `"flag"` for every collection.

use std::collections::BTreeMap;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::list::Texts;
use super::pattern::{check_pattern, check_policy};

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a policy, a list of pattern=policy, or a table of policies by pattern"
)]
enum Rules {
    Table(BTreeMap<String, String>),
    Texts(Texts),
}

pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<(String, String)>, D::Error> {
    let rules: Vec<_> = match Rules::deserialize(deserializer)? {
        Rules::Table(table) => table.into_iter().collect(),
        Rules::Texts(texts) => texts.into_vec().iter().map(|text| rule(text)).collect(),
    };
    check(&rules).map_err(D::Error::custom)?;
    Ok(rules)
}

pub(in crate::config) fn serialize<S: Serializer>(
    rules: &[(String, String)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let texts: Vec<_> = rules
        .iter()
        .map(|(pattern, policy)| format!("{pattern}={policy}"))
        .collect();
    texts.serialize(serializer)
}

/// A bare policy is meant for every collection.
fn rule(text: &str) -> (String, String) {
    let (pattern, policy) = text.split_once('=').unwrap_or(("*", text));
    (pattern.trim().to_owned(), policy.trim().to_owned())
}

fn check(rules: &[(String, String)]) -> Result<(), String> {
    for (at, (pattern, policy)) in rules.iter().enumerate() {
        check_pattern(pattern)?;
        check_policy(policy)?;
        if rules.iter().skip(at + 1).any(|(other, _)| other == pattern) {
            return Err(format!("{pattern:?} has more than one policy"));
        }
    }
    Ok(())
}
