//! The name by which a host is counted. The owner of one domain can make any number of names below it,
//! so all of them count as one.

use url::{Host, Url};

/// The registrable domain of `url` by the public suffix list (`example.co.uk` of
/// `a.b.example.co.uk`). A host without one, such as an IP address, counts with its port.
pub(crate) fn registrable_host(url: &Url) -> String {
    if let Some(Host::Domain(name)) = url.host()
        && let Some(domain) = psl::domain_str(name.trim_end_matches('.'))
    {
        return domain.to_owned();
    }
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    format!("{host}:{port}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_below_one_domain_are_one_host_and_ports_of_an_address_are_several() {
        for (url, host) in [
            ("https://example.com", "example.com"),
            ("https://a.b.example.com:8443/path", "example.com"),
            ("https://pds.example.co.uk", "example.co.uk"),
            ("https://other.co.uk", "other.co.uk"),
            ("https://example.com./", "example.com"),
            ("http://127.0.0.1:2583", "127.0.0.1:2583"),
            ("http://127.0.0.1", "127.0.0.1:80"),
            ("http://[::1]:2583", "[::1]:2583"),
            ("http://localhost:2583", "localhost:2583"),
        ] {
            assert_eq!(registrable_host(&Url::parse(url).unwrap()), host);
        }
    }
}
