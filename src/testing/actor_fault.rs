//! Fault points in actors: the plan can also kill the actor there.

use ractor::{ActorCell, ActorProcessingErr};

use crate::testing::fault::{Fault, Faults, Point};

impl Faults {
    /// Passes `point` in `actor`.
    ///
    /// # Errors
    /// If the plan makes the actor fail with an error.
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
