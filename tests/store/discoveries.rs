//! A discovery continues after a restart, and fetches no repository twice.

use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::model::{BackfillCounts, RepoCounts};
use huddle_firehose::store::plan::ResyncCause;
use huddle_firehose::store::repo_store::{Discovery, DiscoveryPage, RepoChange, RepoStore, Search};

use crate::commits::*;
use crate::fixture::*;

fn searches(names: &[&str]) -> Vec<Search> {
    names
        .iter()
        .map(|name| Search::parse(name).unwrap())
        .collect()
}

const COLLECTIONS: [&str; 2] = ["com.huddle.profile", "com.huddle.slotOffer"];

async fn begin(database: &Database, anew: bool) {
    let searches = searches(&COLLECTIONS);
    let discovery = database.store.begin_discovery(&searches, anew).await;
    discovery.unwrap();
}

async fn note(database: &Database, collection: &str, names: &[&str], cursor: Option<&str>) {
    let discoveries = database.store.discoveries().await.unwrap();
    let mut discoveries = discoveries.iter();
    let running = discoveries.find(|discovery| discovery.search.as_str() == collection);
    let pass = running.unwrap().pass;
    note_in_pass(database, collection, names, cursor, pass).await;
}

async fn note_in_pass(
    database: &Database,
    collection: &str,
    names: &[&str],
    cursor: Option<&str>,
    pass: i64,
) {
    let dids: Vec<Did> = names.iter().map(|name| did(name)).collect();
    let page = DiscoveryPage {
        search: &Search::parse(collection).unwrap(),
        dids: &dids,
        cursor,
        pass,
    };
    let found = RepoChange::Discovered(&page);
    database.store.change(found).await.unwrap();
}

/// The progress of each discovery: the cursor, the number of repositories found, and whether it is
/// over.
async fn progress(database: &Database) -> Vec<(Option<String>, u64, bool)> {
    let all = database.store.discoveries().await.unwrap().into_iter();
    all.map(|one| (one.cursor, one.repos, one.is_over))
        .collect()
}

#[tokio::test]
async fn a_discovery_goes_page_by_page_and_ends() {
    let database = Database::new().await;
    begin(&database, false).await;
    let expected = COLLECTIONS.map(|collection| Discovery {
        search: Search::parse(collection).unwrap(),
        cursor: None,
        repos: 0,
        is_over: false,
        unsupported: None,
        pass: 1,
    });
    assert_eq!(database.store.discoveries().await.unwrap(), expected);

    let [first, _] = COLLECTIONS;
    note(&database, first, &[ALICE, BOB], Some("two")).await;
    let database = database.reopen().await;
    let page_two = (Some("two".to_owned()), 2, false);
    assert_eq!(
        progress(&database).await,
        [page_two.clone(), (None, 0, false)]
    );
    // An empty page is not the last one.
    note(&database, first, &[], Some("three")).await;
    note(&database, first, &[CAROL], None).await;
    assert_eq!(
        progress(&database).await,
        [(None, 3, true), (None, 0, false)]
    );
    assert_eq!(database.due(0).await.len(), 3);
    assert_eq!(database.column(CAUSE).await, ["backfill"; 3]);
}

#[tokio::test]
async fn a_discovery_that_runs_or_is_over_is_not_begun_again() {
    let database = Database::new().await;
    begin(&database, false).await;
    let [first, second] = COLLECTIONS;
    note(&database, first, &[ALICE], Some("two")).await;
    note(&database, second, &[BOB], None).await;
    let contents = database.contents().await;
    begin(&database, false).await;
    assert_eq!(database.contents().await, contents);
}

#[tokio::test]
async fn anew_restarts_a_discovery_that_is_over_and_none_that_runs() {
    let database = Database::new().await;
    begin(&database, false).await;
    let [first, second] = COLLECTIONS;
    note(&database, first, &[ALICE], Some("two")).await;
    note(&database, second, &[BOB], None).await;
    begin(&database, true).await;
    let page_two = (Some("two".to_owned()), 1, false);
    assert_eq!(progress(&database).await, [page_two, (None, 0, false)]);
}

/// Its repositories count all the same.
#[tokio::test]
async fn a_page_that_was_requested_before_the_discovery_began_anew_does_not_move_it() {
    let database = Database::new().await;
    begin(&database, false).await;
    let [first, second] = COLLECTIONS;
    for collection in COLLECTIONS {
        note(&database, collection, &[], None).await;
    }
    begin(&database, true).await;
    note_in_pass(&database, first, &[ALICE], None, 1).await;
    note_in_pass(&database, second, &[BOB], Some("nine"), 1).await;
    assert_eq!(
        progress(&database).await,
        [(None, 0, false), (None, 0, false)]
    );
    assert_eq!(database.due(0).await, [ALICE, BOB]);
}

