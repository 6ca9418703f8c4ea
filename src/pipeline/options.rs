//! The options of a pipeline.

use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::source::frame_sink::BatchLimits;

/// The options of the pipeline of one source. The settings of the same names say what each value
/// means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    pub start: Start,
    pub upstream_window: Duration,
    pub decoders: usize,
    pub batch: BatchLimits,
    pub batch_wait: Duration,
    /// Bytes.
    pub parked_limit: u64,
    pub index_batch: usize,
    pub index_wait: Duration,
    pub index_retries: u32,
    pub checkpoint_events: u64,
    pub checkpoint_interval: Duration,
    pub silence_min: Duration,
    pub silence_max: Duration,
    pub reconnect_min: Duration,
    pub reconnect_max: Duration,
    pub healthy_after: Duration,
}

/// Where to begin with a source that has no cursor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// At the oldest event that the source still holds.
    #[default]
    Oldest,
    /// At the next new event; earlier events are recorded as a gap.
    Live,
}
