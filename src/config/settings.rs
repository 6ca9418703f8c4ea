//! The settings as the command line gives them.

use clap::Args;
use serde::Serialize;

use crate::pipeline::Start;
use crate::source::process::verification::Verify;
use crate::telemetry::log::LogFormat;

/// What the command line may say. A field that is `None` leaves the word to the environment, the
/// file and the default.
#[derive(Args, Clone, Debug, Default, Serialize)]
#[command(next_help_heading = "Settings")]
pub struct Settings {
    /// The firehose: ws, wss, http or https; without a path, that of subscribeRepos
    #[arg(long, value_name = "URL")]
    pub source_url: Option<String>,
    /// Where to begin with a source never seen before
    #[arg(long)]
    pub start: Option<Start>,
    /// Drain and exit once the source has been silent for so long
    #[arg(long, value_name = "SECONDS")]
    pub stop_after_idle: Option<u32>,
    /// How far back the source keeps its events; an older cursor means a gap
    #[arg(long, value_name = "HOURS")]
    pub upstream_window_hours: Option<u32>,

    /// Collections to keep: an NSID, or a prefix such as com.huddle.*
    #[arg(long, value_name = "PATTERN,…", value_delimiter = ',')]
    pub collections: Option<Vec<String>>,
    /// Keep these accounts only; empty means every account
    #[arg(long, value_name = "DID,…", value_delimiter = ',')]
    pub dids_allow: Option<Vec<String>>,
    /// Keep nothing of these accounts
    #[arg(long, value_name = "DID,…", value_delimiter = ',')]
    pub dids_deny: Option<Vec<String>>,
    /// What becomes of an invalid record (reject, flag, off), for all or by collection pattern
    #[arg(long, value_name = "[PATTERN=]POLICY,…", value_delimiter = ',')]
    pub validation: Option<Vec<String>>,
    /// How much of a commit is verified before it is believed
    #[arg(long)]
    pub verify: Option<Verify>,
    /// The PLC directory, which knows the keys of did:plc accounts
    #[arg(long, value_name = "URL")]
    pub plc_url: Option<String>,
    /// Look for records from before the stream's window: in every repository that holds any
    #[arg(long, value_name = "BOOL")]
    pub backfill: Option<bool>,
    /// Who knows which repositories hold a collection; by default the source
    #[arg(long, value_name = "URL")]
    pub directory_url: Option<String>,
    /// Ask the hosts that DIDs name also where they are in a private network
    #[arg(long, value_name = "BOOL")]
    pub allow_private_addresses: Option<bool>,

    /// The database, as sqlite://PATH
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// Age at which a booking request that is no longer active is purged
    #[arg(long, value_name = "DAYS")]
    pub request_retention_days: Option<u32>,
    /// Age at which a dead letter is purged
    #[arg(long, value_name = "DAYS")]
    pub dead_letter_retention_days: Option<u32>,

    /// Where /metrics, /healthz, /readyz and /status are served
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// The form of the log on standard error
    #[arg(long)]
    pub log_format: Option<LogFormat>,

    /// Decoders that work in parallel; by default one a core
    #[arg(long, value_name = "N")]
    pub decoders: Option<u32>,
    /// What may be in flight at once, in bytes or as 64MiB; beyond it the socket is not read
    #[arg(long, value_name = "SIZE")]
    pub memory_budget: Option<String>,
    /// Frames that travel together at most
    #[arg(long, value_name = "N")]
    pub batch_frames: Option<u32>,
    /// Bytes that travel together at most, in bytes or as 512KiB
    #[arg(long, value_name = "SIZE")]
    pub batch_bytes: Option<String>,
    /// How long a frame waits for company
    #[arg(long, value_name = "MS")]
    pub batch_wait_ms: Option<u32>,
    /// Index tasks in one transaction at most
    #[arg(long, value_name = "N")]
    pub index_batch: Option<u32>,
    /// How long an index task waits for company
    #[arg(long, value_name = "MS")]
    pub index_wait_ms: Option<u32>,
    /// Retries of what the database refuses for good, before it becomes a dead letter
    #[arg(long, value_name = "N")]
    pub index_retries: Option<u32>,
    /// Events after which the cursor is written though nothing matched
    #[arg(long, value_name = "N")]
    pub checkpoint_events: Option<u32>,
    /// Time after which the cursor is written though nothing matched
    #[arg(long, value_name = "MS")]
    pub checkpoint_interval_ms: Option<u32>,

    /// Deadline of a dial: name, TCP, TLS and HTTP upgrade together
    #[arg(long, value_name = "MS")]
    pub connect_timeout_ms: Option<u32>,
    /// How often a ping keeps the connection from being dropped on its way
    #[arg(long, value_name = "MS")]
    pub ping_interval_ms: Option<u32>,
    /// Silence that is never taken for a dead link
    #[arg(long, value_name = "MS")]
    pub silence_min_ms: Option<u32>,
    /// Silence that is always taken for a dead link
    #[arg(long, value_name = "MS")]
    pub silence_max_ms: Option<u32>,
    /// The first wait before connecting again; it doubles from there
    #[arg(long, value_name = "MS")]
    pub reconnect_min_ms: Option<u32>,
    /// The longest wait before connecting again
    #[arg(long, value_name = "MS")]
    pub reconnect_max_ms: Option<u32>,
    /// How long a connection must last before the waits begin anew from the first
    #[arg(long, value_name = "MS")]
    pub healthy_after_ms: Option<u32>,

    /// The first wait before a failed actor is restarted; it doubles from there
    #[arg(long, value_name = "MS")]
    pub restart_min_ms: Option<u32>,
    /// The longest wait before a failed actor is restarted
    #[arg(long, value_name = "MS")]
    pub restart_max_ms: Option<u32>,
    /// Restarts within the window beyond which the worker gives up
    #[arg(long, value_name = "N")]
    pub restart_limit: Option<u32>,
    /// The window in which restarts are counted
    #[arg(long, value_name = "MS")]
    pub restart_window_ms: Option<u32>,
    /// A stage that holds work and gets nowhere for so long is restarted
    #[arg(long, value_name = "MS")]
    pub stuck_after_ms: Option<u32>,
    /// How long what is in flight may take to be applied once the worker has been told to stop
    #[arg(long, value_name = "MS")]
    pub drain_timeout_ms: Option<u32>,
}

impl Settings {
    /// The names of all settings, in the order of `--help`.
    pub fn keys() -> Vec<String> {
        Self::augment_args(clap::Command::new("settings"))
            .get_arguments()
            .map(|argument| argument.get_id().to_string())
            .collect()
    }
}
