//! From a handle to the account that it names: by DNS, and else by a file at its host.
//! <https://atproto.com/specs/handle#handle-resolution>

use std::time::Duration;

use url::Url;

use crate::atproto::syntax::Did;
use crate::net::dns::Dns;
use crate::net::http_client::{FetchError, Fetcher, NamedBy};

/// The longest file that names an account, in bytes. A DID has at most 2048.
const MAX_FILE: usize = 4 << 10;

/// Names that no host may have, or that mean something else on every machine.
const RESERVED: [&str; 8] = [
    "alt",
    "arpa",
    "example",
    "internal",
    "invalid",
    "local",
    "localhost",
    "onion",
];

/// Resolves handles.
#[derive(Clone, Debug)]
pub struct HandleResolver {
    dns: Dns,
    fetcher: Fetcher,
    allow_reserved: bool,
    deadline: Duration,
}

/// What a handle leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    Did(Did),
    /// To no account, or to several.
    Nothing,
    /// There was no answer. It says nothing about the handle.
    Unknown,
}

impl HandleResolver {
    /// `allow_reserved`: in a network of tests handles may end with `.example`.
    pub fn new(dns: Dns, fetcher: Fetcher, allow_reserved: bool, deadline: Duration) -> Self {
        Self {
            dns,
            fetcher,
            allow_reserved,
            deadline,
        }
    }

    /// Asks DNS first. Its answer counts, whatever the host says, which is asked only where DNS names no
    /// account.
    pub async fn resolve(&self, handle: &str) -> Resolution {
        if !self.allow_reserved && is_reserved(handle) {
            return Resolution::Nothing;
        }
        let texts = self.dns.texts(&format!("_atproto.{handle}")).await;
        let by_dns = texts.as_deref().map_or(Resolution::Unknown, of_texts);
        if let Resolution::Did(_) = by_dns {
            return by_dns;
        }
        let has_several = texts.is_ok_and(|texts| texts.iter().any(|text| names_a_did(text)));
        if has_several {
            return Resolution::Nothing;
        }
        match (by_dns, self.ask_host(handle).await) {
            // The host says that it names none, and DNS does not say anything.
            (Resolution::Unknown, Resolution::Nothing) => Resolution::Unknown,
            (_, by_host) => by_host,
        }
    }

    async fn ask_host(&self, handle: &str) -> Resolution {
        let Ok(url) = Url::parse(&format!("https://{handle}/.well-known/atproto-did")) else {
            return Resolution::Nothing;
        };
        let named = NamedBy::Outsider;
        let file = self.fetcher.get_whole(&url, named, MAX_FILE, self.deadline);
        match file.await {
            Ok(file) => of_file(&file),
            // It is there, and is no name of an account.
            Err(FetchError::TooLarge { .. }) => Resolution::Nothing,
            Err(FetchError::Status {
                status: 400..=428 | 430..=499,
                ..
            }) => Resolution::Nothing,
            Err(_) => Resolution::Unknown,
        }
    }
}

fn is_reserved(handle: &str) -> bool {
    let last = handle.rsplit('.').next().unwrap_or_default();
    RESERVED.contains(&last)
}

fn names_a_did(text: &str) -> bool {
    text.starts_with("did=")
}

/// The account in the texts of a name. Several texts may name the same one.
fn of_texts(texts: &[String]) -> Resolution {
    let mut dids = texts.iter().filter_map(|text| text.strip_prefix("did="));
    let Some(first) = dids.next() else {
        return Resolution::Nothing;
    };
    match Did::parse(first.trim()) {
        Ok(did) if dids.all(|other| other.trim() == first.trim()) => Resolution::Did(did),
        _ => Resolution::Nothing,
    }
}

/// The account in a file, which has nothing else.
fn of_file(file: &[u8]) -> Resolution {
    let text = str::from_utf8(file).unwrap_or_default();
    Did::parse(text.trim()).map_or(Resolution::Nothing, Resolution::Did)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ann() -> Resolution {
        Resolution::Did(Did::parse("did:plc:ann").unwrap())
    }

    fn texts(texts: &[&str]) -> Resolution {
        let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
        of_texts(&texts)
    }

    #[test]
    fn the_texts_of_a_name_may_name_one_account_only() {
        assert_eq!(texts(&["v=spf1", "did=did:plc:ann"]), ann());
        assert_eq!(texts(&["did=did:plc:ann", "did=did:plc:ann "]), ann());
        for none in [
            &[][..],
            &["v=spf1"],
            &["did=ann"],
            &["did=did:plc:ann", "did=did:plc:bob"],
        ] {
            assert_eq!(texts(none), Resolution::Nothing, "{none:?}");
        }
    }

    #[test]
    fn a_file_has_the_did_and_nothing_else() {
        assert_eq!(of_file(b" did:plc:ann\n"), ann());
        for none in [&b""[..], b"<html>", b"did:plc:ann\ndid:plc:bob", b"\xff"] {
            assert_eq!(of_file(none), Resolution::Nothing);
        }
    }

    #[test]
    fn reserved_names_are_no_handles() {
        assert!(is_reserved("handle.invalid") && is_reserved("ann.localhost"));
        assert!(!is_reserved("invalid.com") && !is_reserved("ann.test"));
    }
}
