//! The servers to ask.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The port of DNS.
const PORT: u16 = 53;

/// Where the system names its servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The most servers of the system that are asked, as in the C library.
const MAX_SERVERS: usize = 3;

/// A server: its address, and its port if that is not 53.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnsServer(pub SocketAddr);

/// A text that names no server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IP address, with or without a port")]
pub struct NoServer(String);

impl FromStr for DnsServer {
    type Err = NoServer;

    fn from_str(text: &str) -> Result<Self, NoServer> {
        let with_port = text.parse().ok();
        let address = || text.parse::<IpAddr>().ok();
        with_port
            .or_else(|| address().map(|address| SocketAddr::new(address, PORT)))
            .map(Self)
            .ok_or_else(|| NoServer(text.to_owned()))
    }
}

impl Serialize for DnsServer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for DnsServer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The servers of the system.
pub(super) fn of_system() -> Vec<SocketAddr> {
    read(&fs::read_to_string(RESOLV_CONF).unwrap_or_default())
}

/// The servers that a resolv.conf names. Without one it is this machine, as in resolv.conf(5).
fn read(text: &str) -> Vec<SocketAddr> {
    let servers: Vec<SocketAddr> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.split_whitespace().next()?.parse::<IpAddr>().ok())
        .map(|address| SocketAddr::new(address, PORT))
        .take(MAX_SERVERS)
        .collect();
    match servers.is_empty() {
        true => vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT)],
        false => servers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_of_the_system_are_read_from_its_file() {
        let text = "# a comment\nsearch example.com\nnameserver 10.0.0.1\n nameserver\t::1 # two\n\
                    nameserver fe80::1%eth0\nnameserver 10.0.0.3\nnameserver 10.0.0.4\n";
        let found: Vec<String> = read(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.1:53", "[::1]:53", "10.0.0.3:53"]);
        assert_eq!(read(""), ["127.0.0.1:53".parse().unwrap()]);
    }

    #[test]
    fn a_server_is_an_address_with_or_without_a_port() {
        for (text, server) in [
            ("1.1.1.1", "1.1.1.1:53"),
            ("[::1]:5353", "[::1]:5353"),
            ("::1", "[::1]:53"),
        ] {
            assert_eq!(text.parse::<DnsServer>().unwrap().0.to_string(), server);
        }
        assert!("dns.example".parse::<DnsServer>().is_err());
    }
}
