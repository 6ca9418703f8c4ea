//! The address to listen on.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An address to listen on: an IP address or a name, and a port. A name is looked up when the
/// listener is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ListenAddress(String);

/// Why a text is not an address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an address with a port, such as 127.0.0.1:8080, localhost:8080 or [::1]:8080"
)]
pub struct InvalidListenAddress(String);

impl ListenAddress {
    /// Listens on the first of the addresses that can be had.
    ///
    /// # Errors
    /// If the name is not known, or the port is taken.
    pub fn bind(&self) -> io::Result<TcpListener> {
        TcpListener::bind(self.resolve()?.as_slice())
    }

    /// The addresses of the name. Those of IPv4 come first: what is at `localhost` is looked for at
    /// 127.0.0.1 by more clients than at ::1.
    ///
    /// # Errors
    /// If the name is not known.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let mut addresses: Vec<_> = self.0.to_socket_addrs()?.collect();
        addresses.sort_by_key(SocketAddr::is_ipv6);
        Ok(addresses)
    }

    /// Whether other machines cannot reach it.
    pub fn is_loopback(&self) -> bool {
        match self.0.parse::<SocketAddr>() {
            Ok(address) => address.ip().is_loopback(),
            Err(_) => self.host().eq_ignore_ascii_case("localhost"),
        }
    }

    /// Whether the system chooses the port.
    pub fn has_any_port(&self) -> bool {
        self.0.ends_with(":0")
    }

    fn host(&self) -> &str {
        self.0.rsplit_once(':').map_or("", |(host, _port)| host)
    }
}

impl FromStr for ListenAddress {
    type Err = InvalidListenAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| InvalidListenAddress(text.to_owned()))?;
        let is_address = text.parse::<SocketAddr>().is_ok();
        // An IP address that is no socket address together with its port has a mistake in it.
        let is_name = is_host_name(host) && host.parse::<IpAddr>().is_err();
        match port.parse::<u16>() {
            Ok(_) if is_address || is_name => Ok(Self(text.to_owned())),
            _ => Err(InvalidListenAddress(text.to_owned())),
        }
    }
}

impl TryFrom<String> for ListenAddress {
    type Error = InvalidListenAddress;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self(address.to_string())
    }
}

impl From<ListenAddress> for String {
    fn from(ListenAddress(text): ListenAddress) -> Self {
        text
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether `text` is a host's name: labels of letters, digits, hyphens and underscores.
pub(in crate::config) fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_to_listen_on_is_an_ip_address_or_a_name_with_a_port() {
        for right in [
            "127.0.0.1:8080",
            "[::1]:0",
            "0.0.0.0:80",
            "localhost:8080",
            "metrics.internal:9000",
        ] {
            assert_eq!(
                right.parse().map(|ListenAddress(text)| text),
                Ok(right.to_owned())
            );
        }
        for wrong in [
            "here",
            "localhost",
            ":8080",
            "::1:8080",
            "127.0.0.1",
            "localhost:port",
            "http://localhost:80",
            "localhost:70000",
            "a b:1",
        ] {
            assert!(wrong.parse::<ListenAddress>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn localhost_is_loopback_and_a_listener_on_it_is_found_at_127_0_0_1() {
        let localhost: ListenAddress = "localhost:0".parse().unwrap();
        assert!(localhost.is_loopback());
        let address = localhost.bind().unwrap().local_addr().unwrap();
        assert!(address.ip().is_loopback() && address.is_ipv4(), "{address}");
        assert!(
            !"metrics.internal:80"
                .parse::<ListenAddress>()
                .unwrap()
                .is_loopback()
        );
        assert!(!"0.0.0.0:80".parse::<ListenAddress>().unwrap().is_loopback());
    }
}
