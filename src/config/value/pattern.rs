//! Collection patterns, and the policies that they may name.

use serde::Deserializer;
use serde::de::Error;

use super::list::texts;
use crate::protocol::syntax::is_nsid;

pub(in crate::config) fn collections<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    let patterns = texts(deserializer)?;
    for pattern in &patterns {
        check_pattern(pattern).map_err(D::Error::custom)?;
    }
    Ok(patterns)
}

/// A pattern is an NSID, a prefix that ends in `.*`, or `*` alone.
pub(super) fn check_pattern(pattern: &str) -> Result<(), String> {
    let is_pattern = match pattern.strip_suffix(".*") {
        Some(prefix) => is_nsid(&format!("{prefix}.any.name")),
        None => pattern == "*" || is_nsid(pattern),
    };
    if is_pattern {
        Ok(())
    } else {
        Err(format!(
            "{pattern:?} is neither an NSID nor a prefix such as com.huddle.*"
        ))
    }
}

pub(super) fn check_policy(policy: &str) -> Result<(), String> {
    match policy {
        "flag" | "off" | "reject" => Ok(()),
        other => Err(format!("{other:?} is no policy; reject, flag and off are")),
    }
}

#[cfg(test)]
mod tests {
    use super::check_pattern;

    #[test]
    fn patterns_are_nsids_prefixes_or_everything() {
        for right in ["com.huddle.*", "com.huddle.slotOffer", "com.*", "*"] {
            assert_eq!(check_pattern(right), Ok(()), "{right}");
        }
        for wrong in [
            "",
            "com.huddle*",
            "com.*.offer",
            ".*",
            "com..huddle.*",
            "offer",
        ] {
            assert!(check_pattern(wrong).is_err(), "{wrong}");
        }
    }
}
