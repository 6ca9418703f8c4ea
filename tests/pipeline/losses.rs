//! The connections that were lost or never made, as the worker's log tells of them.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::support::eventually;

#[derive(Clone, Debug, Default)]
pub(crate) struct Loss {
    pub(crate) reason: String,
    /// How long the next attempt is put off, to the millisecond below.
    pub(crate) retry_in: Duration,
}

/// Listens to the log of this thread, on which the whole tree of a `tokio::test` runs.
pub(crate) struct Losses {
    seen: Seen,
    _guard: DefaultGuard,
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Loss>>>);

/// The fields of one line.
#[derive(Default)]
struct Line {
    message: String,
    loss: Loss,
}

impl Losses {
    pub(crate) fn listen() -> Self {
        let seen = Seen::default();
        let guard = tracing_subscriber::registry()
            .with(seen.clone())
            .set_default();
        Self {
            seen,
            _guard: guard,
        }
    }

    pub(crate) fn so_far(&self) -> Vec<Loss> {
        self.seen.0.lock().unwrap().clone()
    }

    /// The first `count` losses, once there are so many.
    pub(crate) async fn first(&self, count: usize) -> Vec<Loss> {
        eventually(&format!("{count} losses"), || self.so_far().len() >= count).await;
        let mut losses = self.so_far();
        losses.truncate(count);
        losses
    }
}

impl<S: Subscriber> Layer<S> for Seen {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        if line.message == "not connected" {
            self.0.lock().unwrap().push(line.loss);
        }
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "reason" {
            value.clone_into(&mut self.loss.reason);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "retry_in_ms" {
            self.loss.retry_in = Duration::from_millis(value);
        }
    }
}
