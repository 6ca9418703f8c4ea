//! A gap is closed after every tracked repository was compared. Holds invariant 6.5.

use huddle_firehose::model::{GapCause, Position};
use huddle_firehose::store::plan::ResyncCause;
use huddle_firehose::store::plan::effect::Effect;
use huddle_firehose::store::repo_store::{
    DiscoveryPage, HostStatus, JobKind, Reconciled, RepoChange, RepoEvent, RepoStore, Search,
};
use huddle_firehose::store::{Store, WriteBatch};
use jiff::{SignedDuration, Timestamp};

use crate::commits::*;
use crate::fixture::*;

const OPEN: &str = "SELECT cause FROM gaps WHERE closed_at IS NULL ORDER BY id";

fn outdated(from_seq: u64, to_seq: Option<u64>) -> Effect {
    Effect::Gap(gap(GapCause::OutdatedCursor, from_seq, to_seq))
}

async fn reconcile(database: &Database) -> Reconciled {
    database
        .store
        .reconcile_gaps(Timestamp::now())
        .await
        .unwrap()
}

/// The resolutions of the gaps that can be closed now.
async fn close(database: &Database) -> Vec<String> {
    let closed = reconcile(database).await.closed.into_iter();
    closed.map(|gap| gap.resolution).collect()
}

async fn confirm_rechecks(database: &Database, names: &[&str]) {
    let due = database.store.due(JobKind::Recheck, Timestamp::MAX, 99);
    for repo in due.await.unwrap() {
        if names.contains(&repo.did.as_str()) {
            let recheck_cause = repo.recheck_cause;
            let event = RepoEvent::ConfirmRecheck { recheck_cause };
            database.note(repo.did.as_str(), event).await;
        }
    }
}

#[tokio::test]
async fn without_a_gap_nothing_is_rechecked() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    assert_eq!(reconcile(&database).await, Reconciled::default());
    assert!(database.due(0).await.is_empty());
}

#[tokio::test]
async fn an_ended_gap_has_every_tracked_repository_rechecked_once() {
    let database = Database::new().await;
    database.track(&[ALICE, BOB]).await;
    // Without a checked chain, there is nothing to compare.
    database.apply(&[put(CAROL, "a", 1)]).await;
    database.apply(&[outdated(5, Some(9))]).await;
    assert_eq!(reconcile(&database).await.rechecks, Some(3));
    assert_eq!(database.due(0).await, [CAROL, ALICE, BOB]);
    assert_eq!(database.column(CAUSE).await, ["-", "-", "gap"]);

    confirm_rechecks(&database, &[ALICE]).await;
    let again = reconcile(&database).await;
    assert_eq!((again.rechecks, again.closed.len()), (None, 0));
    assert_eq!(database.due(0).await, [CAROL, BOB]);
}

#[tokio::test]
async fn a_recheck_for_a_gap_is_due_at_once_despite_an_earlier_retry_time() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database.break_chain(ALICE).await;
    database.retry_later(ALICE, second(50)).await;
    database.apply(&[outdated(5, Some(9))]).await;
    reconcile(&database).await;
    assert_eq!(database.due(0).await, [ALICE]);
}

#[tokio::test]
async fn a_gap_is_closed_after_all_rechecks_and_says_what_they_changed() {
    let database = Database::new().await;
    database.track(&[ALICE, BOB]).await;
    database.apply(&[outdated(5, Some(9))]).await;
    reconcile(&database).await;
    confirm_rechecks(&database, &[ALICE]).await;
    database.request_resync(BOB, ResyncCause::Gap).await;
    assert!(close(&database).await.is_empty(), "one is to be fetched");
    database.begin_resync(BOB).await;
    assert!(close(&database).await.is_empty(), "one is being fetched");
    database.end_resync(&failed(BOB, 50)).await;
    assert!(
        close(&database).await.is_empty(),
        "one could not be fetched"
    );

    database.begin_resync(BOB).await;
    let mut fetched = resynced(BOB, 9);
    if let Ok(done) = &mut fetched.outcome {
        (done.created, done.updated, done.deleted) = (3, 2, 1);
    }
    database.end_resync(&fetched).await;
    let resolution = "compared 2 repositories, fetched 1: 3 records created, 2 updated, 1 deleted";
    assert_eq!(close(&database).await, [resolution]);
    let stored = "SELECT resolution FROM gaps WHERE closed_at IS NOT NULL";
    assert_eq!(database.column(stored).await, [resolution]);
    assert!(close(&database).await.is_empty(), "it is closed once");
}

