//! The settings of the command line.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::pipeline::Start;
use crate::repo::Discovering;
use crate::source::process::verification::Verify;
use crate::telemetry::log::LogFormat;

/// The flags. For a field that is `None`, the environment, the file or the default applies.
#[derive(Args, Clone, Debug, Default, Serialize)]
#[command(next_help_heading = "Settings")]
pub struct Settings {
    /// URL of the firehose (ws, wss, http or https); the default path is that of subscribeRepos
    #[arg(long, value_name = "URL")]
    pub source_url: Option<String>,
    /// Where to begin with a source that has no cursor yet
    #[arg(long)]
    pub start: Option<Start>,
    /// Drain and exit after the source has been silent for this long
    #[arg(long, value_name = "SECONDS")]
    pub stop_after_idle: Option<u32>,
    /// How far back the source keeps its events; an older cursor causes a gap
    #[arg(long, value_name = "HOURS")]
    pub upstream_window_hours: Option<u32>,

    /// Collections to keep: an NSID, or a prefix such as com.huddle.*
    #[arg(long, value_name = "PATTERN,…", value_delimiter = ',')]
    pub collections: Option<Vec<String>>,
    /// Keep records of these accounts only; empty means all accounts
    #[arg(long, value_name = "DID,…", value_delimiter = ',')]
    pub dids_allow: Option<Vec<String>>,
    /// Keep no records of these accounts
    #[arg(long, value_name = "DID,…", value_delimiter = ',')]
    pub dids_deny: Option<Vec<String>>,
    /// Folder with lexicon documents, besides those of the program: every *.json in it and below it
    #[arg(long, value_name = "DIR")]
    pub lexicons: Option<PathBuf>,
    /// What to do with invalid records (reject, flag, off), for all collections or by pattern
    #[arg(long, value_name = "[PATTERN=]POLICY,…", value_delimiter = ',')]
    pub validation: Option<Vec<String>>,
    /// How much of a commit is verified before it is applied
    #[arg(long)]
    pub verify: Option<Verify>,
    /// The PLC directory, which has the signing keys and hosts of did:plc accounts
    #[arg(long, value_name = "URL")]
    pub plc_url: Option<String>,
    /// Requests to the PLC directory in a second; by default 20, rising to 100 while it answers
    #[arg(long, value_name = "N")]
    pub plc_requests_per_second: Option<u32>,
    /// Number of parallel requests to the PLC directory
    #[arg(long, value_name = "N")]
    pub plc_parallelism: Option<u32>,
    /// DNS servers to ask for handles and lexicons: IP addresses, with or without a port; by default
    /// those of the system
    #[arg(long, value_name = "ADDRESS,…", value_delimiter = ',')]
    pub dns_servers: Option<Vec<String>>,
    /// Number of identities (signing keys and hosts) to keep, in memory and in the database
    #[arg(long, value_name = "N")]
    pub identity_cache: Option<u32>,
    /// Fetch the records that are older than the stream's window, from all repositories that have
    /// any
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub backfill: Option<bool>,
    /// How a backfill finds accounts
    #[arg(long)]
    pub backfill_discovery: Option<Discovering>,
    /// The relay index, which answers listReposByCollection or listRepos; by default the source.
    /// This is not the PLC directory: see --plc-url
    #[arg(long, value_name = "URL")]
    pub directory_url: Option<String>,
    /// Allow requests to private addresses for hosts that DID documents name
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub allow_private_addresses: Option<bool>,

    /// The database: a path, or sqlite://PATH
    #[arg(long, visible_alias = "database", value_name = "PATH")]
    pub database_url: Option<String>,
    /// Age in days at which an inactive booking request is deleted
    #[arg(long, value_name = "DAYS")]
    pub request_retention_days: Option<u32>,
    /// Age in days at which a dead letter is deleted
    #[arg(long, value_name = "DAYS")]
    pub dead_letter_retention_days: Option<u32>,
    /// How many dead letters are kept; the oldest are deleted beyond that
    #[arg(long, value_name = "N")]
    pub dead_letter_limit: Option<u32>,
    /// How many bytes of dead letters are kept, in bytes or as 1GiB; the oldest are deleted beyond that
    #[arg(long, value_name = "SIZE")]
    pub dead_letter_bytes: Option<String>,
    /// Days after which a gap that was closed is deleted
    #[arg(long, value_name = "DAYS")]
    pub gap_retention_days: Option<u32>,
    /// Age in days at which a command and a row of the audit are deleted
    #[arg(long, value_name = "DAYS")]
    pub audit_retention_days: Option<u32>,
    /// How often some repositories are compared with their hosts although nothing speaks against
    /// them; by default never
    #[arg(long, value_name = "HOURS")]
    pub recheck_interval_hours: Option<u32>,
    /// How many repositories that are, chosen at random
    #[arg(long, value_name = "N")]
    pub recheck_sample: Option<u32>,
    /// A sink that follows the tables: postgres://USER@HOST/DATABASE?schema=NAME. May be repeated, and is
    /// added to the sinks of the file
    #[arg(long, value_name = "[NAME=]URL")]
    pub sink: Option<Vec<String>>,

