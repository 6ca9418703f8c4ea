//! The tables in a D1 database of Cloudflare, and the position in the same transaction.
//!
//! D1 has no transaction that stays open between two requests: a batch of statements is one. So what the
//! Postgres sink decides in between is SQL here, and the first statement of each batch is a guard.

mod accounts;
mod client;
mod epochs;
mod error;
mod lexicon_views;
mod migrate;
mod options;
mod position;
mod projections;
mod records;
mod request_size;
mod statement;
mod target;
mod upkeep;

use std::sync::Arc;

use futures_util::future::BoxFuture;

use self::client::Database;
pub use self::options::D1Options;
use self::request_size::RequestSize;
use self::statement::Statement;
pub use self::target::D1Target;
use super::by_feed::by_table;
use super::{Delivery, Sink, SinkError, TableOptions};
use crate::model::{Change, Feed, RandomId};
use crate::store::PieceLimit;

/// What one batch writes at most. As JSON within JSON the bytes are up to four times as many.
const LIMIT: PieceLimit = PieceLimit {
    rows: 1000,
    bytes: 1_500_000,
};

/// A D1 database that follows the change feed.
#[derive(Debug)]
pub struct D1Sink {
    database: Database,
    name: Arc<str>,
    tables: TableOptions,
    /// What this process wrote into its row of `sink_positions` when it took over.
    holder: Option<String>,
    size: RequestSize,
}

impl D1Sink {
    pub fn new(options: D1Options, name: Arc<str>, tables: TableOptions) -> Self {
        Self {
            database: Database::new(options),
            name,
            tables,
            holder: None,
            size: RequestSize::new(LIMIT.rows),
        }
    }

    async fn take(&mut self, feed: &Feed) -> Result<u64, SinkError> {
        self.holder = None;
        migrate::migrate(&mut self.database).await?;
        lexicon_views::bring(&mut self.database, &self.name, &self.tables.views).await?;
        let holder = RandomId::random().to_string();
        let batch = position::take_over(&self.name, feed, &holder)?;
        let rows = self.database.run(&batch).await?;
        let held = position::read(feed, &rows)?;
        let after = feed.begin(Some(&held));
        if held.change != after {
            let batch = position::set(&self.name, feed, &holder, after);
            self.database.run(&batch).await?;
        }
        self.holder = Some(holder);
        Ok(after)
    }

    async fn write(&mut self, delivery: Delivery<'_>) -> Result<(), SinkError> {
        let Some(holder) = &self.holder else {
            return Err(SinkError::Superseded);
        };
        let mut batch = vec![position::guard(&self.name, delivery, holder)];
        let limit = self.tables.purged_before();
        rows(&mut batch, delivery.feed, delivery.changes, &limit)?;
        batch.push(position::advance(&self.name, delivery));
        self.size.begin();
        let written = self.database.run(&batch).await;
        self.size.end(&written);
        written.map(drop)
    }

    async fn tidy(&mut self) -> Result<bool, SinkError> {
        let batch = upkeep::piece(&self.tables.purged_before());
        let rows = self.database.run(&batch).await?;
        upkeep::is_left(&rows)
    }
}

/// Adds what writes the rows of `changes`, which are of `feed`.
fn rows<'a>(
    batch: &mut Vec<Statement>,
    feed: &Feed,
    changes: impl IntoIterator<Item = &'a Change>,
    purged_before: &str,
) -> Result<(), SinkError> {
    let (accounts, records) = by_table(changes);
    accounts::write(batch, feed, &accounts)?;
    records::write(batch, feed, &records)?;
    projections::write(batch, feed, &records, purged_before)
}

impl Sink for D1Sink {
    fn take_over<'a>(&'a mut self, feed: &'a Feed) -> BoxFuture<'a, Result<u64, SinkError>> {
        Box::pin(self.take(feed))
    }

    fn deliver<'a>(&'a mut self, delivery: Delivery<'a>) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(self.write(delivery))
    }

    fn do_upkeep(&mut self) -> BoxFuture<'_, Result<bool, SinkError>> {
        Box::pin(self.tidy())
    }

    fn limit(&self) -> PieceLimit {
        PieceLimit {
            rows: self.size.rows(),
            ..LIMIT
        }
    }
}
