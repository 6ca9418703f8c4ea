//! Brings the set of interest into force under which a worker reads.

use std::time::Duration;

use tokio::time::Instant;

use crate::model::SourceId;
use crate::store::plan::InterestSet;
use crate::store::{Adoption, ChangedInterest, Store, StoreError};

/// How far the adoption of a set has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// The set is in force with all of its consequences.
    pub is_done: bool,
    /// The set is wider than the one before, so a gap was opened.
    pub has_new_gap: bool,
}

/// Makes `set` the set of interest in force, piece by piece, until it is or `time` has passed. What
/// was done is durable, and the next call continues.
///
/// # Errors
/// If the database fails.
pub async fn adopt(
    store: &dyn Store,
    source: &SourceId,
    set: &InterestSet,
    time: Duration,
) -> Result<Adopted, StoreError> {
    let started = Instant::now();
    let mut adopted = Adopted::default();
    while started.elapsed() < time {
        match store.adopt_interest(source, set).await? {
            Adoption::Unchanged => {
                adopted.is_done = true;
                break;
            }
            Adoption::Began(change) => {
                adopted.has_new_gap |= change.unkept_since.is_some();
                log_change(source, set, &change);
            }
            Adoption::Continues => {}
            Adoption::Finished {
                hidden_records,
                voided_repos,
            } if hidden_records > 0 || voided_repos > 0 => tracing::info!(
                hidden_records,
                voided_repos,
                "the change of the set of interest is complete"
            ),
            Adoption::Finished { .. } => {}
        }
    }
    Ok(adopted)
}

fn log_change(source: &SourceId, set: &InterestSet, change: &ChangedInterest) {
    let collections = set.collections().join(", ");
    let (allowed, denied) = (set.allowed().len(), set.denied().len());
    if let Some(from) = change.unkept_since {
        tracing::warn!(
            %source, collections, allowed, denied, from_seq = from.seq,
            "the set of interest was widened; a gap is recorded, open until the repositories \
             that may hold newly wanted records are fetched again (at level none it stays open)"
        );
    }
    if change.is_narrowed && !change.is_first {
        tracing::warn!(
            %source, collections, allowed, denied,
            "the set of interest was narrowed; what is no longer wanted stays in the tables, and \
             the views hide it until it is wanted again and up to date"
        );
    }
}
