//! The change feed. Holds invariants 10.1 and 10.2.
//!
//! A mirror follows the feed as a sink does, and has to be equal to the tables.

use std::collections::BTreeMap;

use huddle_firehose::atproto::verify::Level;
use huddle_firehose::model::SourceId;
use huddle_firehose::model::{ChangedRow, FeedPosition, RandomId};
use huddle_firehose::store::change_feed::Cbor;
use huddle_firehose::store::plan::InterestSet;
use huddle_firehose::store::plan::effect::{Effect, RecordVersion};
use huddle_firehose::store::repo_store::{RepoChange, RepoStore, SnapshotPart};
use huddle_firehose::store::{Adoption, ChangePage, PieceLimit, Retention, Store};

use crate::fixture::*;

const ALL: PieceLimit = PieceLimit {
    rows: 10_000,
    bytes: 100 << 20,
};

/// What was written, in the order of the numbers.
fn told(page: &ChangePage) -> Vec<String> {
    let told = page.changes.iter().map(|change| match &change.row {
        ChangedRow::Account(account) => {
            let status = account.status.as_deref().unwrap_or("active");
            format!("{} {status}", account.did)
        }
        ChangedRow::Record(record) => {
            let deleted = if record.record.is_none() {
                " deleted"
            } else {
                ""
            };
            let stale = if record.is_stale { " stale" } else { "" };
            format!("{} {}{deleted}{stale}", record.did, record.rkey)
        }
    });
    told.map(|text| text.replace("did:plc:", "")).collect()
}

impl Database {
    async fn changes(&self, after: u64) -> ChangePage {
        self.store.changes(after, ALL, Cbor::With).await.unwrap()
    }

    async fn told_since(&self, after: u64) -> Vec<String> {
        told(&self.changes(after).await)
    }

    async fn last_change(&self) -> u64 {
        self.store.feed().await.unwrap().last
    }

    async fn adopt_all(&self, patterns: &[&str]) {
        let set = InterestSet::new(patterns.iter().map(|pattern| pattern.parse().unwrap()));
        loop {
            let adoption = self.store.adopt_interest(&source(), &set).await.unwrap();
            if !matches!(adoption, Adoption::Began(_) | Adoption::Continues) {
                return;
            }
        }
    }

    async fn finish_removals(&self) {
        let limit = PieceLimit { rows: 2, ..ALL };
        while self.store.remove_piece(limit).await.unwrap().is_some() {}
    }
}

/// A row of a mirror: the change that wrote it, its rev or time, and the rest.
#[derive(Clone, Debug)]
struct Held {
    epoch: RandomId,
    number: u64,
    rank: (String, String),
    text: String,
}

/// The tables of a sink, kept by the rules for one feed.
#[derive(Default)]
struct Mirror {
    position: Option<FeedPosition>,
    records: BTreeMap<String, Held>,
    accounts: BTreeMap<String, Held>,
    removals: BTreeMap<String, u64>,
}

impl Mirror {
    async fn follow(&mut self, database: &Database, rows: u64) {
        let feed = database.store.feed().await.unwrap();
        let mut after = feed.begin(self.position.as_ref());
        loop {
            let limit = PieceLimit { rows, ..ALL };
            let page = database
                .store
                .changes(after, limit, Cbor::With)
                .await
                .unwrap();
            if page.through == after {
                return;
            }
            self.take(&page);
            after = page.through;
            self.position = page.feed.position(after);
        }
    }

