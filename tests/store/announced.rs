//! A discovery finds active accounts only. So the repository of an account that becomes active later
//! is fetched too, unless the account is new.

use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::store::plan::effect::{Effect, Predecessor};
use huddle_firehose::store::repo_store::{DiscoveryPage, JobKind, RepoChange, RepoStore, Search};
use jiff::{SignedDuration, Timestamp};

use crate::commits::*;
use crate::fixture::*;

const REPOS: &str = "SELECT state || ' ' || cause FROM repos";

/// The account is said to be active, and what it wrote before is wanted.
fn announced(name: &str, n: u64) -> Effect {
    let mut effect = unconfirmed_status(name, None, n);
    if let Effect::Account(change) = &mut effect {
        change.wants_history = true;
    }
    effect
}

/// A first commit without wanted records, which nothing has verified yet.
fn empty_beginning(name: &str, n: u64) -> Effect {
    with_chain(without_key(name, n), |chain| {
        chain.has_wanted_ops = false;
        chain.begins_empty = true;
    })
}

async fn due_in(database: &Database, time: SignedDuration) -> Vec<Did> {
    let now = Timestamp::now() + time;
    let mut dids = Vec::new();
    for kind in JobKind::ALL {
        let due = database.store.due(kind, now, 9).await.unwrap();
        dids.extend(due.into_iter().map(|repo| repo.did));
    }
    dids
}

/// Holds invariant 6.
#[tokio::test]
async fn an_unknown_account_that_becomes_active_is_fetched_after_a_while() {
    let database = Database::new().await;
    database.apply(&[announced(ALICE, 3)]).await;
    assert_eq!(database.column(REPOS).await, ["desynchronized announced"]);
    assert!(due_in(&database, SignedDuration::ZERO).await.is_empty());
    let later = due_in(&database, SignedDuration::from_mins(2)).await;
    assert_eq!(later, [did(ALICE)]);
}

#[tokio::test]
async fn an_account_that_was_inactive_when_nothing_was_kept_of_it_is_fetched_too() {
    let database = Database::new().await;
    let gone = unconfirmed_status(ALICE, Some("deactivated"), 2);
    database.apply(&[gone, announced(ALICE, 3)]).await;
    assert_eq!(database.column(REPOS).await, ["desynchronized announced"]);
}

#[tokio::test]
async fn a_first_commit_shows_that_an_account_is_new_and_its_key_is_not_looked_up() {
    let database = Database::new().await;
    database.apply(&[announced(ALICE, 3)]).await;
    database.apply(&[empty_beginning(ALICE, 4)]).await;
    assert!(database.column(REPOS).await.is_empty());

    let both = [announced(BOB, 5), empty_beginning(BOB, 6)];
    database.apply(&both).await;
    assert!(database.column(REPOS).await.is_empty());

    // A later commit without wanted records matters as little.
    let unwanted = with_chain(without_key(BOB, 7), |chain| chain.has_wanted_ops = false);
    database.apply(&[unwanted]).await;
    assert!(database.column(REPOS).await.is_empty());
    let parked = "SELECT did FROM parked_commits";
    assert!(database.column(parked).await.is_empty());
}

#[tokio::test]
async fn a_first_commit_ends_nothing_where_a_discovery_has_found_records() {
    let database = Database::new().await;
    database.apply(&[announced(ALICE, 3)]).await;
    let page = DiscoveryPage {
        search: &Search::parse("com.huddle.booking").unwrap(),
        dids: &[did(ALICE)],
        cursor: None,
        pass: 1,
    };
    let found = RepoChange::Discovered(&page);
    database.store.change(found).await.unwrap();
    database.apply(&[empty_beginning(ALICE, 4)]).await;
    assert_eq!(database.column(REPOS).await, ["desynchronized backfill"]);
}

#[tokio::test]
async fn a_first_commit_with_wanted_records_is_kept() {
    let database = Database::new().await;
    let first = with_chain(empty_beginning(ALICE, 4), |chain| {
        chain.has_wanted_ops = true;
        chain.predecessor = Predecessor::KeyUnavailable;
    });
    database.apply(&[announced(ALICE, 3), first]).await;
    let parked = "SELECT did FROM parked_commits";
    assert_eq!(database.column(parked).await, [ALICE]);
}

#[tokio::test]
async fn an_account_that_was_active_all_the_time_is_not_fetched() {
    let database = Database::new().await;
    let known = unconfirmed_status(ALICE, None, 2);
    database.apply(&[known]).await;
    database.apply(&[announced(ALICE, 3)]).await;
    assert!(database.column(REPOS).await.is_empty());
}

#[tokio::test]
async fn without_a_backfill_and_without_a_gap_an_announced_account_is_not_fetched() {
    let database = Database::new().await;
    database.apply(&[unconfirmed_status(ALICE, None, 3)]).await;
    assert!(database.column(REPOS).await.is_empty());
}
