//! Where an actor can be reached, across its restarts.

use std::sync::{Arc, PoisonError, RwLock};

use ractor::{ActorRef, Message};

/// The address of an actor that may be replaced at any time. The supervisor keeps it up to date;
/// everybody else sends to it.
#[derive(Debug)]
pub struct Address<M>(Arc<RwLock<Option<ActorRef<M>>>>);

impl<M: Message> Address<M> {
    pub fn set(&self, actor: ActorRef<M>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(actor);
    }

    pub fn clear(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub fn current(&self) -> Option<ActorRef<M>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Sends `message`.
    ///
    /// # Errors
    /// Gives the message back where nobody is there to take it.
    pub fn cast(&self, message: M) -> Result<(), M> {
        let Some(actor) = self.current() else {
            return Err(message);
        };
        match actor.cast(message) {
            Err(ractor::MessagingErr::SendErr(message)) => Err(message),
            // The other errors are of wrongly typed references, which an `ActorRef<M>` is not.
            _ => Ok(()),
        }
    }
}

// Derived implementations would ask for `M: Clone` and `M: Default`.
impl<M> Clone for Address<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<M> Default for Address<M> {
    fn default() -> Self {
        Self(Arc::default())
    }
}
