//! Parked commits keep their order, and later commits do not overtake them. Holds invariants 4.6
//! and 7.3.

use huddle_firehose::store::plan::ResyncCause;
use huddle_firehose::store::plan::effect::Effect;
use huddle_firehose::store::repo_store::{ParkedCommit, RepoChange, RepoEvent, RepoStore};
use huddle_firehose::store::{StoreError, Written};

use crate::commits::*;
use crate::fixture::*;

async fn first(database: &Database, name: &str) -> ParkedCommit {
    let parked = database.store.first_parked(&did(name)).await.unwrap();
    parked.unwrap()
}

/// The result of a replay.
#[derive(Debug, PartialEq, Eq)]
enum Replayed {
    /// It is applied, or stale.
    Done,
    /// It stays parked, because a commit before it is missing.
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

async fn replay_first(database: &Database, name: &str, effects: &[Effect]) -> Replayed {
    match replay(database, name, effects).await.unwrap().parked {
        0 => Replayed::Done,
        _ => Replayed::StillParked,
    }
}

#[tokio::test]
async fn a_frame_without_a_key_is_parked_and_later_frames_behind_it() {
    let database = Database::new().await;
    database.track(&[ALICE, BOB]).await;
    let written = database
        .apply(&[
            without_key(ALICE, 2),
            put_by(ALICE, "b", 2),
            commit(ALICE, 3, 2),
            put_by(ALICE, "c", 3),
            commit(BOB, 2, 1),
            put_by(BOB, "b", 2),
        ])
        .await;
    // Another repository is not delayed.
    assert_eq!((written.records, written.parked), (1, 2));
    database.apply(&[commit(ALICE, 4, 3)]).await;
    assert_eq!(database.column(PARKED).await, ["2", "3", "4"]);
    let expected = [
        head(ALICE, 1, "synchronized parked"),
        head(BOB, 2, "synchronized"),
    ];
    assert_eq!(database.column(HEADS).await, expected);
    let parked = first(&database, ALICE).await;
    assert_eq!(parked.frame, frame(ALICE, 2));
    assert_eq!(parked.source, source());
}

#[tokio::test]
async fn the_first_commit_of_a_repository_may_be_parked() {
    let database = Database::new().await;
    let written = database
        .apply(&[without_key(ALICE, 2), put_by(ALICE, "a", 2)])
        .await;
    assert_eq!((written.records, written.parked), (0, 1));
    assert_eq!(database.due(0).await, [ALICE]);
    let effects = [commit(ALICE, 2, 1), put_by(ALICE, "a", 2)];
    assert_eq!(
        replay_first(&database, ALICE, &effects).await,
        Replayed::Done
    );
    assert_eq!(database.column(ROWS).await, ["a 2"]);
    let expected = [head(ALICE, 2, "synchronized")];
    assert_eq!(database.column(HEADS).await, expected);
}

#[tokio::test]
async fn a_refused_parked_commit_of_an_unknown_repository_leaves_no_row() {
    let database = Database::new().await;
    database
        .apply(&[without_key(ALICE, 2), put_by(ALICE, "a", 2)])
        .await;
    // The verification refuses it.
    assert_eq!(replay_first(&database, ALICE, &[]).await, Replayed::Done);
    assert!(database.contents().await.is_empty());
}

#[tokio::test]
async fn parked_frames_are_replayed_one_by_one_in_their_order() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database
        .apply(&[without_key(ALICE, 2), without_key(ALICE, 3)])
        .await;
    for n in [2, 3] {
        assert_eq!(first(&database, ALICE).await.frame, frame(ALICE, n));
        let effects = [commit(ALICE, n, n - 1), put_by(ALICE, "b", n)];
        assert_eq!(
            replay_first(&database, ALICE, &effects).await,
            Replayed::Done
        );
        assert_eq!(database.column(ROWS).await[1], format!("b {n}"));
        if n == 2 {
            // A commit that arrives meanwhile goes to the end of the queue.
            let written = database.apply(&[commit(ALICE, 4, 3)]).await;
            assert_eq!(written.parked, 1);
        }
    }
    assert_eq!(database.column(PARKED).await, ["4"]);
    let expected = [head(ALICE, 3, "synchronized parked")];
    assert_eq!(database.column(HEADS).await, expected);
}

#[tokio::test]
async fn after_the_last_replay_commits_of_the_stream_are_applied() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database.apply(&[without_key(ALICE, 2)]).await;
    let until = second(50);
    database.retry_later(ALICE, until).await;
    let effects = [commit(ALICE, 2, 1), put_by(ALICE, "b", 2)];
    assert_eq!(
        replay_first(&database, ALICE, &effects).await,
        Replayed::Done
    );

    let expected = [head(ALICE, 2, "synchronized")];
    assert_eq!(database.column(HEADS).await, expected);
    let tries = "SELECT attempts || coalesce(retry_at, '') FROM repos";
    assert_eq!(database.column(tries).await, ["0"]);
    let written = database
        .apply(&[commit(ALICE, 3, 2), put_by(ALICE, "b", 3)])
        .await;
    assert_eq!((written.records, written.parked), (1, 0));
}