#[tokio::test]
async fn what_could_not_be_compared_stays_visible_and_due_after_its_gap_is_closed() {
    let database = Database::new().await;
    database.track(&[ALICE, BOB]).await;
    database.apply(&[outdated(5, Some(9))]).await;
    reconcile(&database).await;
    confirm_rechecks(&database, &[ALICE]).await;
    let uncompared = "SELECT did FROM uncompared_repos ORDER BY did";
    assert_eq!(database.column(uncompared).await, [BOB]);
    for _ in 0..10 {
        database.retry_later(BOB, second(50)).await;
    }
    let resolution = "compared 2 repositories, fetched 0: 0 records created, 0 updated, 0 deleted; \
                      1 could not be compared yet";
    assert_eq!(close(&database).await, [resolution]);
    assert_eq!(database.column(uncompared).await, [BOB]);
    assert_eq!(database.due(50).await, [BOB]);
    confirm_rechecks(&database, &[BOB]).await;
    assert!(database.column(uncompared).await.is_empty());
}

#[tokio::test]
async fn without_tracked_repositories_a_gap_is_closed_at_once() {
    let database = Database::new().await;
    database.apply(&[outdated(5, Some(9))]).await;
    assert_eq!(close(&database).await.len(), 1);
    assert!(database.column(OPEN).await.is_empty());
}

#[tokio::test]
async fn a_gap_without_an_end_stays_open_until_it_has_one() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database.try_apply(&[outdated(5, None)], 5).await.unwrap();
    assert_eq!(reconcile(&database).await, Reconciled::default());
    assert!(database.due(0).await.is_empty());
    let ended = database.try_apply(&[outdated(5, Some(9))], 9).await;
    ended.unwrap();
    assert_eq!(reconcile(&database).await.rechecks, Some(1));
    confirm_rechecks(&database, &[ALICE]).await;
    assert_eq!(close(&database).await.len(), 1);
}

/// No event tells the end of the gap before a new sequence.
#[tokio::test]
async fn a_gap_before_a_new_sequence_ends_when_an_event_of_it_is_applied() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    let future = gap(GapCause::FutureCursor, 500, None);
    let source = source();
    let store = &database.store;
    let moved = store.move_cursor(&source, Position::default(), Some(&future));
    moved.await.unwrap();
    assert_eq!(reconcile(&database).await, Reconciled::default());
    database.try_apply(&[], 3).await.unwrap();
    assert_eq!(reconcile(&database).await.rechecks, Some(1));
}

/// A connection that began too early may bring too little to decide about it.
#[tokio::test]
async fn a_gap_of_a_connection_that_began_too_early_ends_after_a_minute() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    let early = gap(GapCause::SequenceReset, 5, None);
    database.try_apply(&[Effect::Gap(early)], 5).await.unwrap();
    let now = Timestamp::now();
    for (seconds, expected) in [(30, None), (61, Some(1))] {
        let later = now + SignedDuration::from_secs(seconds);
        let reconciled = database.store.reconcile_gaps(later).await.unwrap();
        assert_eq!(reconciled.rechecks, expected, "after {seconds} s");
    }
}

