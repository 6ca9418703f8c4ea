//! From where to where tasks are consumed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::sink::cloudflare_queue::{self, CloudflareQueue, Outside};
use crate::sink::d1::{D1Options, D1Target};
use crate::sink::nats::{NatsOptions, NatsQueue};
use crate::sink::postgres::{PostgresOptions, PostgresTarget};
use crate::sink::queue::Queue;
use crate::sink::target::TableTarget;
use crate::sink::{InvalidSink, SinkOptions, TableOptions, Target};
use crate::supervisor::Policy;
use crate::telemetry::health::Thresholds;

/// What a consumer is started with.
#[derive(Clone, Debug)]
pub struct ConsumeOptions {
    pub from: QueueOptions,
    pub into: TargetOptions,
    /// Where the records are that are too large for the queue.
    pub outside: Outside,
    /// Retries of a task that the target refuses, before it is a dead letter.
    pub retries: u32,
    pub tables: TableOptions,
    pub policy: Policy,
    pub thresholds: Thresholds,
    pub allowed_hosts: Vec<String>,
    pub drain_timeout: Duration,
}

/// A queue.
#[derive(Clone, Debug, PartialEq)]
pub enum QueueOptions {
    Cloudflare(Box<cloudflare_queue::QueueOptions>),
    Nats(Box<NatsOptions>),
}

/// A place of tables.
#[derive(Clone, Debug, PartialEq)]
pub enum TargetOptions {
    D1(D1Options),
    Postgres(PostgresOptions),
}

/// A URL from which, or into which, nothing can be consumed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEnd {
    #[error("nothing can be consumed from {0}; there are nats and cfqueue")]
    From(String),

    #[error("nothing can be consumed into {0}; there are postgres and d1")]
    Into(String),

    #[error(transparent)]
    Url(#[from] InvalidSink),
}

/// The name in the log.
const NAME: &str = "consume";

impl QueueOptions {
    /// Reads the URL of a queue.
    ///
    /// # Errors
    /// If it names none. No error has a password in it.
    pub fn parse(url: &str) -> Result<Self, InvalidEnd> {
        let options = SinkOptions::new(Some(NAME), url)?;
        match options.target {
            Target::CloudflareQueue(options) => Ok(Self::Cloudflare(options)),
            Target::Nats(options) => Ok(Self::Nats(Box::new(options))),
            _ => Err(InvalidEnd::From(options.to_string())),
        }
    }

    /// The queue itself. Nothing is connected yet. A record that is not in it is asked for so many times
    /// more.
    pub(super) fn build(&self, outside: &Outside, retries: u32) -> Arc<dyn Queue> {
        match self {
            Self::Cloudflare(options) => Arc::new(CloudflareQueue::new(
                (**options).clone(),
                outside.clone(),
                retries,
            )),
            Self::Nats(options) => Arc::new(NatsQueue::new((**options).clone())),
        }
    }
}

impl TargetOptions {
    /// Reads the URL of a place of tables.
    ///
    /// # Errors
    /// If it names none. No error has a password in it.
    pub fn parse(url: &str) -> Result<Self, InvalidEnd> {
        let options = SinkOptions::new(Some(NAME), url)?;
        match options.target {
            Target::D1(options) => Ok(Self::D1(options)),
            Target::Postgres(options) => Ok(Self::Postgres(options)),
            _ => Err(InvalidEnd::Into(options.to_string())),
        }
    }

    pub(super) fn build(&self, tables: TableOptions) -> Box<dyn TableTarget> {
        match self {
            Self::D1(options) => Box::new(D1Target::new(options.clone(), NAME.into(), tables)),
            Self::Postgres(options) => {
                Box::new(PostgresTarget::new(options.clone(), NAME.into(), tables))
            }
        }
    }
}

/// The URL without what is secret.
impl fmt::Display for QueueOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cloudflare(options) => options.fmt(f),
            Self::Nats(options) => options.fmt(f),
        }
    }
}

/// The URL without what is secret.
impl fmt::Display for TargetOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::D1(options) => options.fmt(f),
            Self::Postgres(options) => options.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holds invariant 12.10.
    #[test]
    fn what_is_consumed_and_into_what_is_told_without_secrets() {
        let from = QueueOptions::parse("nats://ann:secret@a.example?stream=TASKS").unwrap();
        let into = TargetOptions::parse("postgres://ann:secret@db/x").unwrap();
        for text in [from.to_string(), into.to_string()] {
            assert!(text.contains("ann:***@"), "{text}");
        }
        let wrong = QueueOptions::parse("postgres://ann:secret@db/x").unwrap_err();
        let other = TargetOptions::parse("nats://ann:secret@a.example").unwrap_err();
        for error in [wrong.to_string(), other.to_string()] {
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