    /// Address and port for /metrics, /healthz, /readyz and /status
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// Names by which the endpoints may be requested, besides IP addresses and localhost
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub allowed_hosts: Option<Vec<String>>,
    /// Address and port on which commands are taken over HTTP; by default only on the control socket
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub admin_listen: Option<String>,
    /// The file with the digests of the tokens for that address: see `admin token new`
    #[arg(long, value_name = "FILE")]
    pub admin_tokens_file: Option<String>,
    /// The file with the token that a request for /changes must have; without it there is no /changes
    #[arg(long, value_name = "FILE")]
    pub changes_token_file: Option<String>,
    /// The format of the log on standard error
    #[arg(long)]
    pub log_format: Option<LogFormat>,

    /// Number of parallel decoders; by default one for each core
    #[arg(long, value_name = "N")]
    pub decoders: Option<u32>,
    /// Limit of data in flight, in bytes or as 64MiB; when it is reached, the socket is not read
    #[arg(long, value_name = "SIZE")]
    pub memory_budget: Option<String>,
    /// Maximum number of frames in a batch
    #[arg(long, value_name = "N")]
    pub batch_frames: Option<u32>,
    /// Maximum size of a batch, in bytes or as 512KiB
    #[arg(long, value_name = "SIZE")]
    pub batch_bytes: Option<String>,
    /// Limit of commits that wait in the database for keys of the PLC directory, in bytes or as 1GiB;
    /// when it is reached, the source is read more slowly
    #[arg(long, value_name = "SIZE")]
    pub parked_limit: Option<String>,
    /// How long a frame waits for others to form a batch
    #[arg(long, value_name = "MS")]
    pub batch_wait_ms: Option<u32>,
    /// Maximum number of index tasks in one transaction
    #[arg(long, value_name = "N")]
    pub index_batch: Option<u32>,
    /// How long an index task waits for others to form a transaction
    #[arg(long, value_name = "MS")]
    pub index_wait_ms: Option<u32>,
    /// Retries of an effect that the database refuses, before it becomes a dead letter
    #[arg(long, value_name = "N")]
    pub index_retries: Option<u32>,
    /// Number of events after which the cursor is saved even if no record was kept
    #[arg(long, value_name = "N")]
    pub checkpoint_events: Option<u32>,
    /// Time after which the cursor is saved even if no record was kept
    #[arg(long, value_name = "MS")]
    pub checkpoint_interval_ms: Option<u32>,

    /// Deadline for connecting: DNS, TCP, TLS and the HTTP upgrade together
    #[arg(long, value_name = "MS")]
    pub connect_timeout_ms: Option<u32>,
    /// Interval of the pings that keep the connection open
    #[arg(long, value_name = "MS")]
    pub ping_interval_ms: Option<u32>,
    /// A silence up to this length never causes a reconnect
    #[arg(long, value_name = "MS")]
    pub silence_min_ms: Option<u32>,
    /// A silence of this length always causes a reconnect
    #[arg(long, value_name = "MS")]
    pub silence_max_ms: Option<u32>,
    /// First delay before a reconnect; it doubles from there
    #[arg(long, value_name = "MS")]
    pub reconnect_min_ms: Option<u32>,
    /// Longest delay before a reconnect
    #[arg(long, value_name = "MS")]
    pub reconnect_max_ms: Option<u32>,
    /// How long a connection must last before the delays start again at the first
    #[arg(long, value_name = "MS")]
    pub healthy_after_ms: Option<u32>,

    /// First delay before a failed actor is restarted; it doubles from there
    #[arg(long, value_name = "MS")]
    pub restart_min_ms: Option<u32>,
    /// Longest delay before a failed actor is restarted
    #[arg(long, value_name = "MS")]
    pub restart_max_ms: Option<u32>,
    /// Number of restarts within the window after which the worker gives up
    #[arg(long, value_name = "N")]
    pub restart_limit: Option<u32>,
    /// The window in which restarts are counted
    #[arg(long, value_name = "MS")]
    pub restart_window_ms: Option<u32>,
    /// A stage that has work and makes no progress for this long is restarted
    #[arg(long, value_name = "MS")]
    pub stuck_after_ms: Option<u32>,
    /// How long the worker may take to apply the data in flight after it was told to stop
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
