//! Lists: an array in TOML, comma-separated text in the environment.

use serde::de::{DeserializeOwned, IntoDeserializer};
use serde::{Deserialize, Deserializer};

/// An array, or the parts of a comma-separated text.
pub(in crate::config) fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    texts(deserializer)?
        .into_iter()
        .map(|text| T::deserialize(text.into_deserializer()))
        .collect()
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a list, or text with commas")]
pub(super) enum Texts {
    List(Vec<String>),
    Text(String),
}

impl Texts {
    pub(super) fn into_vec(self) -> Vec<String> {
        match self {
            Self::List(texts) => texts,
            Self::Text(text) => text
                .split(',')
                .map(|item| item.trim().to_owned())
                .filter(|item| !item.is_empty())
                .collect(),
        }
    }
}

pub(super) fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Texts::deserialize(deserializer).map(Texts::into_vec)
}
