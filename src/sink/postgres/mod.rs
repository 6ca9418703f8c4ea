//! The tables in a Postgres database, and the position in the same transaction.
//!
//! Every statement is inside a transaction and has no name, so that pgbouncer may give each transaction
//! another connection.

mod accounts;
mod error;
mod lexicon_views;
mod migrate;
mod options;
mod position;
mod projections;
mod records;
mod removals;
mod target;
mod transaction;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::postgres::PgConnection;
use tokio::time::Instant;

use self::lexicon_views::LexiconViews;
pub use self::options::PostgresOptions;
pub use self::target::PostgresTarget;
use self::transaction::Connections;
use super::by_feed::by_table;
use super::{Delivery, Sink, SinkError, TableOptions};
use crate::model::{Change, Feed, RandomId};
use crate::store::PieceLimit;
use crate::store::change_feed::Cbor;

/// What one transaction writes at most.
const LIMIT: PieceLimit = PieceLimit {
    rows: 1000,
    bytes: 8 << 20,
};

/// How often ended booking requests are purged.
const PURGE_INTERVAL: Duration = Duration::from_secs(600);

/// A Postgres database that follows the change feed.
#[derive(Debug)]
pub struct PostgresSink {
    connections: Connections,
    name: Arc<str>,
    tables: TableOptions,
    views: LexiconViews,
    /// What this process wrote into its row of `sink_positions` when it took over.
    holder: Option<String>,
    purged_at: Option<Instant>,
}

impl PostgresSink {
    pub fn new(options: PostgresOptions, name: Arc<str>, tables: TableOptions) -> Self {
        Self {
            connections: Connections::new(options, name.clone()),
            views: LexiconViews::new(name.clone(), tables.views.clone()),
            name,
            tables,
            holder: None,
            purged_at: None,
        }
    }

    async fn take(&mut self, feed: &Feed) -> Result<u64, SinkError> {
        let mut transaction = self.connections.begin().await?;
        migrate::migrate(&mut transaction, self.connections.schema()).await?;
        let holder = RandomId::random().to_string();
        let taken = position::take_over(&mut transaction, &self.name, feed, &holder).await?;
        self.connections.commit(transaction).await?;
        self.holder = Some(holder);
        self.views.doubt();
        Ok(taken)
    }

    async fn write(&mut self, delivery: Delivery<'_>) -> Result<(), SinkError> {
        let Some(holder) = self.holder.clone() else {
            return Err(SinkError::Superseded);
        };
        let purged_before = self.tables.purged_before();
        let mut transaction = self.connections.begin().await?;
        position::advance(&mut transaction, &self.name, delivery, &holder).await?;
        let Delivery { feed, changes, .. } = delivery;
        if write_rows(&mut transaction, feed, changes, &purged_before).await? {
            removals::do_piece(&mut transaction).await?;
        }
        self.connections.commit(transaction).await
    }

    async fn tidy(&mut self) -> Result<bool, SinkError> {
        let Some(holder) = self.holder.as_deref() else {
            return Ok(false);
        };
        let views = self.views.bring(&mut self.connections, Some(holder));
        views.await?;
        let mut transaction = self.connections.begin().await?;
        let is_due = self
            .purged_at
            .is_none_or(|last| last.elapsed() >= PURGE_INTERVAL);
        let mut has_more = removals::do_piece(&mut transaction).await?;
        if is_due {
            let limit = self.tables.purged_before();
            has_more |= projections::purge(&mut transaction, &limit).await?;
        }
        self.connections.commit(transaction).await?;
        if is_due && !has_more {
            self.purged_at = Some(Instant::now());
        }
        Ok(has_more)
    }
}

/// Writes the rows of `changes`, which are of `feed`. Returns whether accounts were removed.
async fn write_rows<'a>(
    transaction: &mut PgConnection,
    feed: &Feed,
    changes: impl IntoIterator<Item = &'a Change>,
    purged_before: &str,
) -> Result<bool, SinkError> {
    let (of_accounts, of_records) = by_table(changes);
    let has_removals = accounts::write(transaction, feed, &of_accounts).await?;
    let written = records::write(transaction, feed, &of_records).await?;
    projections::write(transaction, &written, purged_before).await?;
    Ok(has_removals)
}

impl Sink for PostgresSink {
    fn take_over<'a>(&'a mut self, feed: &'a Feed) -> BoxFuture<'a, Result<u64, SinkError>> {
        Box::pin(self.take(feed))
    }

    fn deliver<'a>(&'a mut self, delivery: Delivery<'a>) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(self.write(delivery))
    }

    fn do_upkeep(&mut self) -> BoxFuture<'_, Result<bool, SinkError>> {
        Box::pin(self.tidy())
    }

    fn cbor(&self) -> Cbor {
        Cbor::With
    }

    fn limit(&self) -> PieceLimit {
        LIMIT
    }
}