#[tokio::test]
async fn a_frame_that_does_not_follow_stays_parked_and_its_repository_is_fetched() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database
        .apply(&[without_key(ALICE, 4), without_key(ALICE, 5)])
        .await;
    let effects = [commit(ALICE, 4, 3), put_by(ALICE, "b", 4)];
    assert_eq!(
        replay_first(&database, ALICE, &effects).await,
        Replayed::StillParked
    );
    assert_eq!(database.column(PARKED).await, ["4", "5"]);
    assert_eq!(database.column(ROWS).await, ["a 1"]);
    let broken = [head(ALICE, 1, "desynchronized parked")];
    assert_eq!(database.column(HEADS).await, broken);

    // The fetch finds the repository at the frame's rev, so the frame is stale.
    database.resync(ALICE, 4).await;
    assert_eq!(
        replay_first(&database, ALICE, &effects).await,
        Replayed::Done
    );
    let effects = [commit(ALICE, 5, 4), put_by(ALICE, "b", 5)];
    assert_eq!(
        replay_first(&database, ALICE, &effects).await,
        Replayed::Done
    );
    assert_eq!(database.column(ROWS).await, ["a 1", "b 5"]);
    let expected = [head(ALICE, 5, "synchronized")];
    assert_eq!(database.column(HEADS).await, expected);
}

#[tokio::test]
async fn while_a_repository_is_fetched_its_commits_are_parked() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database.request_resync(ALICE, ResyncCause::Operator).await;
    database.begin_resync(ALICE).await;
    let written = database
        .apply(&[commit(ALICE, 2, 1), put_by(ALICE, "b", 2)])
        .await;
    assert_eq!((written.records, written.parked), (0, 1));
    let expected = [head(ALICE, 1, "resyncing parked")];
    assert_eq!(database.column(HEADS).await, expected);
}

#[tokio::test]
async fn a_frame_that_comes_again_is_parked_once() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    let batch = [without_key(ALICE, 2), commit(ALICE, 3, 2)];
    database.apply(&batch).await;
    let contents = database.contents().await;
    database.apply(&batch).await;
    assert_eq!(database.contents().await, contents);
}

#[tokio::test]
async fn a_refused_frame_stays_parked() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database.apply(&[without_key(ALICE, 2)]).await;
    database
        .execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON records WHEN NEW.rkey = 'poison' \
             BEGIN SELECT RAISE(ABORT, 'poisoned'); END",
        )
        .await;
    let contents = database.contents().await;
    let effects = [commit(ALICE, 2, 1), put_by(ALICE, "poison", 2)];
    let replayed = replay(&database, ALICE, &effects).await;
    let Err(StoreError::Rejected(rejections)) = replayed else {
        panic!("it was not refused: {replayed:?}");
    };
    assert_eq!(rejections.len(), 1);
    let part = rejections[0].part;
    assert_eq!((part.effect, part.record), (0, Some(0)));
    assert_eq!(database.contents().await, contents);
}

/// Beyond the limit they would only use disk space: a fetch gives the same result.
#[tokio::test]
async fn beyond_the_limit_parked_frames_are_dropped_and_the_repository_fetched() {
    let large = |n| {
        with_chain(without_key(ALICE, n), |chain| {
            chain.frame = vec![0; 17_000].into();
        })
    };
    let database = Database::new().await;
    database.track(&[ALICE, BOB]).await;
    database.apply(&[without_key(BOB, 2)]).await;
    let frames: Vec<_> = (2..902).map(large).collect();
    database.apply(&frames).await;
    let of_alice = "SELECT count(*) FROM parked_commits WHERE did = 'did:plc:alice'";
    assert_eq!(database.number(of_alice).await, 900);
    assert_eq!(database.column(CAUSE).await, ["-", "-"]);

    let frames: Vec<_> = (902..1003).map(large).collect();
    database.apply(&frames).await;
    assert_eq!(database.number(of_alice).await, 0);
    let expected = [
        head(ALICE, 1, "desynchronized"),
        head(BOB, 1, "synchronized parked"),
    ];
    assert_eq!(database.column(HEADS).await, expected);
    assert_eq!(database.column(CAUSE).await, ["overflow", "-"]);
    assert_eq!(database.column(PARKED).await, ["2"]);
}

/// Holds invariant 4.12: a slow directory would have many repositories fetched.
#[tokio::test]
async fn what_waits_for_the_directory_has_no_limit_of_its_account() {
    let large = |n| {
        with_chain(awaiting_directory(ALICE, n), |chain| {
            chain.frame = vec![0; 17_000].into();
        })
    };
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    let frames: Vec<_> = (2..1003).map(large).collect();
    database.apply(&frames).await;
    database.apply(&[commit(ALICE, 1003, 1002)]).await;
    assert_eq!(database.column(CAUSE).await, ["-"]);
    let counted = format!("{ALICE} 1002 {}", frame(ALICE, 1003).len());
    assert_eq!(database.column(COUNTED).await, [counted]);
    let awaiting = database.store.bytes_awaiting_directory().await.unwrap();
    assert_eq!(awaiting, 1001 * 17_000);

    let effects = [commit(ALICE, 2, 1), put_by(ALICE, "b", 2)];
    assert_eq!(
        replay_first(&database, ALICE, &effects).await,
        Replayed::Done
    );
    let counted = format!("{ALICE} 1001 {}", frame(ALICE, 1003).len());
    assert_eq!(database.column(COUNTED).await, [counted]);
    let awaiting = database.store.bytes_awaiting_directory().await.unwrap();
    assert_eq!(awaiting, 1000 * 17_000);
}

