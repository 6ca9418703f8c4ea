//! Failures of other firehose consumers in production, each tested once from end to end.
//!
//! Other tests cover the same faults in detail. A test here sends a stream and checks the tables.
//! The numbers in the names:
//!
//! | | what failed | where |
//! |---|---|---|
//! | 1 | connections stayed open, answered pings, and delivered nothing | `links` |
//! | 2 | the process ran, but indexed nothing any more | `durability`, `operator` |
//! | 3 | one collection was missing while the others arrived | `durability` |
//! | 4 | the cursor was ahead of what was durable | `durability` |
//! | 5 | a cursor was used for another sequence | `cursors` |
//! | 6 | one bad event was read again for ever | `bad_data` |
//! | 7 | the consumer was slower than the stream | `links` |
//! | 8 | events of accounts came late, twice, or from the wrong host | `accounts` |
//! | 9 | a resync took an incomplete repository for the whole | `bad_data` |
//! | 10 | memory grew | `durability` |
//! | 11 | the database was locked, or refused a batch for one row | `database` |
//! | 12 | replays and reordering changed the result | `order` |
//! | 13 | odd and hostile data crashed the reader or was lost | `bad_data` |
//! | 14 | events of unknown accounts were dropped | `accounts` |
//! | 15 | a record waited for ever for the record that it refers to | `order` |
//! | 16 | the worker itself could be attacked | `operator` |
//! | 17 | one commit changed one path twice | `order` |
//! | 18 | an import changed a repository without a commit | `accounts` |
//! | 19 | after a key rotation, earlier commits seemed to have false signatures | `accounts` |
//! | 20 | erased events left gaps in the numbering | `cursors` |
//! | 21 | a filter for `com.huddle` also matched `com.huddlefake` | `bad_data` |
//! | 22 | DID documents came in two forms | `src/identity/document.rs` |
//! | 23 | a commit's second operation hid its first | `order` |

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod accounts;
mod bad_data;
mod cursors;
mod database;
mod durability;
mod links;
mod log_builder;
mod operator;
mod order;

use std::time::Duration;

use bytes::Bytes;
use huddle_firehose::config::Config;

use log_builder::last_seq;
use test_support::mock_relay::relay;
use test_support::running_worker::{Worker, config};
use test_support::tables::Database;

/// Lets a worker index `frames` in many small batches.
async fn index(frames: Vec<Bytes>) -> Database {
    index_with(config(), frames).await
}

/// Lets two workers index `frames`: one with one effect in a transaction, the other with all of
/// them.
async fn index_both_ways(frames: &[Bytes]) -> [Database; 2] {
    let alone = Config {
        batch_frames: 1,
        index_batch: 1,
        ..config()
    };
    let together = Config {
        batch_frames: 1000,
        batch_wait: Duration::from_millis(50),
        index_batch: 1000,
        ..config()
    };
    [
        index_with(alone, frames.to_vec()).await,
        index_with(together, frames.to_vec()).await,
    ]
}

async fn index_with(config: Config, frames: Vec<Bytes>) -> Database {
    let database = Database::new();
    index_into(&database, config, frames).await;
    database
}

/// The last of `frames` must be an event.
async fn index_into(database: &Database, config: Config, frames: Vec<Bytes>) {
    let end = last_seq(&frames);
    let relay = relay(frames).await;
    let worker = Worker::start_with(config, &relay, database.store().await).await;
    worker.reaches(end).await;
    worker.assert_restarted(&[]);
    worker.drain().await;
}

/// The records: `did/collection/rkey` and the field `n` of each.
async fn numbers(database: &Database) -> Vec<String> {
    let sql = "SELECT substr(uri, 14) || ' ' || json_extract(record, '$.n') FROM records \
               WHERE deleted = 0 ORDER BY uri";
    database.rows(sql).await
}

async fn dead_letters(database: &Database) -> Vec<String> {
    let sql = "SELECT stage || ': ' || error FROM dead_letters ORDER BY id";
    database.rows(sql).await
}
