//! The validation policies: `{ "com.huddle.*" = "flag" }`, `["com.huddle.*=flag"]`,
//! `"com.huddle.*=flag"`, or `"flag"` for every collection.

use std::collections::BTreeMap;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::list::Texts;
use crate::lexicon::Policies;

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
) -> Result<Policies, D::Error> {
    let rules: Vec<_> = match Rules::deserialize(deserializer)? {
        Rules::Table(table) => table
            .into_iter()
            .map(|(pattern, policy)| format!("{pattern}={policy}"))
            .collect(),
        Rules::Texts(texts) => texts.into_vec(),
    };
    if rules.is_empty() {
        return Ok(Policies::default());
    }
    rules.join(",").parse().map_err(D::Error::custom)
}

pub(in crate::config) fn serialize<S: Serializer>(
    policies: &Policies,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    policies.rules().serialize(serializer)
}