    fn take(&mut self, page: &ChangePage) {
        for change in &page.changes {
            let held = |rank, text| Held {
                epoch: change.epoch.clone(),
                number: change.number,
                rank,
                text,
            };
            let replaces = |known: Option<&Held>, new: &Held| {
                known.is_none_or(
                    |known| match page.feed.remembers(&known.epoch, known.number) {
                        true => new.number >= known.number,
                        false => new.rank > known.rank,
                    },
                )
            };
            match &change.row {
                ChangedRow::Account(account) => {
                    let text = format!("{:?} {:?}", account.status, account.handle);
                    let rank = (account.time.to_string(), account.updated_at.to_string());
                    let new = held(rank, text);
                    if replaces(self.accounts.get(&*account.did), &new) {
                        self.accounts.insert(account.did.to_string(), new);
                    }
                    let removal = account.removal_change.unwrap_or_default();
                    let known = self.removals.insert(account.did.to_string(), removal);
                    if known.unwrap_or_default() != removal {
                        self.records.retain(|uri, row| {
                            let is_of = uri.starts_with(&format!("at://{}/", account.did));
                            !is_of
                                || row.number >= removal
                                || !page.feed.remembers(&row.epoch, row.number)
                        });
                    }
                }
                ChangedRow::Record(record) => {
                    let text = format!(
                        "{} {:?} {} {}",
                        record.rev, record.record, record.verified, record.is_stale
                    );
                    let rank = (record.rev.to_string(), record.last_indexed_at.to_string());
                    let new = held(rank, text);
                    if replaces(self.records.get(&*record.uri), &new) {
                        self.records.insert(record.uri.to_string(), new);
                    }
                }
            }
        }
    }

    async fn is_equal_to(&self, database: &Database) {
        let everything = database.changes(0).await;
        let mut fresh = Self::default();
        fresh.take(&everything);
        let texts = |rows: &BTreeMap<String, Held>| -> BTreeMap<String, String> {
            let texts = rows
                .iter()
                .map(|(key, row)| (key.clone(), row.text.clone()));
            texts.collect()
        };
        assert_eq!(texts(&self.records), texts(&fresh.records));
        assert_eq!(texts(&self.accounts), texts(&fresh.accounts));
        let uris = "SELECT uri FROM records WHERE NOT EXISTS (SELECT 1 FROM removed_records \
                    WHERE removed_records.did = records.did AND removed_records.uri = records.uri) \
                    ORDER BY uri";
        let mirrored: Vec<String> = self.records.keys().cloned().collect();
        assert_eq!(mirrored, database.column(uris).await);
    }
}

#[tokio::test]
async fn every_write_takes_the_next_number_and_a_row_appears_once_in_its_latest_state() {
    let database = Database::new().await;
    database
        .apply(&[put(ALICE, "a", 1), put(ALICE, "b", 2)])
        .await;
    assert_eq!(database.told_since(0).await, ["alice a", "alice b"]);
    let before = database.last_change().await;
    database
        .apply(&[
            put(ALICE, "a", 3),
            delete(ALICE, "com.huddle.profile", "c", 4),
        ])
        .await;
    assert_eq!(
        database.told_since(before).await,
        ["alice a", "alice c deleted"]
    );
    assert_eq!(
        database.told_since(0).await,
        ["alice b", "alice a", "alice c deleted"]
    );
    // What changes nothing takes no number.
    let before = database.last_change().await;
    database.apply(&[put(ALICE, "a", 1)]).await;
    assert_eq!(database.last_change().await, before);
    let numbers = "SELECT count(DISTINCT change) - count(*) FROM records";
    assert_eq!(database.number(numbers).await, 0);
}

#[tokio::test]
async fn an_account_enters_the_feed_before_its_first_kept_record_and_not_otherwise() {
    let database = Database::new().await;
    database
        .apply(&[
            identity(ALICE, Some("alice.example"), 1),
            identity(BOB, Some("bob.example"), 2),
            account(CAROL, Some("deactivated"), 3),
        ])
        .await;
    assert!(database.told_since(0).await.is_empty());
    database.apply(&[put(ALICE, "a", 4)]).await;
    assert_eq!(database.told_since(0).await, ["alice active", "alice a"]);
    // The row of an account that comes after its records.
    database.apply(&[put(BOB, "b", 5)]).await;
    let before = database.last_change().await;
    database
        .apply(&[
            put("did:plc:dan", "d", 6),
            account("did:plc:dan", Some("deactivated"), 7),
        ])
        .await;
    database.apply(&[put("did:plc:eve", "e", 8)]).await;
    database
        .apply(&[identity("did:plc:eve", Some("eve.example"), 9)])
        .await;
    assert_eq!(
        database.told_since(before).await,
        ["dan deactivated", "dan d", "eve e", "eve active"]
    );
    assert_eq!(
        database
            .column("SELECT did FROM accounts WHERE change IS NULL")
            .await,
        [CAROL]
    );
}

