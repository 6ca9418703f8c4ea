//! A database for each test, and short constructors of effects.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use huddle_firehose::atproto::json::json_length;
use huddle_firehose::atproto::syntax::{Did, Nsid, RecordKey, Tid};
use huddle_firehose::huddle::{BookingRequestRow, BookingRow, Projection, SlotOfferRow};
use huddle_firehose::model::{
    DeadLetter, Gap, GapCause, Judgement, Position, SourceId, Stage, Validity,
};
use huddle_firehose::store::plan::effect::{
    AccountChange, ChainUpdate, CommitEffect, Effect, IdentityChange, RecordChange, RecordDelete,
    RecordUpsert, RecordVersion,
};
use huddle_firehose::store::sqlite::{Options, SqliteStore};
use huddle_firehose::store::{Store, StoreError, WriteBatch, Written};
use ipld_core::ipld;
use jiff::Timestamp;
use sqlx::sqlite::SqliteConnection;
use tempfile::TempDir;
use test_support::tables::stranger_at;

pub(crate) const ALICE: &str = "did:plc:alice";
pub(crate) const BOB: &str = "did:plc:bob";
pub(crate) const CAROL: &str = "did:plc:carol";

/// How long to wait for a lock or a connection. It is longer than a busy machine needs.
const SLOT_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) struct Database {
    pub(crate) store: SqliteStore,
    directory: TempDir,
}

impl Database {
    pub(crate) async fn new() -> Self {
        Self::with_busy_timeout(SLOT_TIMEOUT).await
    }

    pub(crate) async fn with_busy_timeout(busy_timeout: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory, busy_timeout).await;
        Self { store, directory }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("huddle.db")
    }

    pub(crate) fn url(&self) -> String {
        url(&self.directory)
    }

    /// Reopens the file, as after a restart of the process.
    pub(crate) async fn reopen(self) -> Self {
        let Self { store, directory } = self;
        drop(store);
        let store = open(&directory, SLOT_TIMEOUT).await;
        Self { store, directory }
    }

    /// Another process's connection.
    pub(crate) async fn other_process(&self) -> SqliteConnection {
        stranger_at(&self.path()).await
    }

    pub(crate) async fn execute(&self, sql: &'static str) {
        sqlx::raw_sql(sql)
            .execute(&mut self.other_process().await)
            .await
            .unwrap();
    }

    /// Applies `effects` without moving the cursor.
    pub(crate) async fn apply(&self, effects: &[Effect]) -> Written {
        self.try_apply(effects, 0).await.unwrap()
    }

    pub(crate) async fn try_apply(
        &self,
        effects: &[Effect],
        seq: u64,
    ) -> Result<Written, StoreError> {
        let batch = WriteBatch {
            source: &source(),
            effects: &commits(effects),
            position: Position { seq, time: None },
            sequence_restarted: false,
        };
        self.store.apply(&batch).await
    }

    /// The first column of every row, as text.
    pub(crate) async fn column(&self, sql: &'static str) -> Vec<String> {
        sqlx::query_scalar(sql)
            .fetch_all(self.store.reader())
            .await
            .unwrap()
    }

    pub(crate) async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql)
            .fetch_one(self.store.reader())
            .await
            .unwrap()
    }

    /// SQLite's query plan for `sql`, one line for each step.
    pub(crate) async fn plan(&self, sql: &str) -> String {
        let rows: Vec<(i64, i64, i64, String)> =
            sqlx::query_as(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")))
                .fetch_all(self.store.reader())
                .await
                .unwrap();
        rows.into_iter()
            .map(|(.., step)| step + "\n")
            .collect::<String>()
    }

    /// The contents of all tables, without write times and the order of rows.
    pub(crate) async fn contents(&self) -> Vec<String> {
        const TABLES: [&str; 11] = [
            "SELECT json_array('record', uri, cid, rev, seq, time, record, hex(record_cbor), \
             validity, invalid_reason, deleted, verified) FROM records ORDER BY uri",
            "SELECT json_array('account', did, handle, handle_as_of, active, status, as_of, \
             as_of_seq, removed_at, held_status, is_unconfirmed, suspected_status) FROM accounts ORDER BY did",
            "SELECT json_array('repo', did, rev, data, seq, source, time, state, cause, is_whole, \
             has_parked, recheck_cause, retry_at, attempts) FROM repos ORDER BY did",
            "SELECT json_array('parked', did, source, seq, hex(frame)) \
             FROM parked_commits ORDER BY did, id",
            "SELECT json_array('resync', did, cause, host, rev, created, updated, deleted, \
             unchanged, bytes, error) FROM resyncs ORDER BY id",
            "SELECT json_array('discovery', collection, cursor, repos, ended_at IS NOT NULL) \
             FROM discoveries ORDER BY collection",
            "SELECT json_array('offer', uri, cid, rev, title, capacity, tags, status) \
             FROM offers_index ORDER BY uri",
            "SELECT json_array('request', uri, cid, rev, offer_uri, status) \
             FROM booking_requests ORDER BY uri",
            "SELECT json_array('booking', uri, cid, rev, offer_uri, status) \
             FROM bookings ORDER BY uri",
            "SELECT json_array('dead letter', source, seq, uri, stage, hex(raw)) \
             FROM dead_letters ORDER BY fingerprint",
            "SELECT json_array('gap', source, cause, from_seq, to_seq) \
             FROM gaps ORDER BY source, cause, from_seq, to_seq",
        ];
        let mut contents = Vec::new();
        for table in TABLES {
            contents.extend(self.column(table).await);
        }
        contents
    }
}

