//! Checks limits of settings, and contradictions between them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::value::bytes::{format_bytes, mebibytes};
use super::value::is_host_name;
use super::{Config, Discovering, Verify};

/// Settings that contradict each other, or one beyond its limits.
pub(super) struct Contradiction {
    pub(super) keys: Vec<&'static str>,
    pub(super) message: String,
}

impl Contradiction {
    fn new(keys: &[&'static str], message: impl Into<String>) -> Self {
        Self {
            keys: keys.to_vec(),
            message: message.into(),
        }
    }
}

/// A frame has up to 5 MB, and must fit while others are in flight.
const LEAST_MEMORY_BUDGET: u64 = mebibytes(8);
/// So much may wait for the PLC directory at least.
const LEAST_PARKED_LIMIT: u64 = mebibytes(16);
/// Room for a few of the longest letters.
const LEAST_DEAD_LETTER_BYTES: u64 = mebibytes(16);

/// All problems of `config`.
pub(super) fn check(config: &Config) -> Vec<Contradiction> {
    let mut found = Vec::new();
    check_limits(config, &mut found);
    check_order(config, &mut found);
    check_memory(config, &mut found);
    check_filter(config, &mut found);
    check_backfill(config, &mut found);
    check_endpoints(config, &mut found);
    check_sinks(config, &mut found);
    found
}

fn check_limits(config: &Config, found: &mut Vec<Contradiction>) {
    let limits = [
        ("batch_frames", config.batch_frames as u64, 1, 65_536),
        ("checkpoint_events", config.checkpoint_events, 1, 1_000_000),
        ("decoders", config.decoders as u64, 1, 256),
        (
            "identity_cache",
            config.identity_cache as u64,
            1_000,
            100_000_000,
        ),
        ("index_batch", config.index_batch as u64, 1, 1_000),
        ("index_retries", config.index_retries.into(), 0, 100),
        ("plc_parallelism", config.plc_parallelism as u64, 1, 1_000),
        ("recheck_sample", config.recheck_sample.into(), 1, 100_000),
        ("restart_limit", config.restart_limit.into(), 1, 10_000),
        (
            "dead_letter_retention_days",
            config.dead_letter_retention_days.into(),
            1,
            36_500,
        ),
        (
            "dead_letter_limit",
            config.dead_letter_limit.into(),
            1,
            10_000_000,
        ),
        (
            "audit_retention_days",
            config.audit_retention_days.into(),
            1,
            36_500,
        ),
        (
            "gap_retention_days",
            config.gap_retention_days.into(),
            1,
            36_500,
        ),
        (
            "request_retention_days",
            config.request_retention_days.into(),
            1,
            36_500,
        ),
    ];
    for (key, value, least, most) in limits {
        if !(least..=most).contains(&value) {
            found.push(Contradiction::new(
                &[key],
                format!("{value} is not between {least} and {most}"),
            ));
        }
    }

    let durations = [
        ("checkpoint_interval_ms", config.checkpoint_interval),
        ("connect_timeout_ms", config.connect_timeout),
        ("drain_timeout_ms", config.drain_timeout),
        ("ping_interval_ms", config.ping_interval),
        ("reconnect_min_ms", config.reconnect_min),
        ("restart_min_ms", config.restart_min),
        ("restart_window_ms", config.restart_window),
        ("silence_min_ms", config.silence_min),
        ("stuck_after_ms", config.stuck_after),
        ("upstream_window_hours", config.upstream_window),
    ];
    for (key, value) in durations {
        if value.is_zero() {
            found.push(Contradiction::new(&[key], "must be at least 1"));
        }
    }
    if config.plc_requests_per_second == Some(0) {
        found.push(Contradiction::new(
            &["plc_requests_per_second"],
            "must be at least 1; leave it out for the courtesy rate",
        ));
    }
    if config.recheck_interval_hours == Some(0) {
        found.push(Contradiction::new(
            &["recheck_interval_hours"],
            "must be at least 1; leave it out to compare repositories only when there is a reason",
        ));
    }
    if config.stop_after_idle == Some(Duration::ZERO) {
        found.push(Contradiction::new(
            &["stop_after_idle"],
            "must be at least 1; leave it out to run without end",
        ));
    }
}

fn check_order(config: &Config, found: &mut Vec<Contradiction>) {
    let pairs = [
        (
            ("reconnect_min_ms", config.reconnect_min),
            ("reconnect_max_ms", config.reconnect_max),
        ),
        (
            ("restart_min_ms", config.restart_min),
            ("restart_max_ms", config.restart_max),
        ),
        (
            ("silence_min_ms", config.silence_min),
            ("silence_max_ms", config.silence_max),
        ),
    ];
    for ((least_key, least), (most_key, most)) in pairs {
        if least > most {
            found.push(Contradiction::new(
                &[least_key, most_key],
                format!("{} is more than {}", least.as_millis(), most.as_millis()),
            ));
        }
    }
}

/// A backfill fetches whole repositories, and can only do so with verification.
fn check_backfill(config: &Config, found: &mut Vec<Contradiction>) {
    if config.backfill && config.verify == Verify::None {
        found.push(Contradiction::new(
            &["backfill", "verify"],
            "a backfill needs verification, but verify is none",
        ));
    }
    let is_by_dids = config.backfill_discovery == Discovering::Dids;
    if config.backfill && is_by_dids && config.dids_allow.is_empty() {
        found.push(Contradiction::new(
            &["backfill_discovery", "dids_allow"],
            "a backfill that finds accounts by dids needs dids_allow, but dids_allow is empty",
        ));
    }
}

fn check_memory(config: &Config, found: &mut Vec<Contradiction>) {
    if config.memory_budget < LEAST_MEMORY_BUDGET {
        found.push(Contradiction::new(
            &["memory_budget"],
            format!(
                "{} is less than {}; a single frame may have 5 MB",
                format_bytes(config.memory_budget),
                format_bytes(LEAST_MEMORY_BUDGET),
            ),
        ));
    }
    if config.batch_bytes == 0 {
        found.push(Contradiction::new(&["batch_bytes"], "must be at least 1"));
    }
    if config.parked_limit < LEAST_PARKED_LIMIT {
        found.push(Contradiction::new(
            &["parked_limit"],
            format!(
                "{} is less than {}; a single commit may have 2 MB",
                format_bytes(config.parked_limit),
                format_bytes(LEAST_PARKED_LIMIT),
            ),
        ));
    }
    if config.dead_letter_bytes < LEAST_DEAD_LETTER_BYTES {
        found.push(Contradiction::new(
            &["dead_letter_bytes"],
            format!(
                "{} is less than {}; a single letter may have 2 MB, and its task as JSON more",
                format_bytes(config.dead_letter_bytes),
                format_bytes(LEAST_DEAD_LETTER_BYTES),
            ),
        ));
    }
    if config.batch_bytes > config.memory_budget / 2 {
        found.push(Contradiction::new(
            &["batch_bytes", "memory_budget"],
            format!(
                "a batch of {} is more than half of the budget of {}; two batches must fit",
                format_bytes(config.batch_bytes),
                format_bytes(config.memory_budget),
            ),
        ));
    }
}

fn check_sinks(config: &Config, found: &mut Vec<Contradiction>) {
    let names = config.sink.iter().map(|sink| &sink.name);
    let mut seen = BTreeSet::new();
    if let Some(twice) = names.into_iter().find(|name| !seen.insert(*name)) {
        found.push(Contradiction::new(
            &["sink"],
            format!(
                "two sinks have the name {twice:?}; name them: NAME=URL, or `name` in the table"
            ),
        ));
    }
}

fn check_endpoints(config: &Config, found: &mut Vec<Contradiction>) {
    if config.admin_listen.is_some() && config.admin_tokens_file.is_none() {
        found.push(Contradiction::new(
            &["admin_listen", "admin_tokens_file"],
            "without a file of tokens every request would be refused; `admin token new` makes one",
        ));
    }
    let has_same_address = config.admin_listen.as_ref() == Some(&config.listen);
    if has_same_address && !config.listen.has_any_port() {
        found.push(Contradiction::new(
            &["admin_listen", "listen"],
            "both have the same address; listen stays read-only",
        ));
    }
    if let Some(wrong) = config.allowed_hosts.iter().find(|host| !is_host_name(host)) {
        found.push(Contradiction::new(
            &["allowed_hosts"],
            format!("{wrong:?} is not the name of a host, without scheme and port"),
        ));
    }
}

fn check_filter(config: &Config, found: &mut Vec<Contradiction>) {
    if config.collections.is_empty() {
        found.push(Contradiction::new(
            &["collections"],
            "names no collection, so no record would be kept; use * to keep all",
        ));
    }
    let both = config
        .dids_allow
        .iter()
        .find(|did| config.dids_deny.contains(did));
    if let Some(did) = both {
        found.push(Contradiction::new(
            &["dids_allow", "dids_deny"],
            format!("{did} is both allowed and denied"),
        ));
    }
}

/// Valid settings that may be mistakes.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    if !config.listen.is_loopback() {
        warnings.push(format!(
            "listen: other machines can reach {} without authentication",
            config.listen
        ));
    }
    if let Some(admin) = config
        .admin_listen
        .as_ref()
        .filter(|address| !address.is_loopback())
    {
        warnings.push(format!(
            "admin_listen: other machines can reach {admin}, and tokens are sent unencrypted; put a \
             proxy with TLS before it"
        ));
    }
    if config.allow_private_addresses {
        warnings.push(
            "private addresses allowed: any DID document can make this worker request internal hosts"
                .to_owned(),
        );
    }
    for (key, url) in [
        ("source_url", &config.source_url),
        ("plc_url", &config.plc_url),
    ] {
        let is_plain = matches!(url.scheme(), "http" | "ws");
        if is_plain && !is_loopback(url) {
            warnings.push(format!("{key}: {url} is not encrypted"));
        }
    }
    warnings
}

