//! What an operator asks of a sink.

use tokio::sync::watch;

use crate::model::Pause;

/// What an operator asks of a sink. The SinkActor obeys before its next step.
#[derive(Debug, Default)]
pub struct SinkControl(watch::Sender<Wanted>);

/// How a sink is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Nothing is delivered while it is paused.
    pub pause: Option<Pause>,
    /// It was removed while the configuration still has it: nothing is delivered, and nothing is told of
    /// what it lacks.
    pub removal: Option<Pause>,
}

impl Wanted {
    /// Whether changes are delivered.
    pub fn is_followed(&self) -> bool {
        self.pause.is_none() && self.removal.is_none()
    }
}

impl SinkControl {
    pub fn set(&self, wanted: Wanted) {
        self.0.send_if_modified(|now| {
            let is_new = *now != wanted;
            *now = wanted;
            is_new
        });
    }

    pub fn current(&self) -> Wanted {
        self.0.borrow().clone()
    }

    /// Follows the changes.
    pub fn subscribe(&self) -> watch::Receiver<Wanted> {
        self.0.subscribe()
    }
}
