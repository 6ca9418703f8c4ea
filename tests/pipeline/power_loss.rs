//! Makes the states of a SQLite file that a loss of power may leave, and lets a worker continue
//! from each. Holds invariant 1.7.
//!
//! A process that is killed loses nothing that it wrote, because the kernel has it. A machine that
//! loses power loses what was not synced. In WAL mode with `synchronous = NORMAL` SQLite syncs as follows
//! (<https://www.sqlite.org/wal.html>, <https://www.sqlite.org/pragma.html#pragma_synchronous>,
//! <https://www.sqlite.org/walformat.html>):
//!
//! - A commit appends frames to the log and syncs nothing. Each sector of the frames after the last
//!   sync may be present, missing, torn, zero or garbage, in any order.
//! - A checkpoint first syncs the log, then writes pages to the file, then syncs the file. In the
//!   meantime any sector of a page that it writes may be the old or the new one. The log is whole.
//! - When all of the log was copied to the file, the log begins again with another salt. Its header is
//!   synced before a frame is written. Frames from before may follow the header.
//! - The index of the log (`-shm`) is never synced, and is lost.
//!
//! So the test takes the files of a worker that was killed at a random moment, and derives only
//! states that follow these rules. The index shows how much of the log was synced: before a
//! checkpoint copies frames, it writes there how far it will copy.
//!
//! Not modelled: disks that report a sync that did not happen, and a file that is missing, which is
//! a new database: the source is read from its configured start.

use std::path::PathBuf;
use std::time::Duration;
use std::{env, fs};

use fastrand::Rng;
use huddle_firehose::testing::fault::Point;
use huddle_firehose::testing::mock_relay::MockRelay;
use sqlx::Executor;
use test_support::mock_relay::{relay, relay_with, unhurried};
use test_support::recorded_frames::{frames, last_seq};
use test_support::running_worker::Worker;
use test_support::tables::Database;
use test_support::waiting::soon;

use crate::child::{Orders, ended_itself};
use crate::crash::seeded;
use crate::history::History;

/// How many states are tried by default; `HUDDLE_POWER_CUTS` sets another number.
const POWER_CUTS: u32 = 24;
const CUTS_EACH: u32 = 4;

/// The lengths of the log at which a commit checkpoints it: in some commits, or never.
const CHECKPOINT_PAGES: [u32; 2] = [30, 10_000];

const SECTOR: usize = 512;
const LOG_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// SQLite's log.
struct Log {
    bytes: Vec<u8>,
    /// The offset up to which it was synced.
    synced: usize,
}

impl Log {
    fn of(database: &Database) -> Option<Self> {
        let bytes = fs::read(log_path(database)).ok()?;
        let salt = bytes.get(16..24)?;
        let page = u32::from_be_bytes(bytes.get(8..12)?.try_into().ok()?) as usize;
        let index = fs::read(database.folder().join("huddle.db-shm")).ok()?;
        // If the index has another salt, all of the log was copied, and it is about to begin again.
        let synced = if index.get(32..40)? == salt {
            let frames = u32::from_ne_bytes(index.get(128..132)?.try_into().ok()?) as usize;
            LOG_HEADER + frames * (FRAME_HEADER + page)
        } else {
            bytes.len()
        };
        Some(Self { bytes, synced })
    }
}

fn log_path(database: &Database) -> PathBuf {
    database.folder().join("huddle.db-wal")
}

/// Makes a state that a loss of power may leave of `killed`.
async fn lose_power(killed: &Database, log: &Log, rng: &mut Rng) -> Database {
    let left = killed.copy();
    match rng.u8(..3) {
        0 => fs::write(log_path(&left), cut(log, rng)).unwrap(),
        1 => fs::write(log_path(&left), garbled(log, rng)).unwrap(),
        _ => interrupt_checkpoint(&left, rng).await,
    }
    left
}

