//! Hosts over real sockets: those of a simulated network, honest or befallen by mishaps, and some that
//! follow a script.

mod answers;
mod car;
mod network;
mod recorded;
mod refusals;

use std::time::Duration;

use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::net::http_client::{Fetcher, NamedBy};
use huddle_firehose::repo::host::{Deadlines, Host, HttpHosts};
use url::Url;

/// Long enough for any machine; no test waits for it unless it fails.
const SLOT_TIMEOUT: Deadlines = Deadlines {
    answer: Duration::from_secs(20),
    silence: Duration::from_secs(20),
    transfer: Duration::from_secs(20),
    least_rate: 1,
};

/// So long wait those that wait in vain.
const SHORT: Duration = Duration::from_millis(200);

fn ann() -> Did {
    Did::parse("did:plc:ann").unwrap()
}

/// A host that an operator named.
fn host(url: &str) -> Host {
    Host {
        url: Url::parse(url).unwrap(),
        named: NamedBy::Operator,
    }
}

fn hosts() -> HttpHosts {
    hosts_within(SLOT_TIMEOUT)
}

fn hosts_within(deadlines: Deadlines) -> HttpHosts {
    HttpHosts::new(Fetcher::new(false).unwrap(), deadlines)
}
