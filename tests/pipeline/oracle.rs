//! Compares the tables after the recording with the final state that the recorded server itself has
//! reported. Holds invariant 5.6.
//!
//! `scripts/compare_oracle.py` does the same for any database and oracle. Accounts whose contents
//! importRepo replaced are left out, because no commit describes that.

use std::collections::BTreeSet;
use std::path::Path;

use huddle_firehose::atproto::skim::seq_of;
use huddle_firehose::config::Config;
use huddle_firehose::store::plan::index_task::{IndexTask, TaskKind};
use serde::Deserialize;
use test_support::mock_relay::relay;
use test_support::observed_source;
use test_support::recorded_frames::{frames, last_seq};
use test_support::running_worker::{Worker, config};
use test_support::tables::{Database, assert_same};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Oracle {
    accounts: Vec<Account>,
    /// Records of active accounts in the three collections.
    records: Vec<Record>,
    /// Records of inactive accounts.
    hidden_records: Vec<Record>,
    /// Records in collections with similar names.
    near_miss_records: Vec<Record>,
}

#[derive(Deserialize)]
struct Account {
    did: String,
    handle: String,
    status: String,
    /// What happened to the account besides records.
    special: Vec<String>,
}

#[derive(Clone, Deserialize)]
struct Record {
    uri: String,
    cid: String,
}

impl Oracle {
    fn load() -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings/testbed-oracle.json");
        let mut oracle: Self = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let imported = oracle.imported();
        for records in [
            &mut oracle.records,
            &mut oracle.hidden_records,
            &mut oracle.near_miss_records,
        ] {
            records.retain(|record| !imported.contains(did_of(&record.uri)));
        }
        oracle
    }

    fn imported(&self) -> BTreeSet<String> {
        let imported = |account: &&Account| account.special.iter().any(|s| s == "import-repo");
        let accounts = self.accounts.iter().filter(imported);
        accounts.map(|account| account.did.clone()).collect()
    }

    fn malformed(&self) -> BTreeSet<String> {
        let malformed = self
            .records
            .iter()
            .filter(|record| is_malformed(&record.uri));
        malformed.map(|record| record.uri.clone()).collect()
    }
}

fn did_of(uri: &str) -> &str {
    uri.split('/').nth(2).unwrap()
}

/// The prefix of the keys that the traffic driver gave to malformed records.
fn is_malformed(uri: &str) -> bool {
    uri.split('/').nth(4).unwrap().starts_with("bad-")
}

fn pairs<'a>(records: impl IntoIterator<Item = &'a Record>) -> BTreeSet<String> {
    let records = records.into_iter();
    records.map(|r| format!("{} {}", r.uri, r.cid)).collect()
}

/// The tables after the recording.
struct Found {
    database: Database,
    imported: BTreeSet<String>,
}

impl Found {
    /// Indexes the recording with the policy `validation`.
    async fn under(validation: &str, oracle: &Oracle) -> Self {
        let (frames, database) = (frames(), Database::new());
        let end = last_seq(&frames);
        let relay = relay(frames).await;
        let config = Config {
            validation: validation.parse().unwrap(),
            ..config()
        };
        let worker = Worker::start_with(config, &relay, database.store().await).await;
        worker.reaches(end).await;
        worker.drain().await;
        let imported = oracle.imported();
        Self { database, imported }
    }

    /// Returns the rows of a query whose text begins with the URI of a record.
    async fn rows(&self, sql: &'static str) -> BTreeSet<String> {
        let mut rows = self.database.rows(sql).await;
        rows.retain(|row| !self.imported.contains(did_of(row)));
        rows.into_iter().collect()
    }

    async fn live(&self) -> BTreeSet<String> {
        self.rows(
            "SELECT uri || ' ' || cid FROM visible_records WHERE collection IN \
             ('com.huddle.slotOffer', 'com.huddle.bookingRequest', 'com.huddle.booking')",
        )
        .await
    }

    async fn assert_hidden(&self, oracle: &Oracle) {
        let hidden = self
            .rows(
                "SELECT uri || ' ' || cid FROM records WHERE deleted = 0 \
                 AND uri NOT IN (SELECT uri FROM visible_records)",
            )
            .await;
        assert!(!hidden.is_empty());
        assert_same("hidden records", &hidden, &pairs(&oracle.hidden_records));
    }