#[tokio::test]
async fn records_that_a_narrower_set_hides_are_told_and_again_when_they_are_up_to_date() {
    let database = Database::new().await;
    database.adopt_all(&["com.huddle.*"]).await;
    database
        .apply(&[put(ALICE, "a", 1), offer(ALICE, "o", 2, slot_offer())])
        .await;
    let before = database.last_change().await;
    database.adopt_all(&["com.huddle.slotOffer"]).await;
    assert_eq!(database.told_since(before).await, ["alice a stale"]);
    let before = database.last_change().await;
    database.adopt_all(&["com.huddle.*"]).await;
    assert!(database.told_since(before).await.is_empty());
    // The same version once more shows that it is kept again.
    database.apply(&[put(ALICE, "a", 1)]).await;
    assert_eq!(database.told_since(before).await, ["alice a"]);
}

#[tokio::test]
async fn a_record_that_is_verified_with_its_chain_is_told_again() {
    let database = Database::new().await;
    let version = RecordVersion {
        verified: Some(Level::Commit),
        ..version(ALICE, "com.huddle.profile", "a", 1)
    };
    database.apply(&[upsert(version, None)]).await;
    let before = database.last_change().await;
    let part = SnapshotPart {
        source: &SourceId::new("https://host.example/"),
        did: &huddle_firehose::atproto::syntax::Did::parse(ALICE).unwrap(),
        effects: &[],
        confirmed: &["com.huddle.profile/a".to_owned()],
    };
    database
        .store
        .change(RepoChange::Snapshot(&part))
        .await
        .unwrap();
    let page = database.changes(before).await;
    assert_eq!(told(&page), ["alice a"]);
    let ChangedRow::Record(record) = &page.changes[0].row else {
        panic!("an account");
    };
    assert_eq!(record.verified, "chain");
}

#[tokio::test]
async fn what_a_removed_account_wrote_is_gone_from_the_feed_and_its_account_says_so() {
    let database = Database::new().await;
    let mut mirror = Mirror::default();
    let records: Vec<Effect> = (1..=1500)
        .map(|n| put(ALICE, &format!("r{n}"), n))
        .collect();
    database.try_apply(&records, 1500).await.unwrap();
    database
        .try_apply(&[put(BOB, "b", 1501)], 1501)
        .await
        .unwrap();
    mirror.follow(&database, 100).await;
    let before = database.last_change().await;
    let deletion = account(ALICE, Some("deleted"), 1502);
    database.try_apply(&[deletion], 1502).await.unwrap();
    assert_eq!(database.told_since(before).await, ["alice deleted"]);
    // Rows are left, which are deleted in pieces.
    assert_eq!(database.told_since(0).await, ["bob b", "alice deleted"]);
    mirror.follow(&database, 100).await;
    mirror.is_equal_to(&database).await;
    let back = [account(ALICE, None, 1503), put(ALICE, "r7", 1504)];
    database.try_apply(&back, 1504).await.unwrap();
    mirror.follow(&database, 100).await;
    mirror.is_equal_to(&database).await;
    database.finish_removals().await;
    mirror.follow(&database, 100).await;
    mirror.is_equal_to(&database).await;
    assert_eq!(mirror.records.len(), 2);
}

/// What an account wrote after its deletion, but came before it, stays. A reader has deleted it with the
/// others, so it is told again.
#[tokio::test]
async fn records_that_survive_a_removal_are_told_again() {
    let database = Database::new().await;
    let mut mirror = Mirror::default();
    let records: Vec<Effect> = (1..=9).map(|n| put(ALICE, &format!("r{n}"), n)).collect();
    database.try_apply(&records, 9).await.unwrap();
    mirror.follow(&database, 100).await;
    let before = database.last_change().await;
    let deletion = account(ALICE, Some("deleted"), 5);
    database.try_apply(&[deletion], 9).await.unwrap();
    database.finish_removals().await;
    mirror.follow(&database, 1).await;
    assert_eq!(
        database.told_since(before).await,
        [
            "alice deleted",
            "alice r6",
            "alice r7",
            "alice r8",
            "alice r9"
        ]
    );
    mirror.is_equal_to(&database).await;
}

