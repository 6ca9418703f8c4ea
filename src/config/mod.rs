//! The typed configuration. It is checked completely before anything starts.
//!
//! Every setting has one name in three spellings: `batch_bytes` in the TOML file,
//! `HUDDLE_BATCH_BYTES` in the environment, `--batch-bytes` on the command line. A flag overrides
//! the environment, the environment overrides the file, and the file overrides the default.
//! [`Layers`] merges them and records the origin of each value. The worker runs on the resulting
//! [`Config`].

mod check;
mod layers;
mod lexicons;
mod load;
mod near_miss;
mod origin;
mod print;
mod problem;
mod resolve;
mod run_time;
mod settings;
mod value;
mod worker_options;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

pub use layers::Layers;
pub use lexicons::check_lexicons;
pub use load::{load, load_with_lexicons, log_format};
pub use origin::Origin;
pub use problem::{ConfigError, Problem};
pub use resolve::Loaded;
pub use settings::Settings;
pub use value::ListenAddress;

pub use crate::pipeline::Start;
pub use crate::repo::Discovering;
pub use crate::source::process::verification::Verify;
pub use crate::telemetry::log::LogFormat;

use crate::atproto::pattern::Pattern;
use crate::atproto::syntax::Did;
use crate::lexicon::Policies;
use crate::net::dns::DnsServer;
use crate::sink::SinkOptions;

/// All settings, typed and within their limits.
///
/// Its serialized form is the TOML file. [`Settings`] documents each setting; `default.toml` holds
/// the defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `ws` or `wss`, with the path of the XRPC method and no `cursor`.
    #[serde(deserialize_with = "value::source_url")]
    pub source_url: Url,
    pub start: Start,
    #[serde(
        default,
        with = "value::optional_seconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub stop_after_idle: Option<Duration>,
    #[serde(rename = "upstream_window_hours", with = "value::hours")]
    pub upstream_window: Duration,

    #[serde(deserialize_with = "value::list")]
    pub collections: Vec<Pattern>,
    #[serde(deserialize_with = "value::list")]
    pub dids_allow: Vec<Did>,
    #[serde(deserialize_with = "value::list")]
    pub dids_deny: Vec<Did>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lexicons: Option<PathBuf>,
    #[serde(with = "value::validation")]
    pub validation: Policies,
    pub verify: Verify,
    #[serde(deserialize_with = "value::plc_url")]
    pub plc_url: Url,
    /// `None` means the courtesy rate, which rises while the directory answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plc_requests_per_second: Option<u32>,
    pub plc_parallelism: usize,
    #[serde(deserialize_with = "value::list")]
    pub dns_servers: Vec<DnsServer>,
    pub identity_cache: usize,
    pub backfill: bool,
    pub backfill_discovery: Discovering,
    #[serde(
        default,
        deserialize_with = "value::directory_url",
        skip_serializing_if = "Option::is_none"
    )]
    pub directory_url: Option<Url>,
    pub allow_private_addresses: bool,

    #[serde(deserialize_with = "value::database_url")]
    pub database_url: String,
    pub request_retention_days: u32,
    pub dead_letter_retention_days: u32,
    pub dead_letter_limit: u32,
    /// Bytes.
    #[serde(with = "value::bytes")]
    pub dead_letter_bytes: u64,
    pub gap_retention_days: u32,
    pub audit_retention_days: u32,
    /// `None` means never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recheck_interval_hours: Option<u32>,
    pub recheck_sample: u32,
    #[serde(with = "value::sinks")]
    pub sink: Vec<SinkOptions>,

    pub listen: ListenAddress,
    #[serde(deserialize_with = "value::list")]
    pub allowed_hosts: Vec<String>,
    /// `None` means that commands are taken on the control socket only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_listen: Option<ListenAddress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_tokens_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes_token_file: Option<PathBuf>,
    pub log_format: LogFormat,

    pub decoders: usize,
    /// Bytes.
    #[serde(with = "value::bytes")]
    pub memory_budget: u64,
    pub batch_frames: usize,
    /// Bytes.
    #[serde(with = "value::bytes")]
    pub batch_bytes: u64,
    /// Bytes.
    #[serde(with = "value::bytes")]
    pub parked_limit: u64,
    #[serde(rename = "batch_wait_ms", with = "value::millis")]
    pub batch_wait: Duration,
    pub index_batch: usize,
    #[serde(rename = "index_wait_ms", with = "value::millis")]
    pub index_wait: Duration,
    pub index_retries: u32,
    pub checkpoint_events: u64,
    #[serde(rename = "checkpoint_interval_ms", with = "value::millis")]
    pub checkpoint_interval: Duration,

    #[serde(rename = "connect_timeout_ms", with = "value::millis")]
    pub connect_timeout: Duration,
    #[serde(rename = "ping_interval_ms", with = "value::millis")]
    pub ping_interval: Duration,
    #[serde(rename = "silence_min_ms", with = "value::millis")]
    pub silence_min: Duration,
    #[serde(rename = "silence_max_ms", with = "value::millis")]
    pub silence_max: Duration,
    #[serde(rename = "reconnect_min_ms", with = "value::millis")]
    pub reconnect_min: Duration,
    #[serde(rename = "reconnect_max_ms", with = "value::millis")]
    pub reconnect_max: Duration,
    #[serde(rename = "healthy_after_ms", with = "value::millis")]
    pub healthy_after: Duration,

    #[serde(rename = "restart_min_ms", with = "value::millis")]
    pub restart_min: Duration,
    #[serde(rename = "restart_max_ms", with = "value::millis")]
    pub restart_max: Duration,
    pub restart_limit: u32,
    #[serde(rename = "restart_window_ms", with = "value::millis")]
    pub restart_window: Duration,
    #[serde(rename = "stuck_after_ms", with = "value::millis")]
    pub stuck_after: Duration,
    #[serde(rename = "drain_timeout_ms", with = "value::millis")]
    pub drain_timeout: Duration,
}
