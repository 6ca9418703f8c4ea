//! The same tables, filled by `consume` from a queue. There is no position: the queue has it.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use sqlx::postgres::PgConnection;
use tokio::time::Instant;

use super::lexicon_views::LexiconViews;
use super::options::PostgresOptions;
use super::transaction::Connections;
use super::{PURGE_INTERVAL, TableOptions, migrate, position, projections, removals, write_rows};
use crate::sink::SinkError;
use crate::sink::by_feed::by_feed;
use crate::sink::target::{Feeds, TableTarget};
use crate::sink::task::Task;

/// A Postgres database to which index tasks are applied.
#[derive(Debug)]
pub struct PostgresTarget {
    connections: Connections,
    tables: TableOptions,
    views: LexiconViews,
    /// The tables are up to date.
    is_prepared: bool,
    purged_at: Option<Instant>,
}

impl PostgresTarget {
    pub fn new(options: PostgresOptions, name: Arc<str>, tables: TableOptions) -> Self {
        Self {
            connections: Connections::new(options, name.clone()),
            views: LexiconViews::new(name, tables.views.clone()),
            tables,
            is_prepared: false,
            purged_at: None,
        }
    }

    /// Begins a transaction in which the tables are there.
    async fn begin(&mut self) -> Result<PgConnection, SinkError> {
        let mut transaction = self.connections.begin().await?;
        if !self.is_prepared {
            migrate::migrate(&mut transaction, self.connections.schema()).await?;
        }
        Ok(transaction)
    }

    async fn commit(&mut self, transaction: PgConnection) -> Result<(), SinkError> {
        self.connections.commit(transaction).await?;
        self.is_prepared = true;
        Ok(())
    }

    /// After an error, an operator may have taken the tables away.
    fn checked<T>(&mut self, outcome: Result<T, SinkError>) -> Result<T, SinkError> {
        if matches!(outcome, Err(SinkError::Unavailable { .. })) {
            self.is_prepared = false;
            self.views.doubt();
        }
        outcome
    }

    async fn write(&mut self, tasks: &[&Task], feeds: &Feeds) -> Result<(), SinkError> {
        let purged_before = self.tables.purged_before();
        let mut transaction = self.begin().await?;
        let mut has_removals = false;
        for (feed, changes) in by_feed(tasks, feeds) {
            position::learn_epochs(&mut transaction, &feed).await?;
            has_removals |= write_rows(&mut transaction, &feed, changes, &purged_before).await?;
        }
        if has_removals {
            removals::do_piece(&mut transaction).await?;
        }
        self.commit(transaction).await
    }

    async fn tidy(&mut self) -> Result<bool, SinkError> {
        let is_due = self
            .purged_at
            .is_none_or(|last| last.elapsed() >= PURGE_INTERVAL);
        let mut transaction = self.begin().await?;
        let mut has_more = removals::do_piece(&mut transaction).await?;
        if is_due {
            let limit = self.tables.purged_before();
            has_more |= projections::purge(&mut transaction, &limit).await?;
        }
        self.commit(transaction).await?;
        if is_due && !has_more {
            self.purged_at = Some(Instant::now());
        }
        // Behind the transaction in which the tables were made.
        self.views.bring(&mut self.connections, None).await?;
        Ok(has_more)
    }
}

impl TableTarget for PostgresTarget {
    fn apply<'a>(
        &'a mut self,
        tasks: &'a [&'a Task],
        feeds: &'a Feeds,
    ) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async {
            let written = self.write(tasks, feeds).await;
            self.checked(written)
        })
    }

    fn do_upkeep(&mut self) -> BoxFuture<'_, Result<bool, SinkError>> {
        Box::pin(async {
            let tidied = self.tidy().await;
            self.checked(tidied)
        })
    }
}