#[tokio::test]
async fn the_row_of_a_removed_account_outlives_its_retention_and_a_forgotten_handle_is_told() {
    let database = Database::new().await;
    let effects = [
        identity(ALICE, Some("alice.example"), 1),
        put(ALICE, "a", 2),
        identity(BOB, Some("bob.example"), 3),
        account(ALICE, Some("deleted"), 4),
    ];
    for (effect, seq) in effects.into_iter().zip(1..) {
        database.try_apply(&[effect], seq).await.unwrap();
    }
    database.finish_removals().await;
    database
        .execute("UPDATE accounts SET updated_at = '2020-01-01T00:00:00.000Z'; DELETE FROM repos")
        .await;
    let before = database.last_change().await;
    let retention = Retention {
        inactive_request_days: 30,
        dead_letter_days: 90,
        dead_letters: u64::MAX,
        dead_letter_bytes: u64::MAX,
        audit_days: 365,
        closed_gap_days: 90,
    };
    assert_eq!(database.store.purge(retention).await.unwrap().accounts, 1);
    assert_eq!(database.told_since(before).await, ["alice deleted"]);
    let kept = "SELECT did || ' ' || coalesce(handle, '-') || ' ' || (removed_at IS NOT NULL) FROM accounts";
    assert_eq!(database.column(kept).await, [format!("{ALICE} - 1")]);
}

/// Rows of an earlier version: they have no numbers.
async fn with_rows_of_an_earlier_version() -> Database {
    let database = Database::new().await;
    let mut effects = vec![
        identity(ALICE, Some("alice.example"), 1),
        identity(CAROL, Some("carol.example"), 2),
    ];
    effects.extend((3..=2502).map(|n| put(ALICE, &format!("r{n}"), n)));
    effects.push(put(BOB, "b", 2503));
    database.apply(&effects).await;
    database
        .execute(
            "UPDATE records SET change = NULL; UPDATE accounts SET change = NULL; \
             UPDATE change_feed SET last = 0, numbered_through = ''",
        )
        .await;
    database
}

#[tokio::test]
async fn rows_of_an_earlier_version_get_their_numbers_in_pieces_whatever_is_written_meanwhile() {
    let mut database = with_rows_of_an_earlier_version().await;
    assert!(database.told_since(0).await.is_empty());
    let limit = PieceLimit { rows: 1000, ..ALL };
    assert!(database.store.number_piece(limit).await.unwrap());
    let page = database.changes(0).await;
    assert_eq!(page.changes.len(), 1001);
    assert_eq!(told(&page)[0], "alice active");
    // Others write, and the next start goes on.
    database
        .apply(&[put(ALICE, "new", 3000), put(ALICE, "r2000", 3001)])
        .await;
    database = database.reopen().await;
    let mut pieces = 1;
    while database.store.number_piece(limit).await.unwrap() {
        pieces += 1;
    }
    assert_eq!(pieces, 3);
    let page = database.changes(0).await;
    assert_eq!(page.changes.len(), 2503);
    let outside = "SELECT count(*) FROM records WHERE change IS NULL";
    assert_eq!(database.number(outside).await, 0);
    let numbers = "SELECT count(DISTINCT change) - count(*) FROM records";
    assert_eq!(database.number(numbers).await, 0);
    // Nothing is kept of Carol.
    let outside = "SELECT did FROM accounts WHERE change IS NULL";
    assert_eq!(database.column(outside).await, [CAROL]);
    assert!(!database.store.number_piece(limit).await.unwrap());
}

#[tokio::test]
async fn a_page_is_limited_by_rows_and_bytes_and_has_one_row_at_least() {
    let database = Database::new().await;
    let records: Vec<Effect> = (1..=10).map(|n| put(ALICE, &format!("r{n}"), n)).collect();
    database.apply(&records).await;
    let page = async |after, rows, bytes| {
        let limit = PieceLimit { rows, bytes };
        let page = database
            .store
            .changes(after, limit, Cbor::With)
            .await
            .unwrap();
        (page.changes.len(), page.through)
    };
    assert_eq!(page(0, 4, 10_000).await, (4, 4));
    assert_eq!(page(8, 4, 10_000).await, (2, 10));
    assert_eq!(page(0, 4, 1).await, (1, 1));
    assert_eq!(page(10, 4, 1).await, (0, 10));
    assert_eq!(database.store.count_changes(3, 100).await.unwrap(), 7);
    assert_eq!(database.store.count_changes(3, 5).await.unwrap(), 5);
}

