//! Compares the tables with the state of the network.

use std::collections::{BTreeMap, BTreeSet};

use huddle_firehose::store::sqlite::SqliteStore;
use serde_json::Value;
use simulated_network::oracle::{
    NetworkState, Oracle, Record, Refusal, Visibility, malformed, records, select,
};
use simulated_network::record::{BOOKING, BOOKING_REQUEST, SLOT_OFFER};

/// Asserts that the tables of a worker with the policy `flag` for `com.huddle.*` hold `expected`.
pub async fn assert_tables_equal(store: &SqliteStore, expected: &NetworkState, context: &str) {
    let wanted = |visibility| select(expected, visibility, |path| path.starts_with("com.huddle."));
    let mut kept = wanted(Visibility::Hidden);
    kept.extend(wanted(Visibility::Live));

    let stored = stored_records(store, "records WHERE deleted = 0").await;
    assert_records_equal(&stored, &by_uri(&kept), &format!("records, {context}"));
    assert_visible_records_equal(store, expected, context).await;
    assert_accounts_equal(store, expected, context).await;

    let valid = valid(expected);
    for (table, collection) in [
        ("offers_index", SLOT_OFFER),
        ("booking_requests", BOOKING_REQUEST),
        ("bookings", BOOKING),
    ] {
        let of_collection = |uri: &&String| uri.contains(&format!("/{collection}/"));
        let expected: BTreeSet<String> = valid.iter().filter(of_collection).cloned().collect();
        let rows: Vec<(String,)> = fetch(store, &format!("SELECT uri FROM {table}")).await;
        let rows: BTreeSet<String> = rows.into_iter().map(|(uri,)| uri).collect();
        assert_eq!(rows, expected, "{table}, {context}");
    }
}

/// Asserts that a worker with the policy `flag` shows the records of `expected`. Hidden records of
/// inactive accounts are not compared, because hosts do not serve them.
pub async fn assert_visible_records_equal(
    store: &SqliteStore,
    expected: &NetworkState,
    context: &str,
) {
    let is_wanted = |path: &str| path.starts_with("com.huddle.");
    let live = select(expected, Visibility::Live, is_wanted);
    let visible = stored_records(store, "visible_records").await;
    assert_records_equal(
        &visible,
        &by_uri(&live),
        &format!("visible records, {context}"),
    );
}

/// Asserts that the tables have the accounts of `expected`.
pub async fn assert_accounts_equal(store: &SqliteStore, expected: &NetworkState, context: &str) {
    let accounts = stored_accounts(store).await;
    assert_eq!(accounts, expected_accounts(expected), "accounts, {context}");
}

/// Asserts that the dead letters of a worker with the policy `flag` are the refusals of `oracle`.
/// Those of accounts that were deleted later may be deleted too. The fields of a frame that can't be
/// read are not compared.
pub async fn assert_dead_letters_equal(store: &SqliteStore, oracle: &Oracle, context: &str) {
    let letters = |is_removed| -> BTreeSet<DeadLetter> {
        let refusals = oracle.refusals().iter();
        refusals
            .filter(|refusal| oracle.is_removed(refusal) == is_removed)
            .map(DeadLetter::of)
            .collect()
    };
    let (lasting, removed) = (letters(false), letters(true));
    let query = "SELECT stage, iif(uri IS NULL, NULL, seq) AS seq, uri, raw FROM dead_letters";
    let stored: Vec<DeadLetter> = fetch(store, query).await;
    let stored: BTreeSet<DeadLetter> = stored.into_iter().collect();
    let shown = |letters: &mut dyn Iterator<Item = &DeadLetter>| {
        letters
            .map(|letter| (letter.seq, letter.uri.clone(), letter.raw.len()))
            .collect::<Vec<_>>()
    };
    let is_expected = |letter: &&DeadLetter| lasting.contains(letter) || removed.contains(letter);
    let unexpected = shown(&mut stored.iter().filter(|letter| !is_expected(letter)));
    let missing = shown(&mut lasting.difference(&stored));
    assert_eq!(
        (unexpected, missing),
        (vec![], vec![]),
        "dead letters, {context}"
    );
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, sqlx::FromRow)]
struct DeadLetter {
    stage: String,
    seq: Option<i64>,
    uri: Option<String>,
    raw: Vec<u8>,
}

impl DeadLetter {
    fn of(refusal: &Refusal) -> Self {
        Self {
            stage: "decode".to_owned(),
            seq: refusal.uri.as_ref().map(|_| refusal.moment.seq as i64),
            uri: refusal.uri.clone(),
            raw: refusal.raw.to_vec(),
        }
    }
}

/// The URIs of valid records, of active and hidden accounts.
fn valid(expected: &NetworkState) -> BTreeSet<String> {
    let mut valid = BTreeSet::new();
    for visibility in [Visibility::Live, Visibility::Hidden] {
        let malformed = malformed(expected, visibility);
        let records = records(expected, visibility).into_keys();
        valid.extend(records.filter(|uri| !malformed.contains_key(uri)));
    }
    valid
}

/// CID and value by URI.
type Records = BTreeMap<String, (String, Value)>;

fn by_uri(records: &BTreeMap<String, &Record>) -> Records {
    records
        .iter()
        .map(|(uri, record)| (uri.clone(), (record.cid.to_string(), record.value.clone())))
        .collect()
}

fn assert_records_equal(stored: &Records, expected: &Records, context: &str) {
    let alone = |these: &Records, those: &Records| {
        let alone = these
            .iter()
            .filter(|(uri, record)| those.get(*uri) != Some(*record));
        let shown = alone.map(|(uri, (cid, _))| format!("{uri} {cid}"));
        shown.collect::<Vec<_>>()
    };
    let (unexpected, missing) = (alone(stored, expected), alone(expected, stored));
    assert_eq!((unexpected, missing), (vec![], vec![]), "{context}");
}

async fn stored_records(store: &SqliteStore, table: &str) -> Records {
    let rows: Vec<(String, String, String)> =
        fetch(store, &format!("SELECT uri, cid, record FROM {table}")).await;
    rows.into_iter()
        .map(|(uri, cid, record)| (uri, (cid, serde_json::from_str(&record).unwrap())))
        .collect()
}

/// Handle and status by DID.
type Accounts = BTreeMap<String, (Option<String>, Option<String>)>;

fn expected_accounts(expected: &NetworkState) -> Accounts {
    expected
        .iter()
        .map(|(did, account)| {
            (
                did.clone(),
                (account.handle.clone(), account.status.clone()),
            )
        })
        .collect()
}

async fn stored_accounts(store: &SqliteStore) -> Accounts {
    let rows: Vec<(String, Option<String>, bool, Option<String>)> =
        fetch(store, "SELECT did, handle, active, status FROM accounts").await;
    rows.into_iter()
        .map(|(did, handle, active, status)| {
            assert_eq!(active, status.is_none(), "{did}");
            (did, (handle, status))
        })
        .collect()
}

async fn fetch<T>(store: &SqliteStore, query: &str) -> Vec<T>
where
    T: for<'r> sqlx::FromRow<'r, sqlx::sqlite::SqliteRow> + Send + Unpin,
{
    // All queries are in this file.
    sqlx::query_as(sqlx::AssertSqlSafe(query))
        .fetch_all(store.reader())
        .await
        .unwrap()
}
