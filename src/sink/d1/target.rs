//! The same tables, filled by `consume` from a queue. There is no position, and so no guard of a batch: a
//! request that comes late or twice is an older task, and each row refuses it.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::client::Database;
use super::options::D1Options;
use super::request_size::RequestSize;
use super::{epochs, lexicon_views, migrate, rows, upkeep};
use crate::model::RandomId;
use crate::sink::by_feed::by_feed;
use crate::sink::target::{Feeds, TableTarget};
use crate::sink::task::Task;
use crate::sink::{SinkError, TableOptions};

/// The tasks of one request.
const MOST_TASKS: u64 = 100;
/// Tasks that are remembered as applied. To apply one once more costs a request only.
const MOST_REMEMBERED: usize = 10_000;

/// What names a task: its feed, epoch and change.
type TaskId = (RandomId, RandomId, u64);

/// A D1 database to which index tasks are applied.
#[derive(Debug)]
pub struct D1Target {
    database: Database,
    name: Arc<str>,
    tables: TableOptions,
    /// The tables are up to date.
    is_prepared: bool,
    size: RequestSize,
    /// Tasks that were applied in the first requests of a call that failed. They come again, and are not
    /// sent again: otherwise tasks that take D1 too long together would begin anew for ever.
    applied: HashSet<TaskId>,
}

impl D1Target {
    pub fn new(options: D1Options, name: Arc<str>, tables: TableOptions) -> Self {
        Self {
            database: Database::new(options),
            name,
            tables,
            is_prepared: false,
            size: RequestSize::new(MOST_TASKS),
            applied: HashSet::new(),
        }
    }

    /// Creates the tables that are missing, once.
    async fn prepare(&mut self) -> Result<(), SinkError> {
        if !self.is_prepared {
            if migrate::migrate(&mut self.database).await? {
                // The tables that had them are gone.
                self.applied.clear();
            }
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

    /// Applies tasks in as many requests as they need.
    async fn apply_all(&mut self, tasks: &[&Task], feeds: &Feeds) -> Result<(), SinkError> {
        self.prepare().await?;
        let left = tasks.iter().copied();
        let left: Vec<&Task> = left
            .filter(|task| !self.applied.contains(&id(task)))
            .collect();
        let mut rest = left.as_slice();
        while !rest.is_empty() {
            let most = usize::try_from(self.size.rows()).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(most.min(rest.len()));
            self.size.begin();
            let written = self.write(now, feeds).await;
            self.size.end(&written);
            written?;
            if self.applied.len() >= MOST_REMEMBERED {
                self.applied.clear();
            }
            if !later.is_empty() {
                self.applied.extend(now.iter().map(|task| id(task)));
            }
            rest = later;
        }
        for task in tasks {
            self.applied.remove(&id(task));
        }
        Ok(())
    }

    async fn write(&mut self, tasks: &[&Task], feeds: &Feeds) -> Result<(), SinkError> {
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

fn id(Task { feed, change }: &Task) -> TaskId {
    (feed.clone(), change.epoch.clone(), change.number)
}

impl TableTarget for D1Target {
    fn apply<'a>(
        &'a mut self,
        tasks: &'a [&'a Task],
        feeds: &'a Feeds,
    ) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async {
            let written = self.apply_all(tasks, feeds).await;
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
