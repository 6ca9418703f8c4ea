//! The tables after each event of the recording: the oracle for a worker that was stopped at any
//! event.
//!
//! It is made by applying the events one by one, each in one transaction, without actors, batches
//! or sockets.

use std::collections::BTreeMap;

use huddle_firehose::delivery::segment::RawPosition;
use huddle_firehose::source::firehose::decode::{Content, decode};
use huddle_firehose::store::{Store, WriteBatch};
use huddle_firehose::worker;
use test_support::observed_source::{self, Observed};
use test_support::recorded_frames::frames;
use test_support::running_worker::config;
use test_support::tables::{Database, Tables, assert_same_tables};
use tokio::sync::OnceCell;

pub(crate) struct History {
    moments: &'static BTreeMap<u64, Tables>,
    /// The id of the source.
    source: String,
}

impl History {
    pub(crate) async fn recorded() -> Self {
        Self::recorded_from(observed_source::id().as_str()).await
    }

    /// The history of a worker whose source has this id.
    pub(crate) async fn recorded_from(source: &str) -> Self {
        static MOMENTS: OnceCell<BTreeMap<u64, Tables>> = OnceCell::const_new();
        Self {
            moments: MOMENTS.get_or_init(moments).await,
            source: source.to_owned(),
        }
    }

    /// The seq of the first event that writes a row of `table`.
    pub(crate) fn first(&self, table: &str) -> u64 {
        let mut moments = self.moments.iter();
        let (seq, _) = moments
            .find(|(_, tables)| !tables[table].is_empty())
            .unwrap();
        *seq
    }

    /// Asserts that `database`, which no process has open, holds exactly the effects of the events
    /// up to its cursor. Returns the cursor.
    ///
    /// It opens a copy, so that the next worker finds the file as the last one has left it.
    pub(crate) async fn assert_whole(&self, database: &Database) -> u64 {
        let copy = database.copy();
        if copy.path().exists() {
            assert_eq!(copy.rows("PRAGMA integrity_check").await, ["ok"]);
        }
        // Brings the schema up to date, as the next start would.
        drop(copy.store().await);
        self.assert_whole_while_open(&copy).await
    }

    /// Asserts the same of a database that a worker has open.
    pub(crate) async fn assert_whole_while_open(&self, database: &Database) -> u64 {
        let (cursor, found) = database.cursor_and_tables().await;
        let (_, expected) = self.moments.range(..=cursor).next_back().unwrap();
        assert_same_tables(&comparable(found, &self.source), expected);
        cursor
    }
}

/// Removes the cursor, which events without effects move too, and replaces the id `source` by the
/// one of the tests.
fn comparable(mut tables: Tables, source: &str) -> Tables {
    tables.remove("firehose_cursor");
    for (table, rows) in &mut tables {
        let renamed = rows.iter().map(|row| {
            let row = row.replace(source, observed_source::id().as_str());
            match row.split_once(' ') {
                // A hash that includes the id of the source.
                Some((_identity, row)) if *table == "dead_letters" => row.to_owned(),
                _ => row,
            }
        });
        *rows = renamed.collect();
    }
    tables
}

async fn moments() -> BTreeMap<u64, Tables> {
    let source = Observed::at_url("ws://127.0.0.1:1");
    let rules = worker::rules(&(&config()).into(), source.as_ref()).unwrap();
    let database = Database::new();
    let store = database.store().await;
    let mut moments = BTreeMap::from([(
        0,
        comparable(database.tables().await, rules.source.as_str()),
    )]);
    for frame in frames() {
        let decoded = decode(&frame, &rules.interest).unwrap();
        let position = decoded.raw_position().map(RawPosition::position).unwrap();
        let mut effects = Vec::new();
        if let Content::Event(event) = decoded.content {
            rules.effects_of(event, None, &mut effects);
        }
        if effects.is_empty() {
            continue;
        }
        let batch = WriteBatch {
            source: &rules.source,
            effects: &effects,
            position,
            sequence_restarted: false,
        };
        store.apply(&batch).await.unwrap();
        moments.insert(
            position.seq,
            comparable(database.tables().await, rules.source.as_str()),
        );
    }
    moments
}
