//! The context of one actor: what it shares with others, its progress, and the points at which
//! tests make it fail.

use std::ops::Deref;
use std::sync::Arc;

use ractor::{ActorCell, ActorProcessingErr};

use super::progress::{Busy, Progress};
use crate::testing::fault::{Fault, Faults, Point};

/// The context of one actor, beside its own state. It dereferences to `C`, which the actor shares
/// with the others of its tree.
pub struct ActorContext<C> {
    shared: Arc<C>,
    progress: Progress,
    faults: Faults,
    cell: ActorCell,
}

/// The arguments with which an actor starts.
pub struct Arguments<C> {
    pub shared: Arc<C>,
    pub progress: Progress,
    pub faults: Faults,
}

impl<C> ActorContext<C> {
    /// Makes the context. It is the first step of an actor's `pre_start`; `point` is its fault
    /// point.
    ///
    /// # Errors
    /// If the fault plan makes the start fail.
    pub async fn start(
        arguments: Arguments<C>,
        cell: ActorCell,
        point: Point,
    ) -> Result<Self, ActorProcessingErr> {
        let Arguments {
            shared,
            progress,
            faults,
        } = arguments;
        let context = Self {
            shared,
            progress,
            faults,
            cell,
        };
        context.pass(point).await?;
        Ok(context)
    }

    pub fn shared(&self) -> &Arc<C> {
        &self.shared
    }

    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Begins a handler, and is its first step. The actor counts as busy until the guard is
    /// dropped.
    ///
    /// # Errors
    /// If the fault plan makes the handler fail.
    pub async fn begin(&self, point: Point) -> Result<Busy, ActorProcessingErr> {
        let busy = self.busy();
        self.pass(point).await?;
        Ok(busy)
    }

    /// Marks the actor as busy until the guard is dropped.
    pub fn busy(&self) -> Busy {
        self.progress.busy()
    }

    /// Passes a fault point.
    ///
    /// # Errors
    /// If the fault plan makes the actor fail here.
    #[inline]
    pub async fn pass(&self, point: Point) -> Result<(), ActorProcessingErr> {
        self.faults.pass(point, &self.cell).await
    }
}

impl<C> Deref for ActorContext<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.shared
    }
}

// A derived implementation would require `C: Clone`.
impl<C> Clone for ActorContext<C> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            progress: self.progress.clone(),
            faults: self.faults.clone(),
            cell: self.cell.clone(),
        }
    }
}

impl Faults {
    /// Passes `point` in `actor`. The plan may also kill the actor.
    ///
    /// # Errors
    /// If the plan makes the actor fail here.
    #[inline]
    pub async fn pass(&self, point: Point, actor: &ActorCell) -> Result<(), ActorProcessingErr> {
        let Some(fault) = self.strike(point) else {
            return Ok(());
        };
        if fault == Fault::Kill {
            actor.kill();
        }
        Ok(fault.happen(point).await?)
    }
}
