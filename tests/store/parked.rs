//! What has to wait keeps its order, and nothing overtakes it.

use huddle_firehose::store::plan::effect::Effect;
use huddle_firehose::store::repos::{ParkedCommit, RepoChange, RepoStore};
use huddle_firehose::store::{StoreError, Written};

use crate::commits::*;
use crate::fixture::*;

async fn first(database: &Database, name: &str) -> ParkedCommit {
    let waiting = database.store.first_parked(&did(name)).await.unwrap();
    waiting.unwrap()
}

/// What became of a frame that was parked.
#[derive(Debug, PartialEq, Eq)]
enum Replayed {
    /// It is applied, or came too late.
    Done,
    /// It stays where it is: something before it was missed.
    StillParked,
}

async fn replay(
    database: &Database,
    name: &str,
    effects: &[Effect],
) -> Result<Written, StoreError> {
    let parked = &first(database, name).await;
    let effects = &commits(effects);
    let change = RepoChange::Replayed { parked, effects };
    database.store.change(change).await
}

async fn settle(database: &Database, name: &str, effects: &[Effect]) -> Replayed {
    match replay(database, name, effects).await.unwrap().waiting {
        0 => Replayed::Done,
        _ => Replayed::StillParked,
    }
}

#[tokio::test]
async fn a_frame_waits_for_its_key_and_those_behind_it_wait_for_it() {
    let database = Database::new().await;
    database.track(&[ALICE, BOB]).await;
    let written = database
        .apply(&[
            unproven(ALICE, 2),
            put_by(ALICE, "b", 2),
            commit(ALICE, 3, 2),
            put_by(ALICE, "c", 3),
            commit(BOB, 2, 1),
            put_by(BOB, "b", 2),
        ])
        .await;
    // Another repository is not kept waiting.
    assert_eq!((written.records, written.waiting), (1, 2));
    database.apply(&[commit(ALICE, 4, 3)]).await;
    assert_eq!(database.column(WAITING).await, ["2", "3", "4"]);
    let expected = [
        stands(ALICE, 1, "synchronized waiting"),
        stands(BOB, 2, "synchronized"),
    ];
    assert_eq!(database.column(STANDS).await, expected);
    let waiting = first(&database, ALICE).await;
    assert_eq!(waiting.frame, frame(ALICE, 2));
    assert_eq!(waiting.source, source());
}

#[tokio::test]
async fn a_repository_that_was_never_seen_may_wait_for_its_key() {
    let database = Database::new().await;
    let written = database
        .apply(&[unproven(ALICE, 2), put_by(ALICE, "a", 2)])
        .await;
    assert_eq!((written.records, written.waiting), (0, 1));
    assert_eq!(database.due(0).await, [ALICE]);
    let effects = [commit(ALICE, 2, 1), put_by(ALICE, "a", 2)];
    assert_eq!(settle(&database, ALICE, &effects).await, Replayed::Done);
    assert_eq!(database.column(ROWS).await, ["a 2"]);
    let there = [stands(ALICE, 2, "synchronized")];
    assert_eq!(database.column(STANDS).await, there);
}

#[tokio::test]
async fn what_waited_in_vain_of_a_repository_of_which_nothing_is_kept_leaves_no_row() {
    let database = Database::new().await;
    database
        .apply(&[unproven(ALICE, 2), put_by(ALICE, "a", 2)])
        .await;
    // It turns out to be nothing to believe.
    assert_eq!(settle(&database, ALICE, &[]).await, Replayed::Done);
    assert!(database.contents().await.is_empty());
}

#[tokio::test]
async fn frames_are_let_through_one_by_one_in_their_order() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database
        .apply(&[unproven(ALICE, 2), unproven(ALICE, 3)])
        .await;
    for n in [2, 3] {
        assert_eq!(first(&database, ALICE).await.frame, frame(ALICE, n));
        let effects = [commit(ALICE, n, n - 1), put_by(ALICE, "b", n)];
        assert_eq!(settle(&database, ALICE, &effects).await, Replayed::Done);
        assert_eq!(database.column(ROWS).await[1], format!("b {n}"));
        if n == 2 {
            // What comes meanwhile goes to the end of the queue.
            let written = database.apply(&[commit(ALICE, 4, 3)]).await;
            assert_eq!(written.waiting, 1);
        }
    }
    assert_eq!(database.column(WAITING).await, ["4"]);
    let expected = [stands(ALICE, 3, "synchronized waiting")];
    assert_eq!(database.column(STANDS).await, expected);
}

#[tokio::test]
async fn once_nothing_waits_any_more_the_stream_goes_on() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database.apply(&[unproven(ALICE, 2)]).await;
    let until = second(50);
    let alice = did(ALICE);
    database.retry_later(alice.as_str(), until).await;
    let effects = [commit(ALICE, 2, 1), put_by(ALICE, "b", 2)];
    assert_eq!(settle(&database, ALICE, &effects).await, Replayed::Done);

    let there = [stands(ALICE, 2, "synchronized")];
    assert_eq!(database.column(STANDS).await, there);
    let tries = "SELECT attempts || coalesce(retry_at, '') FROM repos";
    assert_eq!(database.column(tries).await, ["0"]);
    let written = database
        .apply(&[commit(ALICE, 3, 2), put_by(ALICE, "b", 3)])
        .await;
    assert_eq!((written.records, written.waiting), (1, 0));
}