/// Cuts the log at any byte after the last sync.
fn cut<'a>(log: &'a Log, rng: &mut Rng) -> &'a [u8] {
    &log.bytes[..rng.usize(log.synced..=log.bytes.len())]
}

/// Leaves each sector after the last sync as it is, or makes it zero or garbage.
fn garbled(log: &Log, rng: &mut Rng) -> Vec<u8> {
    let mut bytes = log.bytes.clone();
    // Of a hundred sectors: nearly all are whole, or some are lost, or most.
    let losses = [1, 20, 90][rng.usize(..3)];
    let mut start = log.synced;
    while start < bytes.len() {
        let end = ((start / SECTOR + 1) * SECTOR).min(bytes.len());
        if rng.u32(..100) < losses {
            bytes[start..end].fill(0);
            if rng.bool() {
                rng.fill(&mut bytes[start..end]);
            }
        }
        start = end;
    }
    bytes
}

/// Interrupts a checkpoint: the log is whole, and any sector of the file is the old or the new one.
async fn interrupt_checkpoint(database: &Database, rng: &mut Rng) {
    let copied_back = database.copy();
    let mut stranger = copied_back.stranger().await;
    let checkpoint = "PRAGMA wal_checkpoint(PASSIVE)";
    stranger.execute(checkpoint).await.unwrap();
    let new = fs::read(copied_back.path()).unwrap();
    let mut file = fs::read(database.path()).unwrap();
    file.resize(rng.usize(file.len()..=new.len().max(file.len())), 0);
    for (sector, new) in file.chunks_mut(SECTOR).zip(new.chunks(SECTOR)) {
        if rng.bool() {
            sector.copy_from_slice(&new[..sector.len()]);
        }
    }
    fs::write(database.path(), file).unwrap();
}

/// Runs a worker that dies at a random moment of a transaction on `database`.
async fn kill_at_random(database: &Database, relay: &MockRelay, end: u64, rng: &mut Rng) {
    let mut orders = Orders::new(relay, database, end);
    orders.checkpoint_pages = CHECKPOINT_PAGES[rng.usize(..2)];
    orders.dies_at = Some((format!("{:?}", Point::StoreCommitting), rng.u32(1..=15)));
    orders.lingers = Duration::from_micros(rng.u64(..2000));
    let ended = soon(orders.start().wait()).await.unwrap();
    assert!(ended_itself(ended) || ended.success(), "{ended}");
}

/// Makes the state that holds only what was synced.
fn lose_all_that_may_be_lost(killed: &Database, log: &Log) -> Database {
    let left = killed.copy();
    fs::write(log_path(&left), &log.bytes[..log.synced]).unwrap();
    left
}

#[tokio::test]
async fn a_loss_of_power_takes_whole_transactions_from_the_end_and_they_are_read_again() {
    let cuts = env::var("HUDDLE_POWER_CUTS").map_or(POWER_CUTS, |text| text.parse().unwrap());
    let mut rng = seeded();
    let frames = frames();
    let end = last_seq(&frames);
    let slow = relay_with(frames.clone(), unhurried()).await;
    let fast = relay(frames).await;
    let history = History::recorded().await;

    let mut database = Database::new();
    let mut done = 0;
    while done < cuts {
        kill_at_random(&database, &slow, end, &mut rng).await;
        let written = history.assert_whole(&database).await;
        if let Some(log) = Log::of(&database) {
            let bare = lose_all_that_may_be_lost(&database, &log);
            let synced = history.assert_whole(&bare).await;
            for _ in 0..CUTS_EACH {
                let left = lose_power(&database, &log, &mut rng).await;
                let found = history.assert_whole(&left).await;
                println!("written to {written}, synced to {synced}, found at {found}");
                assert!(synced <= found && found <= written);
                if found < end {
                    let worker = Worker::start(&fast, &left).await;
                    worker.completes_recording(end, &left).await;
                }
                done += 1;
            }
        }
        if written == end {
            database = Database::new();
        }
    }
}
