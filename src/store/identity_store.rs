//! The table of identities, which the cache of identities is filled from at a start.

use futures_util::future::BoxFuture;

use super::StoreError;
use crate::identity::{IdentityChange, StoredIdentity};

/// Where identities are kept across restarts. One that is lost is looked up again.
pub trait IdentityStore: Send + Sync + 'static {
    /// Returns the `limit` identities that were looked up last, the oldest of them first.
    fn load_identities(
        &self,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<StoredIdentity>, StoreError>>;

    /// Writes what `take` returns, in one transaction, and returns how many changes that were.
    ///
    /// `take` is called inside the transaction, while no event can be applied. An `#identity` event is
    /// first taken note of in memory, and then applied to the tables. So what `take` returns is older
    /// than every event that is applied later, and not older than one that was applied before.
    fn save_identities<'a>(
        &'a self,
        take: &'a (dyn Fn() -> Vec<IdentityChange> + Send + Sync),
    ) -> BoxFuture<'a, Result<usize, StoreError>>;

    /// Deletes the identities beyond `capacity` that were looked up longest ago.
    fn trim_identities(&self, capacity: usize) -> BoxFuture<'_, Result<u64, StoreError>>;
}
