//! The same tables, filled by `consume` from a queue. There is no position, and so no guard of a batch: a
//! request that comes late or twice is an older task, and each row refuses it.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::client::Database;
use super::options::D1Options;
use super::{epochs, lexicon_views, migrate, rows, upkeep};
use crate::sink::by_feed::by_feed;
use crate::sink::target::{Feeds, TableTarget};
use crate::sink::task::Task;
use crate::sink::{SinkError, TableOptions};

/// A D1 database to which index tasks are applied.
#[derive(Debug)]
pub struct D1Target {
    database: Database,
    name: Arc<str>,
    tables: TableOptions,
    /// The tables are up to date.
    is_prepared: bool,
}

impl D1Target {
    pub fn new(options: D1Options, name: Arc<str>, tables: TableOptions) -> Self {
        Self {
            database: Database::new(options),
            name,
            tables,
            is_prepared: false,
        }
    }

    /// Creates the tables that are missing, once.
    async fn prepare(&mut self) -> Result<(), SinkError> {
        if !self.is_prepared {
            migrate::migrate(&mut self.database).await?;
            lexicon_views::bring(&mut self.database, &self.name, &self.tables.views).await?;
            self.is_prepared = true;
        }
        Ok(())
    }

    /// After an error, an operator may have taken the tables away.
    fn checked<T>(&mut self, outcome: Result<T, SinkError>) -> Result<T, SinkError> {
        if matches!(outcome, Err(SinkError::Unavailable { .. })) {
            self.is_prepared = false;
        }
        outcome
    }

    async fn write(&mut self, tasks: &[&Task], feeds: &Feeds) -> Result<(), SinkError> {
        self.prepare().await?;
        let limit = self.tables.purged_before();
        let mut batch = Vec::new();
        for (feed, changes) in by_feed(tasks, feeds) {
            epochs::learn(&mut batch, &feed)?;
            rows(&mut batch, &feed, changes, &limit)?;
        }
        match batch.is_empty() {
            true => Ok(()),
            false => self.database.run(&batch).await.map(drop),
        }
    }

    async fn tidy(&mut self) -> Result<bool, SinkError> {
        self.prepare().await?;
        let batch = upkeep::piece(&self.tables.purged_before());
        let rows = self.database.run(&batch).await?;
        upkeep::is_left(&rows)
    }
}

impl TableTarget for D1Target {
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