    /// Asserts that a collection of our namespace without a schema is kept, and that one of a
    /// namespace that only begins like ours is not.
    async fn assert_near_misses(&self, oracle: &Oracle) {
        let is_ours = |record: &&Record| record.uri.contains("/com.huddle.");
        let expected = pairs(oracle.near_miss_records.iter().filter(is_ours));
        let kept = self
            .rows(
                "SELECT uri || ' ' || cid FROM visible_records WHERE collection NOT IN \
                 ('com.huddle.slotOffer', 'com.huddle.bookingRequest', 'com.huddle.booking') \
                 AND validity = 'unvalidated'",
            )
            .await;
        assert_same("near misses", &kept, &expected);
        let foreign = self
            .rows("SELECT uri FROM records WHERE collection NOT LIKE 'com.huddle.%'")
            .await;
        assert_same("records of other namespaces", &foreign, &BTreeSet::new());
    }

    async fn assert_accounts(&self, oracle: &Oracle) {
        let expected = oracle
            .accounts
            .iter()
            .map(|account| format!("{} {} {}", account.did, account.handle, account.status));
        let query =
            "SELECT did || ' ' || handle || ' ' || iif(active, 'active', status) FROM accounts";
        let found = self.database.rows(query).await.into_iter().collect();
        assert_same("accounts", &found, &expected.collect());
    }

    async fn assert_nothing_else_went_wrong(&self) {
        let gaps = self.database.rows("SELECT cause FROM gaps").await;
        assert_eq!(gaps, [""; 0]);
        let query = "SELECT error FROM dead_letters WHERE stage <> 'validate'";
        assert_eq!(self.database.rows(query).await, [""; 0]);
    }
}

#[tokio::test]
async fn with_the_policy_flag_the_tables_equal_the_servers_own_state() {
    let oracle = Oracle::load();
    let found = Found::under("flag", &oracle).await;
    assert_same("live records", &found.live().await, &pairs(&oracle.records));
    let flagged = found
        .rows("SELECT uri FROM visible_records WHERE validity = 'invalid'")
        .await;
    assert_same("records marked invalid", &flagged, &oracle.malformed());
    let letters = found.rows("SELECT uri FROM dead_letters").await;
    assert_same("dead letters", &letters, &BTreeSet::new());
    found.assert_hidden(&oracle).await;
    found.assert_near_misses(&oracle).await;
    found.assert_accounts(&oracle).await;
    found.assert_nothing_else_went_wrong().await;
}

#[tokio::test]
async fn with_the_policy_reject_malformed_records_are_dead_letters_and_the_rest_is_kept() {
    let oracle = Oracle::load();
    let found = Found::under("reject", &oracle).await;
    let well_formed = |record: &&Record| !is_malformed(&record.uri);
    let expected = pairs(oracle.records.iter().filter(well_formed));
    assert_same("live records", &found.live().await, &expected);

    let letters = found
        .rows("SELECT uri FROM dead_letters WHERE stage = 'validate'")
        .await;
    // Malformed records that were deleted later have dead letters too. The oracle does not list
    // them.
    assert!(letters.iter().all(|uri| is_malformed(uri)), "{letters:#?}");
    let missing: Vec<_> = oracle.malformed().difference(&letters).cloned().collect();
    assert_eq!(missing, [""; 0], "malformed records without a dead letter");

    found.assert_hidden(&oracle).await;
    found.assert_near_misses(&oracle).await;
    found.assert_accounts(&oracle).await;
    found.assert_nothing_else_went_wrong().await;
}

#[derive(sqlx::FromRow)]
struct Letter {
    uri: String,
    did: String,
    seq: i64,
    source: String,
    error: String,
    task: String,
    raw: Vec<u8>,
}

#[tokio::test]
async fn a_dead_letter_says_what_was_wrong_with_which_bytes_from_where() {
    let found = Found::under("reject", &Oracle::load()).await;
    let mut stranger = found.database.stranger().await;
    let letters: Vec<Letter> =
        sqlx::query_as("SELECT * FROM dead_letters WHERE stage = 'validate'")
            .fetch_all(&mut stranger)
            .await
            .unwrap();
    assert!(!letters.is_empty());
    for letter in letters {
        let uri = letter.uri;
        assert_eq!(letter.did, did_of(&uri));
        assert_eq!(letter.source, observed_source::id().as_str());
        assert!(!letter.error.is_empty());
        let seq = u64::try_from(letter.seq).unwrap();
        let mut frames = frames().into_iter();
        let frame = frames.find(|frame| seq_of(frame) == Some(seq)).unwrap();
        let mut parts = frame.windows(letter.raw.len());
        assert!(parts.any(|part| part == letter.raw), "{uri}");

        let task: IndexTask = serde_json::from_str(&letter.task).unwrap();
        assert_eq!(task.kind, TaskKind::Upsert);
        assert_eq!((task.uri, task.seq), (uri, seq));
        assert_eq!(task.source, observed_source::id());
        let record: serde_json::Value = serde_json::from_str(task.record.unwrap().get()).unwrap();
        assert!(record.is_object());
    }
}