#[tokio::test]
async fn a_page_that_is_read_in_pieces_has_each_change_once_and_in_order() {
    let database = Database::new().await;
    let records: Vec<Effect> = (1..=400).map(|n| put(ALICE, &format!("r{n}"), n)).collect();
    database.apply(&records).await;
    // Rows that are written once more leave holes, and accounts are between records.
    let again = (1..=40).map(|n| put(ALICE, &format!("r{}", 10 * n), 400 + n));
    database.apply(&again.collect::<Vec<_>>()).await;
    database
        .apply(&[account(ALICE, None, 441), put(BOB, "b", 442)])
        .await;
    // And many accounts follow each other, up to the end.
    let others = (443..=742).map(|n| put(&format!("did:plc:other{n}"), "r", n));
    database.apply(&others.collect::<Vec<_>>()).await;
    let others = (443..=742).map(|n| account(&format!("did:plc:other{n}"), None, 300 + n));
    database.apply(&others.collect::<Vec<_>>()).await;
    let written = "SELECT CAST(change AS TEXT) FROM ( \
                   SELECT change FROM records \
                   UNION ALL SELECT change FROM accounts WHERE change IS NOT NULL) ORDER BY change";
    let written = database.column(written).await;
    assert!(written.len() > 400);
    for rows in [1, 127, 128, 129, 256, 257, 1_000] {
        let (mut after, mut read) = (0, Vec::new());
        loop {
            let limit = PieceLimit { rows, ..ALL };
            let page = database.store.changes(after, limit, Cbor::Without);
            let page = page.await.unwrap();
            if page.through == after {
                break;
            }
            read.extend(page.changes.iter().map(|change| change.number.to_string()));
            after = page.through;
        }
        assert_eq!(read, written, "pages of {rows}");
    }
}

/// A large record is no part of its piece.
#[tokio::test]
async fn a_page_has_the_whole_record_however_large_it_is() {
    let database = Database::new().await;
    let sizes = [16_383, 16_384, 16_385, 100_000, 12];
    let records = (1..)
        .zip(sizes)
        .map(|(n, _)| put(ALICE, &format!("r{n}"), n));
    database.apply(&records.collect::<Vec<_>>()).await;
    // Objects of so many bytes, some of them of characters with two.
    database
        .execute(
            "UPDATE records SET record = json_object('t', 'é' || printf('%.*c', CASE rkey \
             WHEN 'r1' THEN 16383 WHEN 'r2' THEN 16384 WHEN 'r3' THEN 16385 \
             WHEN 'r4' THEN 100000 ELSE 12 END - 10, 'x'))",
        )
        .await;
    let sizes_of = |page: &ChangePage| -> Vec<usize> {
        let records = page.changes.iter().filter_map(|change| match &change.row {
            ChangedRow::Record(record) => record.record.as_ref(),
            ChangedRow::Account(_) => None,
        });
        let sizes = records.map(|json| {
            let value: serde_json::Value = serde_json::from_str(json).unwrap();
            assert!(value["t"].as_str().unwrap().starts_with('é'));
            json.len()
        });
        sizes.collect()
    };
    assert_eq!(sizes_of(&database.changes(0).await), sizes);
    // It counts with its whole size.
    let limit = PieceLimit {
        rows: 10,
        bytes: 60_000,
    };
    let page = database
        .store
        .changes(0, limit, Cbor::Without)
        .await
        .unwrap();
    assert_eq!(sizes_of(&page), sizes[..3]);
    let page = database.store.changes(page.through, limit, Cbor::Without);
    assert_eq!(sizes_of(&page.await.unwrap()), sizes[3..4]);
}

