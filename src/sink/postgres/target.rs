//! The same tables, filled by `consume` from a queue. There is no position: the queue has it.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use sqlx::postgres::PgConnection;
use tokio::time::Instant;

use super::options::PostgresOptions;
use super::transaction::Connections;
use super::{
    PURGE_INTERVAL, TableOptions, accounts, lexicon_views, migrate, position, projections,
    purged_before, records, removals,
};
use crate::model::{Change, ChangedRow, Feed};
use crate::sink::SinkError;
use crate::sink::by_feed::by_feed;
use crate::sink::target::{Feeds, TableTarget};
use crate::sink::task::Task;

/// A Postgres database to which index tasks are applied.
#[derive(Debug)]
pub struct PostgresTarget {
    connections: Connections,
    name: Arc<str>,
    tables: TableOptions,
    /// The tables are up to date.
    is_prepared: bool,
    purged_at: Option<Instant>,
}

impl PostgresTarget {
    pub fn new(options: PostgresOptions, name: Arc<str>, tables: TableOptions) -> Self {
        Self {
            connections: Connections::new(options, name.clone()),
            name,
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
            let views = &self.tables.views;
            lexicon_views::bring(&mut transaction, &self.name, views).await?;
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
        }
        outcome
    }

    async fn write(&mut self, tasks: &[Task], feeds: &Feeds) -> Result<(), SinkError> {
        let purged_before = purged_before(self.tables.request_days);
        let mut transaction = self.begin().await?;
        let mut has_removals = false;
        for (id, changes) in by_feed(tasks, feeds) {
            let feed = match feeds.get(id) {
                Some(feed) => {
                    position::learn_epochs(&mut transaction, feed).await?;
                    feed.clone()
                }
                // Revs and times decide then.
                None => Feed {
                    id: id.clone(),
                    epochs: Vec::new(),
                    last: 0,
                },
            };
            has_removals |= write_feed(&mut transaction, &feed, &changes, &purged_before).await?;
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
            let limit = purged_before(self.tables.request_days);
            has_more |= projections::purge(&mut transaction, &limit).await?;
        }
        self.commit(transaction).await?;
        if is_due && !has_more {
            self.purged_at = Some(Instant::now());
        }
        Ok(has_more)
    }
}

async fn write_feed(
    transaction: &mut PgConnection,
    feed: &Feed,
    changes: &[&Change],
    purged_before: &str,
) -> Result<bool, SinkError> {
    let mut of_accounts = Vec::new();
    let mut of_records = Vec::new();
    for &change in changes {
        match &change.row {
            ChangedRow::Account(account) => of_accounts.push((change, &**account)),
            ChangedRow::Record(record) => of_records.push((change, &**record)),
        }
    }
    let has_removals = accounts::write(transaction, feed, &of_accounts).await?;
    let written = records::write(transaction, feed, &of_records).await?;
    projections::write(transaction, &written, purged_before).await?;
    Ok(has_removals)
}

impl TableTarget for PostgresTarget {
    fn apply<'a>(
        &'a mut self,
        tasks: &'a [Task],
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
