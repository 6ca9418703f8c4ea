//! How others who follow the firehose failed in production, each failure met once from end to end.
//!
//! Where the same fault is tested closely elsewhere, the test here is what its victims would have
//! wished for: the stream comes in, and the tables are looked at. The numbers in the names:
//!
//! | | what failed | where |
//! |---|---|---|
//! | 1 | links stayed open, answered pings, and carried nothing | `links` |
//! | 2 | the process lived while nothing was indexed any more | `durability`, `operator` |
//! | 3 | one collection was missing while the others flowed | `durability` |
//! | 4 | the cursor was ahead of what was durable | `durability` |
//! | 5 | cursors pointed into other sequences | `cursors` |
//! | 6 | one bad event came again for ever | `bad_data` |
//! | 7 | the consumer was slower than the stream | `links` |
//! | 8 | events of accounts came late, twice, or from the wrong host | `accounts` |
//! | 9 | a resync took a part for the whole | `bad_data` |
//! | 10 | memory grew | `durability` |
//! | 11 | the database was locked, or refused a batch for one row | `database` |
//! | 12 | replays and reordering changed the result | `order` |
//! | 13 | odd and hostile data crashed the reader or was lost | `bad_data` |
//! | 14 | events of accounts that nobody knew were dropped | `accounts` |
//! | 15 | a record waited for ever for the one that it refers to | `order` |
//! | 16 | the worker itself could be attacked | `operator` |
//! | 17 | one commit touched one path twice | `order` |
//! | 18 | an import changed a repository without a commit | `accounts` |
//! | 19 | a new key made earlier commits look forged | `accounts` |
//! | 20 | erased events left holes in the numbering | `cursors` |
//! | 21 | a filter took `com.huddlefake` for `com.huddle` | `bad_data` |
//! | 22 | DID documents came in two forms | `src/identity/document.rs` |
//! | 23 | a commit's second operation hid its first | `order` |

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod accounts;
mod bad_data;
mod cursors;
mod database;
mod durability;
mod links;
mod operator;
mod order;
mod scribe;

use std::time::Duration;

use bytes::Bytes;
use huddle_firehose::config::Config;

use scribe::last_seq;
use test_support::mock_relay::relay;
use test_support::running_worker::{Worker, config};
use test_support::tables::Database;

/// Has a worker index `frames`, in many small batches.
async fn index(frames: Vec<Bytes>) -> Database {
    index_with(config(), frames).await
}

/// Has two workers index `frames`: one an effect at a time, the other in a single transaction.
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

/// What is there, as `did/collection/rkey` and the field `n` of each record.
async fn numbers(database: &Database) -> Vec<String> {
    let sql = "SELECT substr(uri, 14) || ' ' || json_extract(record, '$.n') FROM records \
               WHERE deleted = 0 ORDER BY uri";
    database.rows(sql).await
}

async fn dead_letters(database: &Database) -> Vec<String> {
    let sql = "SELECT stage || ': ' || error FROM dead_letters ORDER BY id";
    database.rows(sql).await
}