#[tokio::test]
async fn a_frame_that_does_not_follow_stays_and_its_repository_is_to_be_fetched() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database
        .apply(&[unproven(ALICE, 4), unproven(ALICE, 5)])
        .await;
    let effects = [commit(ALICE, 4, 3), put_by(ALICE, "b", 4)];
    assert_eq!(
        settle(&database, ALICE, &effects).await,
        Replayed::StillParked
    );
    assert_eq!(database.column(WAITING).await, ["4", "5"]);
    assert_eq!(database.column(ROWS).await, ["a 1"]);
    let broken = [stands(ALICE, 1, "desynchronized waiting")];
    assert_eq!(database.column(STANDS).await, broken);

    // It brings the repository to where the frame says; so that came too late.
    database.resync(ALICE, 4).await;
    assert_eq!(settle(&database, ALICE, &effects).await, Replayed::Done);
    let effects = [commit(ALICE, 5, 4), put_by(ALICE, "b", 5)];
    assert_eq!(settle(&database, ALICE, &effects).await, Replayed::Done);
    assert_eq!(database.column(ROWS).await, ["a 1", "b 5"]);
    let there = [stands(ALICE, 5, "synchronized")];
    assert_eq!(database.column(STANDS).await, there);
}

#[tokio::test]
async fn while_a_repository_is_fetched_its_commits_wait() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    let alice = did(ALICE);
    database.request_resync(alice.as_str(), "operator").await;
    database.begin_resync(alice.as_str()).await;
    let written = database
        .apply(&[commit(ALICE, 2, 1), put_by(ALICE, "b", 2)])
        .await;
    assert_eq!((written.records, written.waiting), (0, 1));
    let expected = [stands(ALICE, 1, "resyncing waiting")];
    assert_eq!(database.column(STANDS).await, expected);
}

#[tokio::test]
async fn a_frame_that_comes_again_waits_once() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    let batch = [unproven(ALICE, 2), commit(ALICE, 3, 2)];
    database.apply(&batch).await;
    let contents = database.contents().await;
    database.apply(&batch).await;
    assert_eq!(database.contents().await, contents);
}

#[tokio::test]
async fn a_refused_frame_stays_where_it_is() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database.apply(&[unproven(ALICE, 2)]).await;
    database
        .execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON records WHEN NEW.rkey = 'poison' \
             BEGIN SELECT RAISE(ABORT, 'poisoned'); END",
        )
        .await;
    let contents = database.contents().await;
    let effects = [commit(ALICE, 2, 1), put_by(ALICE, "poison", 2)];
    let settled = replay(&database, ALICE, &effects).await;
    let Err(StoreError::Rejected(rejections)) = settled else {
        panic!("it was not refused: {settled:?}");
    };
    assert_eq!(rejections.len(), 1);
    let part = rejections[0].part;
    assert_eq!((part.effect, part.record), (0, Some(0)));
    assert_eq!(database.contents().await, contents);
}

/// Beyond so much it would only cost room: the repository as a whole says the same.
#[tokio::test]
async fn where_too_much_waits_it_is_dropped_and_the_repository_fetched() {
    let large = |n| {
        with_chain(unproven(ALICE, n), |chain| {
            chain.frame = vec![0; 17_000].into();
        })
    };
    let database = Database::new().await;
    database.track(&[ALICE, BOB]).await;
    database.apply(&[unproven(BOB, 2)]).await;
    let frames: Vec<_> = (2..902).map(large).collect();
    database.apply(&frames).await;
    let of_alice = "SELECT count(*) FROM parked_commits WHERE did = 'did:plc:alice'";
    assert_eq!(database.number(of_alice).await, 900);
    assert_eq!(database.column(CAUSE).await, ["-", "-"]);

    let frames: Vec<_> = (902..1003).map(large).collect();
    database.apply(&frames).await;
    assert_eq!(database.number(of_alice).await, 0);
    let expected = [
        stands(ALICE, 1, "desynchronized"),
        stands(BOB, 1, "synchronized waiting"),
    ];
    assert_eq!(database.column(STANDS).await, expected);
    assert_eq!(database.column(CAUSE).await, ["overflow", "-"]);
    assert_eq!(database.column(WAITING).await, ["2"]);
}

#[tokio::test]
async fn what_waits_goes_with_its_account() {
    let database = Database::new().await;
    database.track(&[ALICE, BOB]).await;
    database
        .apply(&[unproven(ALICE, 2), unproven(BOB, 2)])
        .await;
    database.apply(&[account(ALICE, Some("deleted"), 3)]).await;
    let dids = "SELECT did FROM parked_commits";
    assert_eq!(database.column(dids).await, [BOB]);
    let expected = [
        format!("{ALICE} - desynchronized"),
        stands(BOB, 1, "synchronized waiting"),
    ];
    assert_eq!(database.column(STANDS).await, expected);
}
