//! What the tables hold behind each event of the recording: the oracle for a worker that was stopped
//! anywhere.
//!
//! It is made by applying one event after the other, each in a transaction of its own, without any
//! actor, batch or socket.

use std::collections::BTreeMap;

use huddle_firehose::protocol::decode::{Content, Place, decode};
use huddle_firehose::source::Source;
use huddle_firehose::store::{Store, WriteBatch};
use huddle_firehose::worker;

use crate::support::{config, frames};
use crate::tables::{Database, Tables, assert_same_tables};

pub(crate) struct History(BTreeMap<u64, Tables>);

impl History {
    /// As a worker that follows `source` makes it.
    pub(crate) async fn of(source: &dyn Source) -> Self {
        let rules = worker::rules(&config(), source).unwrap();
        let database = Database::new();
        let store = database.store().await;
        let mut history = BTreeMap::from([(0, without_cursor(database.tables().await))]);
        for frame in frames() {
            let decoded = decode(&frame, &rules.interest).unwrap();
            let position = decoded.place().map(Place::position).unwrap();
            let mut effects = Vec::new();
            if let Content::Event(event) = decoded.content {
                rules.effects_of(event, &mut effects);
            }
            if effects.is_empty() {
                continue;
            }
            let batch = WriteBatch {
                source: source.id(),
                effects: &effects,
                position,
                sequence_restarted: false,
            };
            store.apply(&batch).await.unwrap();
            history.insert(position.seq, without_cursor(database.tables().await));
        }
        Self(history)
    }

    /// The seq of the first event that puts a row into `table`.
    pub(crate) fn first(&self, table: &str) -> u64 {
        let mut moments = self.0.iter();
        let (seq, _) = moments
            .find(|(_, tables)| !tables[table].is_empty())
            .unwrap();
        *seq
    }

    /// Shows that `database`, which nobody has open, holds what the events up to its cursor make,
    /// whole, and nothing else. Returns the cursor.
    ///
    /// It looks at a copy: the next worker is to find the file as the last one left it.
    pub(crate) async fn assert_whole(&self, database: &Database) -> u64 {
        let copy = database.copy();
        if copy.path().exists() {
            assert_eq!(copy.rows("PRAGMA integrity_check").await, ["ok"]);
        }
        // Brings the schema up to date, as the next start would.
        drop(copy.store().await);
        self.assert_whole_while_open(&copy).await
    }

    /// Shows the same of a database that a worker has open.
    pub(crate) async fn assert_whole_while_open(&self, database: &Database) -> u64 {
        let (cursor, tables) = database.cursor_and_tables().await;
        let (_, expected) = self.0.range(..=cursor).next_back().unwrap();
        assert_same_tables(&without_cursor(tables), expected);
        cursor
    }
}

/// An event that needs nothing moves the cursor and no table.
fn without_cursor(mut tables: Tables) -> Tables {
    tables.remove("firehose_cursor");
    tables
}
