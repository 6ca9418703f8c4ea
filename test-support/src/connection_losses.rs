//! Reads lost connections and failed dials from the worker's log.

use std::cell::RefCell;
use std::fmt;
use std::sync::Once;
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

use crate::waiting::eventually;

thread_local! {
    /// A `tokio::test` runs the whole tree on the thread of the test.
    static HEARD: RefCell<Vec<Loss>> = const { RefCell::new(Vec::new()) };
}

#[derive(Clone, Debug, Default)]
pub struct Loss {
    pub reason: String,
    /// The delay before the next attempt, rounded down to milliseconds.
    pub retry_in: Duration,
}

/// The losses that were logged on this thread since this value was made.
pub struct Losses(());

/// Listens on all threads. With a listener for each thread, `tracing` may miss lines that were
/// first written on a thread without a listener.
struct Listener;

/// The fields of one line.
#[derive(Default)]
struct Line {
    message: String,
    loss: Loss,
}

impl Losses {
    pub fn listen() -> Self {
        static LISTENING: Once = Once::new();
        LISTENING.call_once(|| {
            let subscriber = tracing_subscriber::registry().with(Listener);
            tracing::subscriber::set_global_default(subscriber).unwrap();
        });
        HEARD.take();
        Self(())
    }

    pub fn so_far(&self) -> Vec<Loss> {
        HEARD.with_borrow(Clone::clone)
    }

    /// Waits for `count` losses, and returns them.
    pub async fn first(&self, count: usize) -> Vec<Loss> {
        eventually(&format!("{count} losses"), || self.so_far().len() >= count).await;
        let mut losses = self.so_far();
        losses.truncate(count);
        losses
    }
}

impl<S: Subscriber> Layer<S> for Listener {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.target().ends_with("::connection")
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        if line.is_loss() {
            HEARD.with_borrow_mut(|heard| heard.push(line.loss));
        }
    }
}

impl Line {
    /// A silence has its reason in the message, any other loss in the field `reason`.
    fn is_loss(&mut self) -> bool {
        if let Some(reason) = self.message.strip_prefix("reconnecting: ") {
            reason.clone_into(&mut self.loss.reason);
            return true;
        }
        self.message.starts_with("connection lost; retrying in ")
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
