//! A place of tables to which index tasks are applied, whatever queue they come from.

use std::collections::HashMap;

use futures_util::future::BoxFuture;

use super::SinkError;
use super::task::Task;
use crate::model::{Feed, RandomId};

/// What is known of the feeds that tasks are of.
pub type Feeds = HashMap<RandomId, Feed>;

/// A place of tables.
///
/// A future may be dropped at any time, between any two steps: then it is not known what was applied,
/// and all of it comes again.
pub trait TableTarget: Send + 'static {
    /// Creates the tables that are missing, and applies tasks in their order: all of them, or some of the first
    /// ones if it fails. To apply them once more, in any batches, changes nothing. An older task changes nothing
    /// of what a newer one has made. `feeds` has each feed of which the epochs are known.
    fn apply<'a>(
        &'a mut self,
        tasks: &'a [&'a Task],
        feeds: &'a Feeds,
    ) -> BoxFuture<'a, Result<(), SinkError>>;

    /// Creates the tables that are missing, and does a piece of other work, such as the deletion of the rows
    /// of a removed account. Returns whether more is left.
    fn do_upkeep(&mut self) -> BoxFuture<'_, Result<bool, SinkError>>;
}
