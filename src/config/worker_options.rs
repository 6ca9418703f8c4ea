//! What a configuration tells the worker.

use std::time::Duration;

use super::Config;
use crate::pipeline;
use crate::source::frame_sink::BatchLimits;
use crate::store::Retention;
use crate::supervisor::Policy;
use crate::telemetry::health::Thresholds;
use crate::worker::housekeeping::RecheckPlan;
use crate::worker::{FilterOptions, NetworkOptions, Options, SourceOptions};

impl From<&Config> for Options {
    fn from(config: &Config) -> Self {
        Self {
            source: SourceOptions {
                url: config.source_url.clone(),
                connect_timeout: config.connect_timeout,
                ping_interval: config.ping_interval,
            },
            filter: FilterOptions {
                collections: config.collections.clone(),
                dids_allow: config.dids_allow.clone(),
                dids_deny: config.dids_deny.clone(),
            },
            lexicons: config.lexicons.clone(),
            validation: config.validation.clone(),
            verify: config.verify,
            network: NetworkOptions {
                plc_url: config.plc_url.clone(),
                plc_requests_per_second: config.plc_requests_per_second,
                plc_parallelism: config.plc_parallelism,
                dns_servers: config.dns_servers.clone(),
                identity_cache: config.identity_cache,
                relay_index: config.directory_url.clone(),
                allow_private_addresses: config.allow_private_addresses,
            },
            backfill: config.backfill,
            backfill_discovery: config.backfill_discovery,
            database_url: config.database_url.clone(),
            allowed_hosts: config.allowed_hosts.clone(),
            changes_token_file: config.changes_token_file.clone(),
            memory_budget: usize::try_from(config.memory_budget).unwrap_or(usize::MAX),
            pipeline: pipeline(config),
            policy: Policy {
                restart_min: config.restart_min,
                restart_max: config.restart_max,
                limit: config.restart_limit,
                window: config.restart_window,
                stuck_after: config.stuck_after,
            },
            retention: Retention {
                inactive_request_days: config.request_retention_days,
                dead_letter_days: config.dead_letter_retention_days,
                dead_letters: config.dead_letter_limit.into(),
                dead_letter_bytes: config.dead_letter_bytes,
                closed_gap_days: config.gap_retention_days,
                audit_days: config.audit_retention_days,
            },
            recheck: config.recheck_interval_hours.map(|hours| RecheckPlan {
                interval: Duration::from_secs(3600 * u64::from(hours)),
                repositories: config.recheck_sample,
            }),
            thresholds: thresholds(config),
            drain_timeout: config.drain_timeout,
            sinks: config.sink.clone(),
        }
    }
}

fn pipeline(config: &Config) -> pipeline::Options {
    pipeline::Options {
        start: config.start,
        upstream_window: config.upstream_window,
        decoders: config.decoders,
        batch: BatchLimits {
            frames: config.batch_frames,
            bytes: usize::try_from(config.batch_bytes).unwrap_or(usize::MAX),
        },
        batch_wait: config.batch_wait,
        parked_limit: config.parked_limit,
        index_batch: config.index_batch,
        index_wait: config.index_wait,
        index_retries: config.index_retries,
        checkpoint_events: config.checkpoint_events,
        checkpoint_interval: config.checkpoint_interval,
        silence_min: config.silence_min,
        silence_max: config.silence_max,
        reconnect_min: config.reconnect_min,
        reconnect_max: config.reconnect_max,
        healthy_after: config.healthy_after,
    }
}

fn thresholds(config: &Config) -> Thresholds {
    Thresholds {
        // Three attempts at the slowest pace: a restart of the other side is over by then.
        disconnected: 3 * (config.reconnect_max + config.connect_timeout),
        stalled: config.stuck_after,
        // The backoff of an actor that fails again and again grows as long as this.
        actor_down: config.restart_max / 3,
    }
}
