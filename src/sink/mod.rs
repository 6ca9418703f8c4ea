//! What follows the change feed: each sink delivers it to another place, from a position of its own.

pub mod actor;
pub(crate) mod bisection;
mod by_feed;
mod cloudflare;
pub mod cloudflare_queue;
mod control;
pub mod d1;
mod follower;
pub mod item;
mod lexicon_views;
pub mod nats;
mod nul;
mod options;
mod pages;
pub mod postgres;
mod projected;
pub mod queue;
mod secret;
pub mod target;
pub mod task;
pub mod webhook;

use std::fmt;
use std::future::ready;
use std::time::Duration;

use futures_util::future::BoxFuture;

pub use self::control::{SinkControl, Wanted};
pub use self::follower::{Follower, Pace, Parts, Rewound};
pub use self::options::{InvalidSink, SinkOptions, TableOptions, Target};
use crate::model::{Change, Feed};
use crate::store::PieceLimit;
use crate::store::change_feed::Cbor;
use crate::telemetry::excerpt::shown;

/// The longest delay that a sink may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// A place that follows the change feed.
///
/// A future may be dropped at any time, between any two steps: then it is not known what the sink has.
/// The follower calls [`Self::take_over`] again after each failure.
pub trait Sink: Send + 'static {
    /// Becomes the only one that delivers `feed` under this name, and returns the number behind which
    /// delivery goes on: [`Feed::begin`] of the position that the sink has.
    fn take_over<'a>(&'a mut self, feed: &'a Feed) -> BoxFuture<'a, Result<u64, SinkError>>;

    /// Delivers consecutive changes, and moves the position with them: all of it or nothing. To deliver
    /// them once more changes nothing.
    fn deliver<'a>(&'a mut self, delivery: Delivery<'a>) -> BoxFuture<'a, Result<(), SinkError>>;

    /// Does a piece of other work, such as the deletion of what an account had written. Returns whether
    /// more is left.
    fn do_upkeep(&mut self) -> BoxFuture<'_, Result<bool, SinkError>> {
        Box::pin(ready(Ok(false)))
    }

    /// Whether it delivers the CBOR of records.
    fn cbor(&self) -> Cbor {
        Cbor::Without
    }

    /// How much one delivery may have at most. A single change may have more bytes.
    fn limit(&self) -> PieceLimit;
}

/// Changes to deliver.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// The feed that the sink has taken over.
    pub feed: &'a Feed,
    /// In the order of their numbers. It may be empty: then only the position moves, which an operator
    /// may have wanted to go back.
    pub changes: &'a [Change],
    /// The number up to which the sink has everything.
    pub from: u64,
    /// The number up to which it has everything afterwards.
    pub to: u64,
}

/// Why a sink did not take something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// It may take it later.
    #[error("{reason}")]
    Unavailable {
        reason: String,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },

    /// It refuses at least one of the changes, and would refuse it again.
    #[error("{0}")]
    Refused(String),

    /// Another process delivers under the same name.
    #[error("another process has taken over; two workers need two names or two databases")]
    Superseded,
}

impl SinkError {
    pub fn unavailable(reason: impl fmt::Display) -> Self {
        Self::Unavailable {
            reason: reason.to_string(),
            retry_after: None,
        }
    }

    /// There was no answer within `deadline`.
    pub(crate) fn late(deadline: Duration) -> Self {
        Self::unavailable(format_args!("no answer within {} s", deadline.as_secs()))
    }

    /// The same with an excerpt of its reason, in one line. A database or a host may say megabytes.
    pub(crate) fn shown(self) -> Self {
        match self {
            Self::Unavailable {
                reason,
                retry_after,
            } => Self::Unavailable {
                reason: shown(&reason),
                retry_after,
            },
            Self::Refused(reason) => Self::Refused(shown(&reason)),
            Self::Superseded => Self::Superseded,
        }
    }

    /// How long the next attempt waits: `delay`, or as long as the sink asks for if that is longer.
    pub(crate) fn delay(&self, delay: Duration) -> Duration {
        match self {
            Self::Unavailable {
                retry_after: Some(asked),
                ..
            } => delay.max((*asked).min(LONGEST_PAUSE)),
            Self::Unavailable { .. } | Self::Refused(_) | Self::Superseded => delay,
        }
    }
}