#[tokio::test]
async fn the_next_gap_has_every_repository_rechecked_again() {
    let database = Database::new().await;
    database.track(&[ALICE, BOB]).await;
    database.apply(&[outdated(5, Some(9))]).await;
    reconcile(&database).await;
    confirm_rechecks(&database, &[ALICE]).await;
    database.apply(&[outdated(20, Some(29))]).await;
    assert_eq!(reconcile(&database).await.rechecks, Some(2));
    assert_eq!(database.column(OPEN).await.len(), 2);
    confirm_rechecks(&database, &[ALICE, BOB]).await;
    assert_eq!(close(&database).await.len(), 2);
}

/// The process may have ended before it knew the end of the gap. The gap that the next one records begins
/// elsewhere, or has another cause. Holds invariant 6.5.
#[tokio::test]
async fn a_gap_without_an_end_has_ended_when_the_cursor_has_left_its_start() {
    for cause in [GapCause::SequenceReset, GapCause::OutdatedCursor] {
        for (cursor, next) in [
            (6, None),
            (9, Some(gap(cause, 7, Some(9)))),
            (2, Some(gap(GapCause::SequenceReset, 5, Some(2)))),
        ] {
            let sequence_restarted = cursor < 5;
            let database = Database::new().await;
            database.track(&[ALICE]).await;
            let open = Effect::Gap(gap(cause, 5, None));
            database.try_apply(&[open], 5).await.unwrap();
            assert_eq!(reconcile(&database).await, Reconciled::default());
            let next: Vec<Effect> = next.map(Effect::Gap).into_iter().collect();
            let batch = WriteBatch {
                source: &source(),
                effects: &next,
                position: Position {
                    seq: cursor,
                    time: None,
                },
                sequence_restarted,
            };
            database.store.apply(&batch).await.unwrap();
            let reconciled = reconcile(&database).await;
            assert_eq!(reconciled.rechecks, Some(1), "{cause:?} {next:?}");
            confirm_rechecks(&database, &[ALICE]).await;
            close(&database).await;
            let open = database.column(OPEN).await;
            assert!(open.is_empty(), "{cause:?} {next:?} {open:?}");
        }
    }
}

/// Holds invariant 6.5.
#[tokio::test]
async fn a_gap_before_a_new_source_ends_when_an_event_of_it_is_applied() {
    for cause in [GapCause::SourceChanged, GapCause::StartedLive] {
        let database = Database::new().await;
        database.track(&[ALICE]).await;
        let open = Effect::Gap(gap(cause, 500, None));
        database.try_apply(&[open], 0).await.unwrap();
        assert_eq!(reconcile(&database).await, Reconciled::default());
        database.try_apply(&[], 3).await.unwrap();
        assert_eq!(reconcile(&database).await.rechecks, Some(1), "{cause:?}");
    }
}

#[tokio::test]
async fn a_gap_before_a_new_sequence_does_not_wait_for_its_end_for_long() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    let reset = Effect::Gap(gap(GapCause::SequenceReset, 5, None));
    database.try_apply(&[reset], 5).await.unwrap();
    assert_eq!(reconcile(&database).await, Reconciled::default());
    database
        .execute("UPDATE gaps SET opened_at = '2020-01-01T00:00:00.000Z'")
        .await;
    assert_eq!(reconcile(&database).await.rechecks, Some(1));
}

