//! What an operator asks of the connection of a source.

use tokio::sync::watch;

use crate::model::Pause;

/// What an operator asks of the connection of a source. The ConnectionActor obeys each change at once.
#[derive(Debug, Default)]
pub struct SourceControl(watch::Sender<Wanted>);

/// How a source is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Nothing is read while it is paused.
    pub pause: Option<Pause>,
    /// Rises with each request to dial anew.
    reconnects: u64,
}

impl SourceControl {
    /// Pauses or resumes.
    pub fn pause(&self, pause: Option<Pause>) {
        self.0.send_if_modified(|wanted| {
            let is_new = wanted.pause != pause;
            wanted.pause = pause;
            is_new
        });
    }

    /// Has the source dialled anew, without a delay.
    pub fn reconnect(&self) {
        self.0.send_modify(|wanted| wanted.reconnects += 1);
    }

    /// Follows the changes.
    pub fn subscribe(&self) -> watch::Receiver<Wanted> {
        self.0.subscribe()
    }
}
