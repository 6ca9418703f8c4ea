//! The connections that were lost or never made, as the worker's log tells of them.

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
    /// The whole tree of a `tokio::test` runs on the thread of its test.
    static HEARD: RefCell<Vec<Loss>> = const { RefCell::new(Vec::new()) };
}

#[derive(Clone, Debug, Default)]
pub struct Loss {
    pub reason: String,
    /// How long the next attempt is put off, to the millisecond below.
    pub retry_in: Duration,
}

/// What was heard on this thread since it was made.
pub struct Losses(());

/// Listens on all threads: with a listener for each, `tracing` may miss lines that were first
/// written on a thread that has none.
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

    /// The first `count` losses, once there are so many.
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
        if line.message == "not connected" {
            HEARD.with_borrow_mut(|heard| heard.push(line.loss));
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