#[tokio::test]
async fn only_repositories_that_were_never_whole_are_fetched() {
    let database = Database::new().await;
    // Known from its first commit; by a fetch; from a later commit; without a chain.
    database.track(&[ALICE]).await;
    database
        .apply(&[commit(BOB, 5, 4), put_by(BOB, "a", 5)])
        .await;
    database.resync(BOB, 6).await;
    database
        .apply(&[commit(CAROL, 5, 4), put_by(CAROL, "a", 5)])
        .await;
    const DAN: &str = "did:plc:dan";
    database.apply(&[put(DAN, "a", 1)]).await;
    begin(&database, false).await;
    for collection in COLLECTIONS {
        let all = [ALICE, BOB, CAROL, DAN];
        note(&database, collection, &all, None).await;
    }
    assert_eq!(database.due(0).await, [CAROL, DAN]);

    for name in [CAROL, DAN] {
        database.resync(name, 9).await;
    }
    begin(&database, true).await;
    for collection in COLLECTIONS {
        let all = [ALICE, BOB, CAROL, DAN];
        note(&database, collection, &all, None).await;
    }
    assert!(database.due(0).await.is_empty());
}

#[tokio::test]
async fn a_repository_that_is_due_for_a_fetch_keeps_its_cause_and_retry_time() {
    let database = Database::new().await;
    database
        .apply(&[commit(ALICE, 5, 4), put_by(ALICE, "a", 5)])
        .await;
    database.break_chain(ALICE).await;
    database.retry_later(ALICE, second(50)).await;
    begin(&database, false).await;
    note(&database, COLLECTIONS[0], &[ALICE], None).await;
    assert_eq!(database.column(CAUSE).await, ["prev_data"]);
    assert!(database.due(49).await.is_empty());
}

#[tokio::test]
async fn repositories_are_counted_by_state() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    let others = ["broken", "rechecked", "resyncing", "throttled", "parked"];
    let others = others.map(|name| format!("did:plc:{name}"));
    let [broken, rechecked, resyncing, throttled, parked] = &others;
    for name in &others {
        database.track(&[name]).await;
    }
    database.break_chain(broken).await;
    database.apply(&[recheck(rechecked, true)]).await;
    for name in [resyncing, throttled] {
        let id = did(name);
        database
            .request_resync(id.as_str(), ResyncCause::Operator)
            .await;
        database.begin_resync(id.as_str()).await;
    }
    let mut failure = failed(throttled, 100);
    if let Err(failure) = &mut failure.outcome {
        failure.is_throttled = true;
    }
    database.end_resync(&failure).await;
    database
        .apply(&[without_key(parked, 2), without_key(parked, 3)])
        .await;
    let counted = database.store.repo_counts().await.unwrap();
    assert_eq!(
        counted.parked.key.commits + counted.parked.repository.commits,
        3
    );
    let expected = RepoCounts {
        tracked: 6,
        desynchronized: 1,
        resyncing: 1,
        throttled: 1,
        rechecks: 1,
        with_parked: 2,
        parked_commits: 3,
        parked: counted.parked,
        backfill: BackfillCounts::default(),
    };
    assert_eq!(counted, expected);
}

#[tokio::test]
async fn the_progress_of_a_backfill_is_counted() {
    let backfill = |discovering, fetched, left, failing| BackfillCounts {
        discovering,
        fetched,
        left,
        failing,
    };
    let database = Database::new().await;
    begin(&database, false).await;
    note(&database, COLLECTIONS[0], &[ALICE, BOB, CAROL], None).await;
    let counts = async || database.store.repo_counts().await.unwrap().backfill;
    assert_eq!(counts().await, backfill(1, 0, 3, 0));
    note(&database, COLLECTIONS[1], &[], None).await;

    let mut fetched = resynced(ALICE, 9);
    fetched.cause = ResyncCause::Backfill;
    database.begin_resync(ALICE).await;
    database.end_resync(&fetched).await;
    assert_eq!(counts().await, backfill(0, 1, 2, 0));
    assert!(!counts().await.is_over());

    database.begin_resync(BOB).await;
    database.end_resync(&failed(BOB, 100)).await;
    assert_eq!(counts().await, backfill(0, 1, 2, 1));
    // The repository of a deleted account is not fetched.
    database.apply(&[account(CAROL, Some("deleted"), 5)]).await;
    assert_eq!(counts().await, backfill(0, 1, 1, 1));
    assert!(counts().await.is_over(), "everything was tried");
}
