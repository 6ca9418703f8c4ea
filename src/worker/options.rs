//! The options of a worker.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::housekeeping::RecheckPlan;
use crate::atproto::pattern::Pattern;
use crate::atproto::syntax::Did;
use crate::command::KeptSettings;
use crate::lexicon::Policies;
use crate::net::dns::DnsServer;
use crate::pipeline;
use crate::repo::Discovering;
use crate::sink::SinkOptions;
use crate::source::process::verification::Verify;
use crate::store::Retention;
use crate::supervisor::Policy;
use crate::telemetry::health::Thresholds;

/// The options of a worker. The settings of the same names say what each value means.
#[derive(Clone, Debug)]
pub struct Options {
    pub source: SourceOptions,
    pub filter: FilterOptions,
    pub lexicons: Option<PathBuf>,
    pub validation: Policies,
    pub verify: Verify,
    pub network: NetworkOptions,
    pub backfill: bool,
    pub backfill_discovery: Discovering,
    pub database_url: String,
    pub allowed_hosts: Vec<String>,
    /// The file with the token of `/changes`; `None` if there is no `/changes`.
    pub changes_token_file: Option<PathBuf>,
    /// Bytes.
    pub memory_budget: usize,
    pub pipeline: pipeline::Options,
    pub policy: Policy,
    pub retention: Retention,
    /// `None`: repositories are compared only when something speaks against them.
    pub recheck: Option<RecheckPlan>,
    pub thresholds: Thresholds,
    pub drain_timeout: Duration,
    pub sinks: Vec<SinkOptions>,
}

impl Options {
    /// The settings that may be changed while a worker runs.
    pub fn kept(&self) -> KeptSettings {
        KeptSettings {
            collections: self.filter.collections.clone(),
            dids_allow: self.filter.dids_allow.clone(),
            dids_deny: self.filter.dids_deny.clone(),
            validation: self.validation.clone(),
        }
    }

    /// These options with other values of those settings.
    #[must_use]
    pub fn keeping(self, kept: KeptSettings) -> Self {
        let KeptSettings {
            collections,
            dids_allow,
            dids_deny,
            validation,
        } = kept;
        Self {
            filter: FilterOptions {
                collections,
                dids_allow,
                dids_deny,
            },
            validation,
            ..self
        }
    }
}

/// The source to follow, and how to dial it.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    pub url: Url,
    pub connect_timeout: Duration,
    pub ping_interval: Duration,
}

/// The records to keep.
#[derive(Clone, Debug)]
pub struct FilterOptions {
    pub collections: Vec<Pattern>,
    pub dids_allow: Vec<Did>,
    pub dids_deny: Vec<Did>,
}

/// The servers to ask about accounts and repositories.
#[derive(Clone, Debug)]
pub struct NetworkOptions {
    pub plc_url: Url,
    /// `None` means the courtesy rate, which rises while the directory answers.
    pub plc_requests_per_second: Option<u32>,
    pub plc_parallelism: usize,
    /// Empty means those of the system.
    pub dns_servers: Vec<DnsServer>,
    /// The number of identities that are kept.
    pub identity_cache: usize,
    /// The relay index, which knows which repositories there are. `None` means the source.
    pub relay_index: Option<Url>,
    pub allow_private_addresses: bool,
}
