//! Which names the endpoints are served under.
//!
//! A browser lets the script of a page read what the page's own host answers, and the owner of the
//! host's name can make it lead to this machine. Such a request has that name in its `Host`. So a
//! name is served only if it cannot be a stranger's: an IP address, `localhost`, or a name that the
//! operator allows.

use std::net::IpAddr;

use axum::http::{HeaderMap, Request, StatusCode, Version, header};

/// The status with which `request` is refused.
pub(in crate::admin) fn refusal<B>(request: &Request<B>, allowed: &[String]) -> Option<StatusCode> {
    let hosts = host_headers(request.headers());
    let authority = request
        .uri()
        .authority()
        .map(|authority| authority.as_str());
    match hosts.as_slice() {
        // A check of HTTP/1.0 has no Host, and a browser always sends one.
        [] if authority.is_none() && request.version() < Version::HTTP_11 => return None,
        [] if authority.is_none() => return Some(StatusCode::BAD_REQUEST),
        [] | [_] => {}
        _ => return Some(StatusCode::BAD_REQUEST),
    }
    let is_served = hosts
        .into_iter()
        .chain(authority)
        .all(|host| is_served(host, allowed));
    (!is_served).then_some(StatusCode::MISDIRECTED_REQUEST)
}

/// All of them. One that is not ASCII is no name that could be allowed.
fn host_headers(headers: &HeaderMap) -> Vec<&str> {
    let hosts = headers.get_all(header::HOST).into_iter();
    hosts
        .map(|host| host.to_str().unwrap_or_default())
        .collect()
}

fn is_served(authority: &str, allowed: &[String]) -> bool {
    let Some(host) = without_port(authority) else {
        return false;
    };
    let address = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    if address.parse::<IpAddr>().is_ok() {
        return true;
    }
    // A name may end with the dot of the root.
    let name = host.strip_suffix('.').unwrap_or(host);
    let mut names = allowed.iter().map(String::as_str).chain(["localhost"]);
    names.any(|allowed| allowed.eq_ignore_ascii_case(name))
}

/// The host of `authority`; `None` if what follows it is no port.
fn without_port(authority: &str) -> Option<&str> {
    let end = match authority.find(']') {
        Some(bracket) => bracket + 1,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, rest) = authority.split_at_checked(end)?;
    let is_port = match rest.strip_prefix(':') {
        Some(port) => port.bytes().all(|byte| byte.is_ascii_digit()),
        None => rest.is_empty(),
    };
    is_port.then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, version: Version, hosts: &[&str]) -> Request<()> {
        let builder = Request::builder().uri(uri).version(version);
        let with_hosts = hosts
            .iter()
            .fold(builder, |builder, host| builder.header("host", *host));
        with_hosts.body(()).unwrap()
    }

    fn answer(hosts: &[&str]) -> Option<StatusCode> {
        let allowed = ["Metrics.internal".to_owned()];
        refusal(&request("/status", Version::HTTP_11, hosts), &allowed)
    }

    /// Holds invariant 12.6.
    #[test]
    fn addresses_localhost_and_allowed_names_are_served() {
        for host in [
            "127.0.0.1",
            "10.1.2.3:8080",
            "[::1]:8080",
            "[fe80::1]",
            "localhost",
            "LocalHost.:80",
            "metrics.internal:9000",
        ] {
            assert_eq!(answer(&[host]), None, "{host}");
        }
    }

    #[test]
    fn a_name_that_may_be_a_strangers_is_misdirected() {
        for host in [
            "a",
            "rebound.example",
            "localhost.example",
            "127.0.0.1.example",
            "metrics.internal.example",
            "localhost:80:80",
            "[::1]x",
            "localhost@x",
            "",
            "[localhost",
        ] {
            assert_eq!(
                answer(&[host]),
                Some(StatusCode::MISDIRECTED_REQUEST),
                "{host}"
            );
        }
        let absolute = request(
            "http://rebound.example/status",
            Version::HTTP_11,
            &["localhost"],
        );
        assert_eq!(
            refusal(&absolute, &[]),
            Some(StatusCode::MISDIRECTED_REQUEST)
        );
    }

    #[test]
    fn a_request_has_one_host_except_in_http_1_0() {
        assert_eq!(answer(&[]), Some(StatusCode::BAD_REQUEST));
        assert_eq!(
            answer(&["localhost", "localhost"]),
            Some(StatusCode::BAD_REQUEST)
        );
        assert_eq!(
            refusal(&request("/healthz", Version::HTTP_10, &[]), &[]),
            None
        );
    }
}