async fn open(directory: &TempDir, busy_timeout: Duration) -> SqliteStore {
    let options = Options {
        busy_timeout,
        ..Options::default()
    };
    SqliteStore::open_with(&url(directory), options)
        .await
        .unwrap()
}

fn url(directory: &TempDir) -> String {
    format!("sqlite://{}", directory.path().join("huddle.db").display())
}

/// Joins `effects` like an event: the records of a commit with a chain update belong to it. A test
/// lists them after their commit.
pub(crate) fn commits(effects: &[Effect]) -> Vec<Effect> {
    let mut gathered: Vec<Effect> = Vec::new();
    for effect in effects {
        match (gathered.last_mut(), effect) {
            (Some(Effect::Commit(commit)), Effect::Commit(rest)) if belongs(rest, commit) => {
                commit.records.extend(rest.records.iter().cloned());
            }
            _ => gathered.push(effect.clone()),
        }
    }
    gathered
}

fn belongs(rest: &CommitEffect, commit: &CommitEffect) -> bool {
    let is_of = |chain: &ChainUpdate, record: &RecordChange| {
        let version = record.version();
        version.is_some_and(|version| version.did == chain.did && version.rev == chain.rev)
    };
    let chain = commit.chain.as_ref();
    rest.chain.is_none()
        && chain.is_some_and(|chain| rest.records.iter().all(|record| is_of(chain, record)))
}

pub(crate) fn source() -> SourceId {
    SourceId::new("wss://relay.example/xrpc/com.atproto.sync.subscribeRepos")
}

/// The `n`th second of the tests' time.
pub(crate) fn second(n: u64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + n as i64).unwrap()
}

pub(crate) fn uri(did: &str, collection: &str, rkey: &str) -> String {
    format!("at://{did}/{collection}/{rkey}")
}

/// The version of a record at commit `n`: its rev, seq and time rise with `n`.
pub(crate) fn version(did: &str, collection: &str, rkey: &str, n: u64) -> RecordVersion {
    RecordVersion {
        did: Did::parse(did).unwrap(),
        collection: Nsid::parse(collection).unwrap(),
        rkey: RecordKey::parse(rkey).unwrap(),
        rev: rev(n),
        seq: n,
        time: second(n),
        data: Cid::default(),
        verified: None,
    }
}

pub(crate) fn rev(n: u64) -> Tid {
    const DIGITS: &[u8; 32] = b"234567abcdefghijklmnopqrstuvwxyz";
    let digit = |place: u32| char::from(DIGITS[(n >> (5 * place)) as usize & 31]);
    let number: String = (0..4).rev().map(digit).collect();
    Tid::parse(&format!("3k2222222{number}")).unwrap()
}

/// A record of a collection that has no table of its own.
pub(crate) fn put(did: &str, rkey: &str, n: u64) -> Effect {
    upsert(version(did, "com.huddle.profile", rkey, n), None)
}

pub(crate) fn delete(did: &str, collection: &str, rkey: &str, n: u64) -> Effect {
    let version = version(did, collection, rkey, n);
    Effect::records(vec![RecordChange::Delete(RecordDelete { version })])
}