#[tokio::test]
async fn parked_frames_are_deleted_with_their_account() {
    let database = Database::new().await;
    database.track(&[ALICE, BOB]).await;
    database
        .apply(&[without_key(ALICE, 2), without_key(BOB, 2)])
        .await;
    database.apply(&[account(ALICE, Some("deleted"), 3)]).await;
    let dids = "SELECT did FROM parked_commits";
    assert_eq!(database.column(dids).await, [BOB]);
    let expected = [
        format!("{ALICE} - desynchronized"),
        head(BOB, 1, "synchronized parked"),
    ];
    assert_eq!(database.column(HEADS).await, expected);
}

#[tokio::test]
async fn parked_commits_are_counted_by_what_they_wait_for() {
    let database = Database::new().await;
    database.track(&[ALICE, BOB, CAROL]).await;
    database
        .apply(&[
            without_key(ALICE, 2),
            put_by(ALICE, "b", 2),
            without_key(BOB, 2),
            put_by(BOB, "b", 2),
            without_key(CAROL, 2),
            put_by(CAROL, "b", 2),
        ])
        .await;
    let parked = database.store.repo_counts().await.unwrap().parked;
    assert_eq!((parked.key, parked.repository, parked.inactive), (3, 0, 0));
    assert!(parked.oldest_at.is_some());
    database
        .execute("UPDATE repos SET state = 'desynchronized', cause = 'since' WHERE did LIKE '%bob'")
        .await;
    database
        .execute("INSERT OR REPLACE INTO accounts (did, active, status) SELECT did, 0, 'suspended' FROM repos WHERE did LIKE '%carol'")
        .await;
    let parked = database.store.repo_counts().await.unwrap().parked;
    assert_eq!((parked.key, parked.repository, parked.inactive), (1, 1, 1));
}

const SUMS: &str = "SELECT reason || ' ' || commits || ' ' || bytes FROM parked_totals \
     WHERE commits > 0 ORDER BY reason";
const COUNTED: &str = "SELECT did || ' ' || commits || ' ' || bytes FROM parked_repos ORDER BY did";
const RECOUNTED: &str = "SELECT did || ' ' || count(*) || ' ' || sum(bytes) FROM parked_commits \
     GROUP BY did ORDER BY did";

/// Holds invariant 4.11.
#[tokio::test]
async fn what_is_parked_is_counted_as_it_comes_and_goes() {
    let database = Database::new().await;
    database.track(&[ALICE, BOB]).await;
    let bytes = |n| frame(ALICE, n).len() as u64;
    let counted = async |sums: &[String]| {
        assert_eq!(database.column(SUMS).await, sums);
        assert_eq!(
            database.column(COUNTED).await,
            database.column(RECOUNTED).await
        );
    };
    database
        .apply(&[
            without_key(ALICE, 2),
            commit(ALICE, 3, 2),
            commit(BOB, 3, 2),
        ])
        .await;
    let of_bob = frame(BOB, 3).len();
    counted(&[
        format!("fetch 1 {of_bob}"),
        format!("key 1 {}", bytes(2)),
        format!("order 1 {}", bytes(3)),
    ])
    .await;
    // The same frame again is no other one.
    database.apply(&[without_key(ALICE, 2)]).await;
    let effects = [commit(ALICE, 2, 1), put_by(ALICE, "b", 2)];
    assert_eq!(
        replay_first(&database, ALICE, &effects).await,
        Replayed::Done
    );
    counted(&[format!("fetch 1 {of_bob}"), format!("order 1 {}", bytes(3))]).await;
    database
        .apply(&[
            account(ALICE, Some("deleted"), 4),
            account(BOB, Some("deleted"), 5),
        ])
        .await;
    counted(&[]).await;
}

#[tokio::test]
async fn parked_commits_of_an_inactive_account_are_dropped_and_its_repository_is_fetched_later() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database.apply(&[without_key(ALICE, 2)]).await;
    database
        .apply(&[account(ALICE, Some("deactivated"), 3)])
        .await;
    let alice = did(ALICE);
    let suspend = RepoChange::Repo {
        did: &alice,
        event: RepoEvent::Suspend { until: second(50) },
    };
    database.store.change(suspend).await.unwrap();
    let none: [&str; 0] = [];
    assert_eq!(database.column(PARKED).await, none);
    assert_eq!(database.column(COUNTED).await, none);
    let causes = "SELECT state || ' ' || cause FROM repos";
    assert_eq!(database.column(causes).await, ["desynchronized returned"]);
}
