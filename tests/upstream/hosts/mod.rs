//! Tests hosts over real sockets: those of a simulated network, with and without failures, and some
//! that follow a script.

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

/// A deadline that is long enough for any machine. A test that passes does not wait for it.
const SLOT_TIMEOUT: Deadlines = Deadlines {
    answer: Duration::from_secs(20),
    silence: Duration::from_secs(20),
    transfer: Duration::from_secs(20),
    least_rate: 1,
};

/// The deadline of tests in which no answer comes.
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