/// The rules by which all records of the tests are judged.
pub(crate) fn judgement() -> Judgement {
    Judgement::of(["the rules"])
}

pub(crate) fn upsert(version: RecordVersion, projection: Option<Projection>) -> Effect {
    let cbor = serde_ipld_dagcbor::to_vec(&ipld!({ "n": version.seq })).unwrap();
    let upsert = RecordUpsert {
        cid: Cid::default(),
        json_bytes: json_length(&cbor).unwrap(),
        cbor: cbor.into(),
        validity: Validity::Valid,
        judgement: judgement(),
        version,
        projection: projection.map(Arc::new),
    };
    Effect::records(vec![RecordChange::Upsert(Box::new(upsert))])
}

pub(crate) fn slot_offer() -> SlotOfferRow {
    SlotOfferRow {
        title: "Pairing".to_owned(),
        description: None,
        starts_at: "2999-01-01T10:00:00.000Z".to_owned(),
        ends_at: "2999-01-01T11:00:00.000Z".to_owned(),
        timezone: Some("Europe/Berlin".to_owned()),
        duration_minutes: Some(60),
        capacity: None,
        location: None,
        tags: vec!["rust".to_owned(), "\"quoted\"".to_owned()],
        status: "open".to_owned(),
        created_at: "2026-01-01T00:00:00.000Z".to_owned(),
    }
}

pub(crate) fn offer(did: &str, rkey: &str, n: u64, row: SlotOfferRow) -> Effect {
    upsert(
        version(did, "com.huddle.slotOffer", rkey, n),
        Some(Projection::SlotOffer(row)),
    )
}

pub(crate) fn request(did: &str, rkey: &str, n: u64, offer_uri: &str, status: &str) -> Effect {
    let row = BookingRequestRow {
        offer_uri: offer_uri.to_owned(),
        offer_cid: Cid::default().to_string(),
        note: None,
        requested_start: None,
        status: status.to_owned(),
        created_at: "2026-01-01T00:00:00.000Z".to_owned(),
    };
    upsert(
        version(did, "com.huddle.bookingRequest", rkey, n),
        Some(Projection::BookingRequest(row)),
    )
}

pub(crate) fn booking(did: &str, rkey: &str, n: u64, offer_uri: &str, status: &str) -> Effect {
    let row = BookingRow {
        offer_uri: offer_uri.to_owned(),
        offer_cid: Cid::default().to_string(),
        request_uri: None,
        request_cid: None,
        starts_at: "2999-01-01T10:00:00.000Z".to_owned(),
        ends_at: "2999-01-01T11:00:00.000Z".to_owned(),
        status: status.to_owned(),
        created_at: "2026-01-01T00:00:00.000Z".to_owned(),
    };
    upsert(
        version(did, "com.huddle.booking", rkey, n),
        Some(Projection::Booking(row)),
    )
}

/// A change of status; `None` means active.
pub(crate) fn account(did: &str, status: Option<&str>, n: u64) -> Effect {
    Effect::Account(AccountChange {
        did: Did::parse(did).unwrap(),
        active: status.is_none(),
        status: status.map(str::to_owned),
        is_unconfirmed: false,
        wants_history: false,
        seq: n,
        time: second(n),
    })
}

pub(crate) fn identity(did: &str, handle: Option<&str>, n: u64) -> Effect {
    Effect::Identity(IdentityChange {
        did: Did::parse(did).unwrap(),
        handle: handle.map(str::to_owned),
        seq: n,
        time: second(n),
    })
}

pub(crate) fn dead_letter(n: u64) -> Effect {
    Effect::DeadLetter(Box::new(DeadLetter {
        stage: Stage::Decode,
        error: "the CAR ends too early".to_owned(),
        seq: Some(n),
        did: Some(ALICE.to_owned()),
        uri: None,
        task: Some(r#"{"type":"upsert"}"#.to_owned()),
        raw: Bytes::from_static(b"\xa1\x00raw"),
        attempts: 3,
    }))
}

pub(crate) fn gap(cause: GapCause, from_seq: u64, to_seq: Option<u64>) -> Gap {
    Gap {
        cause,
        from_seq,
        from_time: Some(second(from_seq)),
        to_seq,
        to_time: to_seq.map(second),
    }
}
