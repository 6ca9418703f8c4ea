//! How an actor passes a point: it can be killed there, too.

use ractor::{ActorCell, ActorProcessingErr};

use crate::testing::fault::{Fault, Faults, Point};

impl Faults {
    /// Passes `point` in `actor`.
    ///
    /// # Errors
    /// Where the plan has the actor fail with an error.
    #[inline]
    pub async fn pass(&self, point: Point, actor: ActorCell) -> Result<(), ActorProcessingErr> {
        let Some(fault) = self.strike(point) else {
            return Ok(());
        };
        if fault == Fault::Kill {
            actor.kill();
        }
        Ok(fault.happen(point).await?)
    }
}