#[tokio::test]
async fn each_process_that_writes_begins_an_epoch_with_its_first_write() {
    let database = Database::new().await;
    assert!(database.store.feed().await.unwrap().epochs.is_empty());
    database.apply(&[put(ALICE, "a", 1)]).await;
    database.apply(&[put(ALICE, "b", 2)]).await;
    let database = database.reopen().await;
    database.store.check_writable().await.unwrap();
    assert_eq!(database.store.feed().await.unwrap().epochs.len(), 1);
    database.apply(&[put(ALICE, "c", 3)]).await;
    let page = database.changes(0).await;
    let [first, second] = &page.feed.epochs[..] else {
        panic!("{:?}", page.feed);
    };
    assert_eq!((first.first_change, second.first_change), (1, 3));
    let epochs: Vec<&RandomId> = page.changes.iter().map(|change| &change.epoch).collect();
    assert_eq!(epochs, [&first.id, &first.id, &second.id]);
}

/// The database is put back to a copy that is older than what a reader has. The worker reads again what
/// came since, and something else beside it.
#[tokio::test]
async fn a_reader_of_a_database_that_was_put_back_misses_nothing_and_goes_back_in_nothing() {
    let mut database = Database::new().await;
    let mut mirror = Mirror::default();
    let write = |from: u64, to: u64| -> Vec<Effect> {
        (from..=to)
            .map(|n| put(ALICE, &format!("r{}", n % 7), n))
            .collect()
    };
    for effects in [write(1, 10), vec![put(BOB, "b", 11)], write(12, 20)] {
        database.apply(&effects).await;
    }
    mirror.follow(&database, 3).await;
    let copy = tempfile::tempdir().unwrap();
    let copy = copy.path().join("copy.db");
    let into = format!("VACUUM INTO '{}'", copy.display());
    sqlx::query(sqlx::AssertSqlSafe(into))
        .execute(&mut database.other_process().await)
        .await
        .unwrap();
    // The process ends, and the next one writes what the copy does not have.
    database = database.reopen().await;
    let lost = write(21, 33);
    for effect in &lost {
        database.apply(std::slice::from_ref(effect)).await;
    }
    database
        .apply(&[delete(BOB, "com.huddle.profile", "b", 34)])
        .await;
    mirror.follow(&database, 3).await;
    let known = mirror.records.clone();

    database.store.close().await.unwrap();
    std::fs::copy(&copy, database.path()).unwrap();
    for leftover in ["huddle.db-wal", "huddle.db-shm"] {
        let _missing = std::fs::remove_file(database.path().with_file_name(leftover));
    }
    database = database.reopen().await;
    // More is written first than was lost, so that every number is given out again.
    database.apply(&write(100, 130)).await;
    mirror.follow(&database, 3).await;
    for (uri, row) in &known {
        assert!(mirror.records[uri].rank.0 >= row.rank.0, "{uri} went back");
    }
    database.apply(&lost).await;
    database
        .apply(&[delete(BOB, "com.huddle.profile", "b", 34)])
        .await;
    mirror.follow(&database, 3).await;
    mirror.is_equal_to(&database).await;
}

/// Random traffic, with readers of several paces.
#[tokio::test]
async fn mirrors_of_any_pace_are_equal_to_the_tables() {
    for seed in 0..8 {
        let mut random = fastrand::Rng::with_seed(seed);
        let database = Database::new().await;
        let mut mirrors = [Mirror::default(), Mirror::default(), Mirror::default()];
        for seq in 1..=60 {
            let did = [ALICE, BOB, CAROL][random.usize(..3)];
            let rkey = format!("r{}", random.u32(..5));
            let age = random.u64(..4).min(seq - 1);
            let effect = match random.u32(..10) {
                0 => account(did, Some("deleted"), seq - age),
                1 => account(did, None, seq),
                2 => identity(did, Some("a.example"), seq),
                3 => delete(did, "com.huddle.profile", &rkey, seq - age),
                _ => put(did, &rkey, seq - age),
            };
            database.try_apply(&[effect], seq).await.unwrap();
            if random.u32(..4) == 0 {
                let limit = PieceLimit { rows: 1, ..ALL };
                let _piece = database.store.remove_piece(limit).await.unwrap();
            }
            for (pace, mirror) in (1..).zip(&mut mirrors) {
                if random.u32(..pace * 3) == 0 {
                    mirror.follow(&database, pace.into()).await;
                }
            }
        }
        database.finish_removals().await;
        for mirror in &mut mirrors {
            mirror.follow(&database, 2).await;
            mirror.is_equal_to(&database).await;
        }
    }
}
