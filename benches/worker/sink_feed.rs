//! A database with many records, and a sink that follows it from the beginning.

use std::sync::{Arc, OnceLock};

use cid::Cid;
use huddle_firehose::atproto::cbor_value::CborValue;
use huddle_firehose::atproto::json::json_length;
use huddle_firehose::atproto::syntax::{Did, Nsid, RecordKey, Tid};
use huddle_firehose::delivery::budget::Budget;
use huddle_firehose::huddle::project;
use huddle_firehose::model::{Change, Feed, Judgement, Position, SourceId, Validity};
use huddle_firehose::sink::{Follower, Pace, Parts, SinkOptions, TableOptions};
use huddle_firehose::store::change_feed::{Cbor, ChangeFeed};
use huddle_firehose::store::plan::effect::{Effect, RecordChange, RecordUpsert, RecordVersion};
use huddle_firehose::store::sqlite::SqliteStore;
use huddle_firehose::store::{PieceLimit, Store, WriteBatch};
use jiff::Timestamp;
use serde_json::{Value, json};
use simulated_network::tid::tid;
use tempfile::TempDir;

use crate::usage::{Meter, Usage};
use crate::{database, runtime};

/// The records of the database.
pub(crate) const RECORDS: u64 = 100_000;
const ACCOUNTS: u64 = 2_000;
/// Records that are written at once.
const BATCH: u64 = 1_000;
/// Enough for the largest page of a sink.
const MEMORY: usize = 256 << 20;

const OFFER: &str = "com.huddle.slotOffer";
const PROFILE: &str = "com.huddle.profile";

/// The database, which all rounds read, and its changes.
pub(crate) struct Filled {
    pub(crate) feed: Feed,
    pub(crate) changes: Vec<Change>,
    store: Arc<SqliteStore>,
    _folder: TempDir,
}

pub(crate) fn filled() -> &'static Filled {
    static FILLED: OnceLock<Filled> = OnceLock::new();
    FILLED.get_or_init(|| runtime().block_on(fill()))
}

async fn fill() -> Filled {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker.db");
    let store = Arc::new(SqliteStore::open(&database::url(&path)).await.unwrap());
    let source = SourceId::new("wss://relay.example/");
    for first in (1..=RECORDS).step_by(BATCH as usize) {
        let effects: Vec<Effect> = (first..first + BATCH).map(effect).collect();
        let batch = WriteBatch {
            source: &source,
            effects: &effects,
            position: Position {
                seq: first + BATCH - 1,
                time: None,
            },
            sequence_restarted: false,
        };
        store.apply(&batch).await.unwrap();
    }
    let whole = PieceLimit {
        rows: 2 * RECORDS,
        bytes: u64::MAX >> 1,
    };
    let page = store.changes(0, whole, Cbor::Without).await.unwrap();
    assert!(page.changes.len() as u64 >= RECORDS);
    Filled {
        feed: page.feed,
        changes: page.changes,
        store,
        _folder: folder,
    }
}

/// The record of commit `n`: an offer with its text, or a profile.
fn effect(n: u64) -> Effect {
    let text = format!(
        "number {n}: {}",
        "words of a description, and more of them. ".repeat(8)
    );
    let (collection, record) = match n % 2 {
        0 => (
            PROFILE,
            json!({ "$type": PROFILE, "displayName": format!("name {n}"), "description": text }),
        ),
        _ => (OFFER, offer(n, &text)),
    };
    let cbor = serde_ipld_dagcbor::to_vec(&record).unwrap();
    let projection = project(collection, CborValue::of(&cbor)).unwrap();
    let upsert = RecordUpsert {
        cid: Cid::default(),
        json_bytes: json_length(&cbor).unwrap(),
        cbor: cbor.into(),
        validity: Validity::Valid,
        judgement: Judgement::of(["the rules"]),
        version: RecordVersion {
            did: Did::parse(&format!("did:plc:{:024}", n % ACCOUNTS)).unwrap(),
            collection: Nsid::parse(collection).unwrap(),
            rkey: RecordKey::parse(&format!("r{n}")).unwrap(),
            rev: Tid::parse(&tid(1_760_000_000_000_000 + n, 0)).unwrap(),
            seq: n,
            time: Timestamp::from_second(1_760_000_000 + n as i64).unwrap(),
            data: Cid::default(),
            verified: None,
        },
        projection: projection.map(Arc::new),
    };
    Effect::records(vec![RecordChange::Upsert(Box::new(upsert))])
}

fn offer(n: u64, text: &str) -> Value {
    json!({
        "$type": OFFER,
        "title": format!("lesson {n}"),
        "description": text,
        "startsAt": "2999-01-01T10:00:00Z",
        "endsAt": "2999-01-01T11:00:00Z",
        "createdAt": "2026-01-01T00:00:00Z",
        "capacity": 2,
        "tags": ["chess", "beginners"],
    })
}

/// What a new sink at `url` takes to deliver everything.
pub(crate) async fn deliver(url: &str) -> Usage {
    deliver_from(filled().store.clone(), url).await
}

/// The same from another database.
pub(crate) async fn deliver_from(feed: Arc<dyn ChangeFeed>, url: &str) -> Usage {
    let options = SinkOptions::new(Some("bench"), url).unwrap();
    let tables = TableOptions {
        request_days: 36_500,
        views: Arc::from([]),
    };
    let mut follower = Follower::new(Parts {
        name: options.name.clone(),
        sink: options.build(&tables, &feed),
        feed,
        share: Budget::with_sinks(MEMORY, 1).sink_share(),
        retries: 3,
    });
    let meter = Meter::start();
    while follower.step().await.unwrap() != Pace::CaughtUp {}
    meter.read()
}
