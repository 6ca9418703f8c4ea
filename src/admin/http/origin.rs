//! Which pages of a browser may make a request: those that come from the listener itself.
//!
//! A page of another origin can have a browser on this machine send a request here. Browsers say where
//! such a request comes from.

use axum::http::{HeaderMap, HeaderName, header};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether the request comes from another origin, as a browser says. Other clients say nothing.
pub(in crate::admin) fn is_foreign(headers: &HeaderMap) -> bool {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let origins = headers.get_all(header::ORIGIN).into_iter();
    let has_foreign_origin = origins
        .map(|origin| origin.to_str().unwrap_or_default())
        .any(|origin| !is_of(origin, host));
    let sites = headers.get_all(SEC_FETCH_SITE).into_iter();
    let has_foreign_site = sites
        .map(|site| site.to_str().unwrap_or_default())
        .any(|site| !matches!(site, "same-origin" | "none"));
    has_foreign_origin || has_foreign_site
}

/// Whether `origin` is that of the listener, which was asked for as `host`. `null` is none.
fn is_of(origin: &str, host: Option<&str>) -> bool {
    let authority = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    match (authority, host) {
        (Some(authority), Some(host)) => authority.eq_ignore_ascii_case(host),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    /// Holds invariant 12.6.
    #[test]
    fn only_pages_of_the_listener_itself_may_ask() {
        let host = ("host", "localhost:8081");
        for allowed in [
            &[host][..],
            &[host, ("origin", "http://localhost:8081")],
            &[host, ("origin", "https://LOCALHOST:8081")],
            &[host, ("sec-fetch-site", "none")],
            &[host, ("sec-fetch-site", "same-origin")],
        ] {
            assert!(!is_foreign(&headers(allowed)), "{allowed:?}");
        }
        for foreign in [
            &[host, ("origin", "null")][..],
            &[host, ("origin", "http://evil.example")],
            &[host, ("origin", "http://localhost:8080")],
            &[host, ("origin", "http://localhost:8081.evil.example")],
            &[host, ("origin", "file://localhost:8081")],
            &[
                host,
                ("origin", "http://localhost:8081"),
                ("origin", "http://evil.example"),
            ],
            &[host, ("sec-fetch-site", "cross-site")],
            &[host, ("sec-fetch-site", "same-site")],
            &[("origin", "http://localhost:8081")],
        ] {
            assert!(is_foreign(&headers(foreign)), "{foreign:?}");
        }
    }
}
