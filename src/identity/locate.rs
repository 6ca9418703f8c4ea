//! The URL of the document of a DID.

use url::{Host, Url};

use crate::atproto::syntax::Did;

/// A DID whose document has no usable URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocateError {
    #[error("the DID method is neither plc nor web")]
    Method,

    #[error("a did:plc has 24 characters of base32")]
    Plc,

    #[error("the host is this machine, which is not allowed")]
    Private,

    #[error("a did:web has a host name, optionally a port, and no path")]
    Web,
}

/// The URL of the document of `did`: in the PLC directory at `plc_url`, or at the host that the DID
/// names.
///
/// # Errors
/// If the DID has another method, or is not valid for its method.
pub(super) fn locate(did: &Did, plc_url: &Url, allow_private: bool) -> Result<Url, LocateError> {
    if let Some(id) = did.as_str().strip_prefix("did:plc:") {
        return in_directory(did, id, plc_url).ok_or(LocateError::Plc);
    }
    let host = did.as_str().strip_prefix("did:web:");
    let url = at_host(host.ok_or(LocateError::Method)?).ok_or(LocateError::Web)?;
    if url.domain() != Some("localhost") {
        return Ok(url);
    }
    if !allow_private {
        return Err(LocateError::Private);
    }
    // Without TLS, because there are no certificates for localhost.
    without_tls(url).ok_or(LocateError::Web)
}

pub(super) fn is_plc(did: &Did) -> bool {
    did.as_str().starts_with("did:plc:")
}

fn in_directory(did: &Did, id: &str, plc_url: &Url) -> Option<Url> {
    let is_base32 = |byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7');
    if id.len() != 24 || !id.bytes().all(is_base32) {
        return None;
    }
    let mut url = plc_url.clone();
    url.path_segments_mut()
        .ok()?
        .pop_if_empty()
        .push(did.as_str());
    Some(url)
}

fn at_host(host: &str) -> Option<Url> {
    let (name, port) = match host.split_once('%') {
        Some((name, escaped)) => (name, Some(port(escaped)?)),
        None => (host, None),
    };
    if name.contains(':') {
        return None;
    }
    let mut url = Url::parse(&format!("https://{name}/.well-known/did.json")).ok()?;
    url.set_port(port).ok()?;
    let is_name = |name: &str| name == "localhost" || name.contains('.');
    matches!(url.host()?, Host::Domain(name) if is_name(name)).then_some(url)
}

/// The port after the `%` of an escaped colon.
fn port(escaped: &str) -> Option<u16> {
    let digits = escaped
        .strip_prefix("3A")
        .or_else(|| escaped.strip_prefix("3a"))?;
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| digits.parse().ok())?
}

fn without_tls(mut url: Url) -> Option<Url> {
    url.set_scheme("http").ok()?;
    Some(url)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_did_chooses_only_a_plc_entry_or_a_host(
            did in "did:(plc|web):[a-zA-Z0-9._:%-]{0,30}[a-z0-9]",
        ) {
            if let Ok(url) = locate(&did, true) {
                let url = Url::parse(&url).unwrap();
                let is_entry = url.as_str() == format!("https://plc.directory/{did}");
                let is_document = url.path() == "/.well-known/did.json" && url.domain().is_some();
                prop_assert!(is_entry || is_document, "{url}");
                prop_assert_eq!((url.query(), url.fragment()), (None, None));
                prop_assert_eq!((url.username(), url.password()), ("", None));
            }
        }
    }

    fn locate(did: &str, allow_private: bool) -> Result<String, LocateError> {
        let plc_url = Url::parse("https://plc.directory").unwrap();
        super::locate(&Did::parse(did).unwrap(), &plc_url, allow_private).map(String::from)
    }

    #[test]
    fn a_plc_document_is_in_the_plc_directory() {
        let did = Did::parse("did:plc:ewvi7nxzyoun6zhxrhs64oiz").unwrap();
        for (plc_url, expected) in [
            ("https://plc.directory", "https://plc.directory/"),
            ("http://[::1]:2582/", "http://[::1]:2582/"),
            ("https://mirror.example/plc", "https://mirror.example/plc/"),
            ("https://mirror.example/plc/", "https://mirror.example/plc/"),
        ] {
            let url = super::locate(&did, &Url::parse(plc_url).unwrap(), false).unwrap();
            assert_eq!(url.as_str(), format!("{expected}{did}"));
        }
    }

    #[test]
    fn a_web_document_is_at_its_host() {
        let located = |did| locate(did, false).unwrap();
        assert_eq!(
            located("did:web:Example.com"),
            "https://example.com/.well-known/did.json"
        );
        for did in ["did:web:example.com%3A8443", "did:web:example.com%3a8443"] {
            assert_eq!(
                located(did),
                "https://example.com:8443/.well-known/did.json"
            );
        }
    }

    #[test]
    fn localhost_is_asked_without_tls_and_only_if_allowed() {
        for (did, expected) in [
            ("did:web:localhost", "http://localhost/"),
            ("did:web:localhost%3A2583", "http://localhost:2583/"),
        ] {
            let expected = format!("{expected}.well-known/did.json");
            assert_eq!(locate(did, true), Ok(expected));
            assert_eq!(locate(did, false), Err(LocateError::Private));
        }
    }

    #[test]
    fn an_unusable_did_is_refused() {
        for (did, error) in [
            (
                "did:key:zQ3shunBKsXixLxKtC5qeSG9E4J5RkGN57im31pcTzbNQnm5w",
                LocateError::Method,
            ),
            ("did:plc:short", LocateError::Plc),
            ("did:plc:ewvi7nxzyoun6zhxrhs64oi1", LocateError::Plc),
            ("did:plc:..%2f..%2fnxzyoun6zhxrhs", LocateError::Plc),
            ("did:web:example.com:user", LocateError::Web),
            ("did:web:example.com%2Fuser", LocateError::Web),
            ("did:web:user%40example.com", LocateError::Web),
            ("did:web:example.com%3Ax", LocateError::Web),
            ("did:web:example.com%3A99999", LocateError::Web),
            ("did:web:example.com%3A80%3A80", LocateError::Web),
            ("did:web:intranet", LocateError::Web),
            ("did:web:127.0.0.1", LocateError::Web),
            ("did:web:0x7f.1", LocateError::Web),
            ("did:web:2130706433", LocateError::Web),
        ] {
            assert_eq!(locate(did, true), Err(error), "{did}");
        }
    }
}
