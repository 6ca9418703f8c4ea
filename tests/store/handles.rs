//! Whether a handle is its account's. Holds invariant 9.18.

use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::model::HandleStatus;
use huddle_firehose::store::handle_store::{HandleCheck, HandleStore};
use huddle_firehose::store::repo_store::{RepoChange, RepoStore};
use jiff::Timestamp;

use crate::commits::*;
use crate::fixture::*;

const SHOWN: &str = "SELECT coalesce(handle, '-') || ' ' || coalesce(claimed_handle, '-') || ' ' \
                     || handle_status FROM visible_accounts ORDER BY did";

/// Whose handles are due.
async fn due(database: &Database) -> Vec<String> {
    let now = Timestamp::now();
    let page = database.store.unchecked_handles("", now, 10).await.unwrap();
    let dids = page
        .accounts
        .into_iter()
        .map(|account| account.did.to_string());
    dids.collect()
}

async fn check(
    database: &Database,
    known: Option<&str>,
    claimed: Option<&str>,
    status: HandleStatus,
) {
    check_at(database, Timestamp::now(), known, claimed, status).await;
}

async fn check_at(
    database: &Database,
    now: Timestamp,
    known: Option<&str>,
    claimed: Option<&str>,
    status: HandleStatus,
) {
    let check = HandleCheck {
        did: Did::parse(ALICE).unwrap(),
        known: known.map(str::to_owned),
        claimed: claimed.map(str::to_owned),
        status,
        checked_at: now,
        check_at: now
            .checked_add(jiff::SignedDuration::from_hours(1))
            .unwrap(),
    };
    let change = RepoChange::HandleChecked(&check);
    database.store.change(change).await.unwrap();
}

/// A database in which a record of Alice is kept.
async fn kept() -> Database {
    let database = Database::new().await;
    database
        .apply(&[commit(ALICE, 2, 1), put(ALICE, "a", 2)])
        .await;
    database
}

/// A name that its owner has given up gives no answer any more.
#[tokio::test]
async fn a_handle_of_which_nothing_is_found_out_for_days_is_no_longer_shown_as_verified() {
    let database = kept().await;
    let handle = Some("alice.example");
    let hours_ago = |hours| Timestamp::now() - jiff::SignedDuration::from_hours(hours);
    check_at(
        &database,
        hours_ago(80),
        None,
        handle,
        HandleStatus::Verified,
    )
    .await;
    for (now, shown) in [
        (hours_ago(9), "alice.example alice.example verified"),
        (hours_ago(7), "- alice.example unknown"),
    ] {
        check_at(&database, now, handle, None, HandleStatus::Unknown).await;
        assert_eq!(database.column(SHOWN).await, [shown]);
    }
}

#[tokio::test]
async fn accounts_of_which_records_are_kept_are_checked_whether_an_event_named_their_handle_or_not()
{
    let database = kept().await;
    database
        .apply(&[identity(BOB, Some("bob.example"), 3)])
        .await;
    assert_eq!(due(&database).await, [ALICE]);
    check(
        &database,
        None,
        Some("alice.example"),
        HandleStatus::Verified,
    )
    .await;
    assert!(due(&database).await.is_empty());
    assert_eq!(
        database.column(SHOWN).await,
        [
            "alice.example alice.example verified",
            "- bob.example unknown"
        ]
    );
    let status = "SELECT handle_status FROM visible_records";
    assert_eq!(database.column(status).await, ["verified"]);
}

#[tokio::test]
async fn another_handle_is_unknown_and_due_at_once_and_the_same_one_stays_as_it_was() {
    let database = kept().await;
    database
        .apply(&[identity(ALICE, Some("alice.example"), 3)])
        .await;
    check(
        &database,
        Some("alice.example"),
        Some("alice.example"),
        HandleStatus::Verified,
    )
    .await;
    database
        .apply(&[identity(ALICE, Some("alice.example"), 4)])
        .await;
    assert_eq!(
        database.column(SHOWN).await,
        ["alice.example alice.example verified"]
    );
    assert_eq!(due(&database).await, [ALICE]);
    database
        .apply(&[identity(ALICE, Some("other.example"), 5)])
        .await;
    assert_eq!(database.column(SHOWN).await, ["- other.example unknown"]);
    assert_eq!(due(&database).await, [ALICE]);
}

#[tokio::test]
async fn a_check_of_a_handle_that_is_no_longer_told_changes_nothing() {
    let database = kept().await;
    database
        .apply(&[identity(ALICE, Some("other.example"), 3)])
        .await;
    check(
        &database,
        Some("alice.example"),
        Some("alice.example"),
        HandleStatus::Verified,
    )
    .await;
    assert_eq!(database.column(SHOWN).await, ["- other.example unknown"]);
    assert_eq!(due(&database).await, [ALICE]);
}

#[tokio::test]
async fn a_check_without_an_answer_leaves_what_was_found_before() {
    let database = kept().await;
    check(
        &database,
        None,
        Some("alice.example"),
        HandleStatus::Verified,
    )
    .await;
    check(
        &database,
        Some("alice.example"),
        Some("alice.example"),
        HandleStatus::Unknown,
    )
    .await;
    assert_eq!(
        database.column(SHOWN).await,
        ["alice.example alice.example verified"]
    );
    check(
        &database,
        Some("alice.example"),
        Some("alice.example"),
        HandleStatus::Invalid,
    )
    .await;
    assert_eq!(database.column(SHOWN).await, ["- alice.example invalid"]);
}

#[tokio::test]
async fn accounts_are_looked_at_in_pages() {
    let database = Database::new().await;
    database
        .apply(&[
            commit(ALICE, 2, 1),
            put(ALICE, "a", 2),
            commit(BOB, 3, 2),
            put(BOB, "a", 3),
            commit(CAROL, 4, 3),
            put(CAROL, "a", 4),
        ])
        .await;
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let page = database
            .store
            .unchecked_handles(&after, Timestamp::now(), 2);
        let page = page.await.unwrap();
        found.extend(page.accounts.iter().map(|account| account.did.to_string()));
        match page.through {
            Some(through) => after = through,
            None => break,
        }
    }
    assert_eq!(found, [ALICE, BOB, CAROL]);
}
