//! Where an actor can be reached, across its restarts.

use std::sync::{Arc, PoisonError, RwLock};

use ractor::{ActorRef, Message};

/// The address of an actor that may be replaced at any time. The supervisor keeps it up to date.
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
    /// Returns the message if no actor is at the address.
    pub fn cast(&self, message: M) -> Result<(), M> {
        let Some(actor) = self.current() else {
            return Err(message);
        };
        match actor.cast(message) {
            Err(ractor::MessagingErr::SendErr(message)) => Err(message),
            // The other errors concern references of the wrong type. An `ActorRef<M>` has the right
            // one.
            _ => Ok(()),
        }
    }
}

// Derived implementations would require `M: Clone` and `M: Default`.
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
