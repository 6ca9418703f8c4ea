//! The table of identities: what it keeps, what voids a row, and how many rows it has. Holds
//! invariant 9.14.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::identity::{Identity, IdentityChange, StoredIdentity};
use huddle_firehose::store::Store;
use huddle_firehose::store::identity_store::IdentityStore;
use huddle_firehose::store::plan::effect::{Effect, IdentityChange as IdentityEvent};
use jiff::Timestamp;
use tokio::sync::oneshot;

use crate::fixture::*;

fn stored(did: &str, second: i64) -> StoredIdentity {
    let mut identity = Identity::new(Did::parse(did).unwrap(), format!("zKeyOf{second}"));
    identity.pds = Some("https://pds.example".parse().unwrap());
    identity.handle = Some("alice.example".to_owned());
    StoredIdentity {
        identity: Arc::new(identity),
        looked_up_at: Timestamp::from_second(second).unwrap(),
    }
}

async fn save(database: &Database, changes: &[IdentityChange]) {
    let take = || changes.to_vec();
    let saved = database.store.save_identities(&take).await.unwrap();
    assert_eq!(saved, changes.len());
}

async fn store_all(database: &Database, identities: &[StoredIdentity]) {
    let changes = identities.iter().cloned().map(IdentityChange::Store);
    save(database, &changes.collect::<Vec<_>>()).await;
}

async fn load(database: &Database) -> Vec<StoredIdentity> {
    database.store.load_identities(100).await.unwrap()
}

/// An `#identity` event that names no handle.
fn event(did: &str, seq: u64) -> Effect {
    Effect::Identity(IdentityEvent {
        did: Did::parse(did).unwrap(),
        handle: None,
        seq,
        time: Timestamp::from_second(1).unwrap(),
    })
}

#[tokio::test]
async fn what_is_saved_is_there_after_a_restart_the_oldest_first() {
    let database = Database::new().await;
    store_all(
        &database,
        &[stored(ALICE, 30), stored(BOB, 10), stored(CAROL, 20)],
    )
    .await;
    let database = database.reopen().await;
    let all = [stored(BOB, 10), stored(CAROL, 20), stored(ALICE, 30)];
    assert_eq!(load(&database).await, all);
    let newest = database.store.load_identities(2).await.unwrap();
    assert_eq!(newest, all[1..]);

    // A look-up replaces the row, or finds that there is no identity any more.
    let changes = [
        IdentityChange::Store(stored(BOB, 40)),
        IdentityChange::Delete(Did::parse(CAROL).unwrap()),
    ];
    save(&database, &changes).await;
    assert_eq!(load(&database).await, [stored(ALICE, 30), stored(BOB, 40)]);
}

/// Many were looked up at the same time, as from an export.
#[tokio::test]
async fn more_identities_than_a_page_has_are_all_read_in_order() {
    let database = Database::new().await;
    let all: Vec<_> = (0..11_000)
        .map(|number| stored(&format!("did:plc:{number:05}"), number / 3_000))
        .collect();
    store_all(&database, &all).await;
    let loaded = database.store.load_identities(20_000).await.unwrap();
    assert_eq!(loaded, all);
    let newest = database.store.load_identities(10_500).await.unwrap();
    assert_eq!(newest, all[500..]);
}

#[tokio::test]
async fn an_identity_event_voids_the_row_in_its_own_transaction() {
    let database = Database::new().await;
    store_all(&database, &[stored(ALICE, 10), stored(BOB, 20)]).await;
    // With the process killed at any moment, the cursor and the row agree.
    database.try_apply(&[event(ALICE, 7)], 7).await.unwrap();
    let database = database.reopen().await;
    assert_eq!(load(&database).await, [stored(BOB, 20)]);
    let cursor = database.store.load_cursor(&source()).await.unwrap();
    assert_eq!(cursor.position.seq, 7);
}

/// An event that is taken note of in memory is applied to the tables later. What is saved between the
/// two is void with the event; what is saved after it does not contain what was forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn no_event_is_applied_between_the_moment_identities_are_taken_and_their_commit() {
    let database = Arc::new(Database::new().await);
    let other = Arc::clone(&database);
    let (begin, began) = oneshot::channel();
    let (applied, is_applied) = mpsc::channel();
    let applying = tokio::spawn(async move {
        began.await.unwrap();
        other.try_apply(&[event(ALICE, 7)], 7).await.unwrap();
        // The other end is gone once the identities are taken.
        let _unheard = applied.send(());
    });
    let once = Mutex::new(Some((begin, is_applied)));
    let take = || {
        let (begin, is_applied) = once.lock().unwrap().take().unwrap();
        begin.send(()).unwrap();
        // Much longer than the event takes by itself.
        let too_early = is_applied.recv_timeout(Duration::from_millis(500));
        assert_eq!(too_early, Err(RecvTimeoutError::Timeout));
        vec![IdentityChange::Store(stored(ALICE, 10))]
    };
    database.store.save_identities(&take).await.unwrap();
    applying.await.unwrap();
    assert_eq!(load(&database).await, []);
}

#[tokio::test]
async fn the_oldest_rows_beyond_the_capacity_are_deleted() {
    let database = Database::new().await;
    store_all(
        &database,
        &[stored(ALICE, 30), stored(BOB, 10), stored(CAROL, 20)],
    )
    .await;
    assert_eq!(database.store.trim_identities(3).await.unwrap(), 0);
    assert_eq!(database.store.trim_identities(2).await.unwrap(), 1);
    assert_eq!(
        load(&database).await,
        [stored(CAROL, 20), stored(ALICE, 30)]
    );
}

/// The worker looks the account up again.
#[tokio::test]
async fn a_row_that_cannot_be_read_is_left_out() {
    let database = Database::new().await;
    store_all(&database, &[stored(ALICE, 10), stored(BOB, 20)]).await;
    database
        .execute("UPDATE identities SET looked_up_at = 'yesterday' WHERE did = 'did:plc:alice'")
        .await;
    assert_eq!(load(&database).await, [stored(BOB, 20)]);
}

/// What voids a row is one statement for a batch, by the key, and so is what a start reads.
#[tokio::test]
async fn identities_are_found_by_an_index() {
    let database = Database::new().await;
    for (statement, index) in [
        (
            "DELETE FROM identities WHERE did IN (SELECT value FROM json_each('[]'))",
            "PRIMARY KEY",
        ),
        (
            "SELECT did FROM identities ORDER BY looked_up_at DESC LIMIT 10",
            "identities_by_age",
        ),
    ] {
        let plan = database.plan(statement).await;
        assert!(plan.contains(index), "{plan}");
    }
}
