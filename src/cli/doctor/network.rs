//! DNS, the PLC directory, the clock, and the source.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::SignedDuration;
use tokio::net::lookup_host;
use tokio::time::timeout;
use url::{Host, Url};

use huddle_firehose::config::{Config, Verify};
use huddle_firehose::net::dns::Dns;
use huddle_firehose::net::http_client::{FetchError, Fetcher, NamedBy};
use huddle_firehose::source::Resume;
use huddle_firehose::source::frame_sink::{BatchLimits, FrameCollector};
use huddle_firehose::worker;

use super::findings::{Finding, Findings};

const DEADLINE: Duration = Duration::from_secs(10);
/// The longest answer that is read; what it says does not matter.
const MAX_ANSWER: usize = 1 << 20;
/// Revs that are further ahead are not believed.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_mins(5);

pub(super) async fn examine(config: &Config, findings: &mut Findings) {
    for name in names(config) {
        findings.add("DNS", host_name(&name).await);
    }
    let asks_hosts = config.verify != Verify::None;
    if asks_hosts {
        findings.add("DNS", texts(config).await);
    }
    match Fetcher::new(config.allow_private_addresses) {
        Ok(fetcher) => {
            if asks_hosts {
                findings.add("PLC directory", directory(config, &fetcher).await);
            }
            // Its answer says what time it is, whatever else it says.
            let _any = ask(&fetcher, &http_url(&config.source_url)).await;
            findings.add("clock", clock(&fetcher));
        }
        Err(error) => findings.add("TLS", Finding::fault(error, "this is a bug: report it")),
    }
    findings.add("source", source(config).await);
}

/// The names of the servers that the configuration names, without IP addresses.
fn names(config: &Config) -> BTreeSet<String> {
    let mut urls = vec![&config.source_url];
    if config.verify != Verify::None {
        urls.push(&config.plc_url);
        urls.extend(&config.directory_url);
    }
    let names = urls.into_iter().filter_map(|url| match url.host() {
        Some(Host::Domain(name)) => Some(name.to_owned()),
        _ => None,
    });
    names.collect()
}

async fn host_name(name: &str) -> Finding {
    let advice = "look at the network, and at /etc/resolv.conf";
    match timeout(DEADLINE, lookup_host((name, 443))).await {
        Ok(Ok(addresses)) => {
            Finding::good(format_args!("{name} has {} addresses", addresses.count()))
        }
        Ok(Err(error)) => Finding::fault(format_args!("{name}: {error}"), advice),
        Err(_) => Finding::fault(format_args!("{name}: no answer"), advice),
    }
}

/// Handles and lexicons are found by texts.
async fn texts(config: &Config) -> Finding {
    let Some(name) = names(config).into_iter().next() else {
        return Finding::good("no name is configured, so no text was asked for");
    };
    match Dns::new(&config.dns_servers)
        .texts(&format!("_atproto.{name}"))
        .await
    {
        Ok(_) => Finding::good("it answers questions for texts"),
        Err(error) => Finding::warning(
            error,
            "handles are not verified without it; name a server that answers with --dns-servers",
        ),
    }
}

async fn directory(config: &Config, fetcher: &Fetcher) -> Finding {
    let mut url = config.plc_url.clone();
    url.set_path("/_health");
    match ask(fetcher, &url).await {
        Ok(()) => Finding::good(format_args!("{} answers", config.plc_url)),
        Err(error) => Finding::fault(
            format_args!("{}: {error}", config.plc_url),
            "look at plc_url and the network; without it, commits of unknown accounts wait",
        ),
    }
}

/// Whether there is an answer, whatever its status.
async fn ask(fetcher: &Fetcher, url: &Url) -> Result<(), FetchError> {
    let answer = fetcher
        .get_whole(url, NamedBy::Operator, MAX_ANSWER, DEADLINE)
        .await;
    match answer {
        Ok(_) | Err(FetchError::Status { .. } | FetchError::TooLarge { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn clock(fetcher: &Fetcher) -> Finding {
    let told = fetcher.clocks().told();
    let wrong = told
        .iter()
        .filter(|(_, ahead)| ahead.abs() > CLOCK_TOLERANCE);
    match (told.first(), wrong.count()) {
        (None, _) => Finding::warning("no server has told the time", "compare it by other means"),
        (Some((server, ahead)), wrong) if wrong == told.len() => Finding::fault(
            format_args!("{server} is ahead by {} s", ahead.as_secs()),
            "set the clock of this machine, and look at its NTP service",
        ),
        (Some(_), _) => Finding::good(format_args!("it agrees with {} servers", told.len())),
    }
}

async fn source(config: &Config) -> Finding {
    let advice = "look at source_url, the network, and whether the server runs";
    let url = &config.source_url;
    let source = match worker::source(&config.into()) {
        Ok(source) => source,
        Err(error) => return Finding::fault(error, "correct source_url"),
    };
    let mut frames = match source.connect(Resume::Live).await {
        Ok(frames) => frames,
        Err(error) => return Finding::fault(format_args!("{url}: {error}"), advice),
    };
    let limits = BatchLimits {
        frames: 1,
        bytes: 1,
    };
    let mut first = FrameCollector::new(limits);
    match timeout(DEADLINE, frames.read_batch(Duration::ZERO, &mut first)).await {
        Ok(Ok(())) => Finding::good(format_args!("{url} sends events")),
        Ok(Err(error)) => Finding::fault(format_args!("{url}: {error}"), advice),
        Err(_) => Finding::warning(
            format_args!(
                "{url} accepts the connection and was silent for {} s",
                DEADLINE.as_secs()
            ),
            "if it has few events, nothing",
        ),
    }
}

/// The HTTP URL of the server whose stream is at `url`.
fn http_url(url: &Url) -> Url {
    let scheme = match url.scheme() {
        "wss" => "https",
        _ => "http",
    };
    let authority = url.authority();
    Url::parse(&format!("{scheme}://{authority}/")).unwrap_or_else(|_| url.clone())
}