/// Holds invariant 6.5.
#[tokio::test]
async fn a_gap_does_not_restart_a_discovery_that_runs_but_has_another_pass_follow() {
    let database = Database::new().await;
    let search = Search::parse(PROFILE).unwrap();
    let collections = std::slice::from_ref(&search);
    let store = &database.store;
    let note = async |pass, cursor| {
        let page = DiscoveryPage {
            search: &search,
            dids: &[],
            cursor,
            pass,
        };
        store.change(RepoChange::Discovered(&page)).await.unwrap();
        let discovery = store.discoveries().await.unwrap().remove(0);
        (discovery.pass, discovery.cursor, discovery.is_over)
    };
    let page_three = Some("three".to_owned());
    store.begin_discovery(collections, false).await.unwrap();
    note(1, Some("two")).await;
    for from_seq in [5, 50, 500] {
        let gap = outdated(from_seq, Some(from_seq + 9));
        database.apply(&[gap]).await;
        assert!(close(&database).await.is_empty());
    }
    assert_eq!(note(1, Some("three")).await, (1, page_three.clone(), false));
    // The end of this pass is not the end, and only one pass follows.
    assert_eq!(note(1, None).await, (2, None, false));
    assert!(close(&database).await.is_empty());
    // A page that was requested in the pass before is late.
    assert_eq!(note(1, None).await, (2, None, false));
    assert_eq!(note(1, Some("three")).await, (2, None, false));
    assert_eq!(note(2, Some("three")).await, (2, page_three, false));
    assert_eq!(note(2, None).await, (2, None, true));
    assert_eq!(close(&database).await.len(), 3);
}

/// Holds invariant 6.9.
#[tokio::test]
async fn a_repository_that_is_new_after_a_closed_gap_is_not_fetched_because_of_it() {
    let begins = [commit(BOB, 7, 6), put_by(BOB, "a", 7)];
    for is_closed in [false, true] {
        let database = Database::new().await;
        database.apply(&[outdated(5, Some(9))]).await;
        if is_closed {
            assert_eq!(close(&database).await.len(), 1);
        }
        database.apply(&begins).await;
        let due = database.due(0).await;
        assert_eq!(due.is_empty(), is_closed, "{due:?}");
    }
}

/// Only a discovery finds a repository that was created in the gap.
#[tokio::test]
async fn no_gap_is_closed_while_a_discovery_runs() {
    let database = Database::new().await;
    let search = Search::parse(PROFILE).unwrap();
    let searches = std::slice::from_ref(&search);
    let page = |pass, cursor| DiscoveryPage {
        search: &search,
        dids: &[],
        cursor,
        pass,
    };
    let store = &database.store;
    store.begin_discovery(searches, false).await.unwrap();
    let found = RepoChange::Discovered(&page(1, None));
    store.change(found).await.unwrap();
    database.apply(&[outdated(5, Some(9))]).await;
    // The gap restarts the discovery.
    assert!(close(&database).await.is_empty());
    let discoveries = store.discoveries().await.unwrap();
    assert!(!discoveries[0].is_over);
    let found = RepoChange::Discovered(&page(2, Some("two")));
    store.change(found).await.unwrap();
    assert!(close(&database).await.is_empty());
    let found = RepoChange::Discovered(&page(2, None));
    store.change(found).await.unwrap();
    assert_eq!(close(&database).await.len(), 1);
}

#[tokio::test]
async fn no_gap_is_closed_while_found_repositories_are_not_fetched() {
    let database = Database::new().await;
    database.apply(&[outdated(5, Some(9))]).await;
    database.request_resync(ALICE, ResyncCause::Backfill).await;
    assert!(close(&database).await.is_empty());
    database.resync(ALICE, 3).await;
    assert_eq!(close(&database).await.len(), 1);
}

/// It may be active again.
#[tokio::test]
async fn the_host_of_an_inactive_account_is_asked_before_a_gap_is_closed() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database
        .apply(&[account(ALICE, Some("deactivated"), 3)])
        .await;
    database.apply(&[outdated(5, Some(9))]).await;
    assert!(close(&database).await.is_empty());
    let unconfirmed = database.store.unconfirmed(second(0), 10).await.unwrap();
    assert_eq!(unconfirmed.len(), 1);
    let host_status = HostStatus::Inactive(Some("deactivated".to_owned()));
    let answered = RepoChange::HostAnswered {
        unconfirmed: &unconfirmed[0],
        answer: &host_status,
    };
    database.store.change(answered).await.unwrap();
    assert_eq!(
        close(&database).await.len(),
        1,
        "the gap does not wait for it"
    );
}