fn is_loopback(url: &url::Url) -> bool {
    url.host_str().is_some_and(|host| {
        host == "localhost"
            || host
                .trim_matches(['[', ']'])
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Config, ConfigError, Layers};

    fn load(text: &str) -> Result<Config, ConfigError> {
        let mut layers = Layers::new();
        layers.file(Path::new("huddle.toml"), text);
        layers.resolve().map(|loaded| loaded.config)
    }

    #[test]
    fn each_contradiction_names_both_keys() {
        for (text, keys) in [
            ("batch_bytes = '33MiB'", ["batch_bytes", "memory_budget"]),
            (
                "admin_listen = '127.0.0.1:9'",
                ["admin_listen", "admin_tokens_file"],
            ),
            (
                "listen = '[::1]:9'\nadmin_listen = '[::1]:9'\nadmin_tokens_file = 'tokens'",
                ["admin_listen", "listen"],
            ),
            (
                "reconnect_min_ms = 60001",
                ["reconnect_min_ms", "reconnect_max_ms"],
            ),
            ("restart_max_ms = 99", ["restart_min_ms", "restart_max_ms"]),
            (
                "silence_min_ms = 600001",
                ["silence_min_ms", "silence_max_ms"],
            ),
            (
                "backfill = true\nbackfill_discovery = 'dids'",
                ["backfill_discovery", "dids_allow"],
            ),
            (
                "dids_allow = ['did:plc:a']\ndids_deny = ['did:plc:a']",
                ["dids_allow", "dids_deny"],
            ),
        ] {
            let ConfigError(problems) = load(text).unwrap_err();
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert_eq!(problems[0].keys, keys);
        }
    }

    #[test]
    fn each_limit_names_its_key() {
        for (key, value) in [
            ("allowed_hosts", "['http://a:80']"),
            ("audit_retention_days", "0"),
            ("batch_frames", "0"),
            ("batch_bytes", "0"),
            ("checkpoint_events", "0"),
            ("collections", "[]"),
            ("connect_timeout_ms", "0"),
            ("dead_letter_bytes", "'15MiB'"),
            ("dead_letter_limit", "0"),
            ("dead_letter_retention_days", "0"),
            ("decoders", "0"),
            ("gap_retention_days", "0"),
            ("identity_cache", "999"),
            ("index_batch", "1001"),
            ("index_retries", "101"),
            ("memory_budget", "'7MiB'"),
            ("parked_limit", "'15MiB'"),
            ("plc_parallelism", "0"),
            ("plc_requests_per_second", "0"),
            ("recheck_interval_hours", "0"),
            ("recheck_sample", "0"),
            ("restart_limit", "0"),
            ("sink", "['postgres://a', 'postgres://b']"),
            ("stop_after_idle", "0"),
            ("stuck_after_ms", "0"),
            ("upstream_window_hours", "0"),
        ] {
            let ConfigError(problems) = load(&format!("{key} = {value}")).unwrap_err();
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert_eq!(problems[0].keys, [key]);
        }
    }

    #[test]
    fn the_limits_themselves_are_allowed() {
        assert!(load("memory_budget = '8MiB'\nbatch_bytes = '4MiB'\nindex_batch = 1000").is_ok());
    }

    #[test]
    fn an_unreadable_value_causes_no_contradiction_with_its_default() {
        let ConfigError(problems) =
            load("memory_budget = 'much'\nbatch_bytes = '40MiB'").unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].keys, ["memory_budget"]);
    }

    #[test]
    fn exposed_or_unencrypted_settings_cause_warnings() {
        let mut layers = Layers::new();
        layers.file(
            Path::new("huddle.toml"),
            "listen = '0.0.0.0:80'\nsource_url = 'ws://pds.example'\nplc_url = 'http://[::1]:2582'\n\
             allow_private_addresses = true\nadmin_listen = '0.0.0.0:81'\nadmin_tokens_file = 't'",
        );
        let warnings = layers.resolve().unwrap().warnings;
        assert_eq!(warnings.len(), 4, "{warnings:?}");
        assert!(warnings[0].starts_with("listen: "));
        assert!(warnings[1].starts_with("admin_listen: "));
        assert!(warnings[2].starts_with("private addresses allowed: "));
        assert!(warnings[3].starts_with("source_url: "));
    }
}
