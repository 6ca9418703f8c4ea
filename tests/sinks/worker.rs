//! A worker's database in this process, so that a test can do each step.

use std::sync::Arc;

use huddle_firehose::store::plan::InterestSet;
use huddle_firehose::store::plan::effect::Effect;
use huddle_firehose::store::sqlite::SqliteStore;
use huddle_firehose::store::{Adoption, PieceLimit, Store};
use test_support::tables::Database;

use crate::effects::{apply, source};

pub(crate) struct Worker {
    pub(crate) database: Database,
    pub(crate) store: Arc<SqliteStore>,
}

impl Worker {
    pub(crate) async fn new() -> Self {
        let database = Database::new();
        let store = Arc::new(database.store().await);
        Self { database, store }
    }

    pub(crate) async fn apply(&self, effects: Vec<Effect>, seq: u64) {
        apply(&self.store, effects, seq).await;
    }

    pub(crate) async fn finish_removals(&self) {
        while self
            .store
            .remove_piece(PieceLimit::default())
            .await
            .unwrap()
            .is_some()
        {}
    }

    /// Keeps the records of `patterns` from now on, and hides others.
    pub(crate) async fn adopt(&self, patterns: &[&str]) {
        let patterns = patterns.iter().map(|pattern| pattern.parse().unwrap());
        let set = InterestSet::new(patterns);
        loop {
            let adopted = self.store.adopt_interest(&source(), &set).await.unwrap();
            if !matches!(adopted, Adoption::Began(_) | Adoption::Continues) {
                return;
            }
        }
    }
}
