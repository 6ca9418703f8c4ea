//! A store that fails when a test decides so.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use huddle_firehose::model::{Gap, Position, SourceId};
use huddle_firehose::store::plan::InterestSet;
use huddle_firehose::store::sqlite::SqliteStore;
use huddle_firehose::store::{
    Adoption, CrashHistory, FrameDigest, OpenGapCounts, PieceLimit, Purged, RemovalPiece,
    Retention, Store, StoreError, StoredCursor, WriteBatch, Written,
};

/// Asks `guard` before each transaction. All other calls go to the store.
pub struct Guarded<G> {
    pub store: SqliteStore,
    pub guard: G,
}

impl<G> Store for Guarded<G>
where
    G: Fn(&WriteBatch<'_>) -> Result<(), StoreError> + Send + Sync + 'static,
{
    fn apply<'a>(
        &'a self,
        batch: &'a WriteBatch<'a>,
    ) -> BoxFuture<'a, Result<Written, StoreError>> {
        async move {
            (self.guard)(batch)?;
            self.store.apply(batch).await
        }
        .boxed()
    }

    fn adopt_interest<'a>(
        &'a self,
        source: &'a SourceId,
        set: &'a InterestSet,
    ) -> BoxFuture<'a, Result<Adoption, StoreError>> {
        self.store.adopt_interest(source, set)
    }

    fn load_cursor<'a>(
        &'a self,
        source: &'a SourceId,
    ) -> BoxFuture<'a, Result<StoredCursor, StoreError>> {
        self.store.load_cursor(source)
    }

    fn move_cursor<'a>(
        &'a self,
        source: &'a SourceId,
        position: Position,
        gap: Option<&'a Gap>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.store.move_cursor(source, position, gap)
    }

    fn count_open_gaps<'a>(
        &'a self,
        source: &'a SourceId,
    ) -> BoxFuture<'a, Result<OpenGapCounts, StoreError>> {
        self.store.count_open_gaps(source)
    }

    fn begin_run<'a>(
        &'a self,
        source: &'a SourceId,
    ) -> BoxFuture<'a, Result<CrashHistory, StoreError>> {
        self.store.begin_run(source)
    }

    fn mark_in_progress<'a>(
        &'a self,
        source: &'a SourceId,
        frame: Option<FrameDigest>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.store.mark_in_progress(source, frame)
    }

    fn forget_crashes<'a>(&'a self, source: &'a SourceId) -> BoxFuture<'a, Result<(), StoreError>> {
        self.store.forget_crashes(source)
    }

    fn drop_piece(&self, limit: PieceLimit) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.store.drop_piece(limit)
    }

    fn remove_piece(
        &self,
        limit: PieceLimit,
    ) -> BoxFuture<'_, Result<Option<RemovalPiece>, StoreError>> {
        self.store.remove_piece(limit)
    }

    fn log_bytes(&self) -> u64 {
        self.store.log_bytes()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.store.close()
    }

    fn count_removals(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.store.count_removals()
    }

    fn purge<'a>(&'a self, retention: Retention) -> BoxFuture<'a, Result<Purged, StoreError>> {
        self.store.purge(retention)
    }
}
