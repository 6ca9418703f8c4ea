//! Parked commits keep their order, and later commits do not overtake them. Holds invariants 4.6
//! and 7.3.

use huddle_firehose::model::ParkedReason;
use huddle_firehose::store::plan::ResyncCause;
use huddle_firehose::store::plan::effect::Effect;
use huddle_firehose::store::repo_store::{
    ParkedCommit, Replay, RepoChange, RepoEvent, RepoStore, WaitsFor,
};
use huddle_firehose::store::{PieceLimit, Store, StoreError, Written};

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
    let change = RepoChange::Replayed(Replay::of_one(parked, effects));
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

/// Holds invariant 7.3.
#[tokio::test]
async fn several_frames_are_replayed_in_one_transaction_up_to_one_that_does_not_follow() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    let parked: Vec<Effect> = (2..=6).map(|n| without_key(ALICE, n)).collect();
    database.apply(&parked).await;
    let frames = database.store.parked(&did(ALICE), 10).await.unwrap();
    assert_eq!(frames.len(), 5);
    // The fourth names another tree before it.
    let before = [1, 2, 3, 9, 5];
    let mut effects = Vec::new();
    let mut ends = Vec::new();
    for (n, before) in (2..=6).zip(before) {
        effects.extend(commits(&[commit(ALICE, n, before), put_by(ALICE, "b", n)]));
        effects.push(dead_letter(n));
        ends.push(effects.len());
    }
    let replay = Replay::of(&frames, &effects, &ends).unwrap();
    let written = database.store.change(RepoChange::Replayed(replay)).await;
    let written = written.unwrap();
    assert_eq!((written.replayed, written.parked), (3, 1));
    assert!(!written.ends_replay);
    assert_eq!(database.column(ROWS).await, ["a 1", "b 4"]);
    assert_eq!(database.column(PARKED).await, ["5", "6"]);
    let broken = [head(ALICE, 4, "desynchronized parked")];
    assert_eq!(database.column(HEADS).await, broken);
    let letters = "SELECT seq || '' FROM dead_letters ORDER BY seq";
    assert_eq!(database.column(letters).await, ["2", "3", "4"]);
    let counts =
        "SELECT commits || ' ' || (SELECT sum(commits) FROM parked_totals) FROM parked_repos";
    assert_eq!(database.column(counts).await, ["2 2"]);

    // A fetch brings the repository to commit 5. What is left then follows, and the replay is over.
    database.resync(ALICE, 5).await;
    let frames = database.store.parked(&did(ALICE), 10).await.unwrap();
    let effects = commits(&[
        commit(ALICE, 5, 4),
        put_by(ALICE, "b", 5),
        commit(ALICE, 6, 5),
        put_by(ALICE, "b", 6),
    ]);
    let replay = Replay::of(&frames, &effects, &[1, 2]).unwrap();
    let written = database.store.change(RepoChange::Replayed(replay)).await;
    let written = written.unwrap();
    assert_eq!((written.replayed, written.ends_replay), (2, true));
    assert_eq!(database.column(ROWS).await, ["a 1", "b 6"]);
    let expected = [head(ALICE, 6, "synchronized")];
    assert_eq!(database.column(HEADS).await, expected);
    assert_eq!(
        database.number("SELECT count(*) FROM parked_repos").await,
        0
    );
}

/// Holds invariant 5.9.
#[tokio::test]
async fn refused_frames_are_not_searched_together() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database
        .apply(&[without_key(ALICE, 2), without_key(ALICE, 3)])
        .await;
    database
        .execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON records WHEN NEW.rkey = 'poison' \
             BEGIN SELECT RAISE(ABORT, 'poisoned'); END",
        )
        .await;
    let contents = database.contents().await;
    let frames = database.store.parked(&did(ALICE), 10).await.unwrap();
    let effects = commits(&[
        commit(ALICE, 2, 1),
        put_by(ALICE, "b", 2),
        commit(ALICE, 3, 2),
        put_by(ALICE, "poison", 3),
    ]);
    let replay = Replay::of(&frames, &effects, &[1, 2]).unwrap();
    let replayed = database.store.change(RepoChange::Replayed(replay)).await;
    let Err(StoreError::Rejected(rejections)) = replayed else {
        panic!("it was not refused: {replayed:?}");
    };
    assert_eq!(rejections, []);
    assert_eq!(database.contents().await, contents);
    // One by one, only the second is refused.
    let effects = commits(&[commit(ALICE, 2, 1), put_by(ALICE, "b", 2)]);
    let replayed = replay_first(&database, ALICE, &effects).await;
    assert_eq!(replayed, Replayed::Done);
}

/// Beyond the limit they would only use disk space: a fetch gives the same result.
#[tokio::test]
async fn beyond_the_limit_parked_frames_are_dropped_in_pieces_and_the_repository_fetched() {
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
    // The transaction deletes the first 4 MiB.
    assert_eq!(database.number(of_alice).await, 900 - 246);
    let expected = [
        head(ALICE, 1, "desynchronized"),
        head(BOB, 1, "synchronized parked"),
    ];
    assert_eq!(database.column(HEADS).await, expected);
    assert_eq!(database.column(CAUSE).await, ["overflow", "-"]);

    // What is left is gone for readers and for limits, and new frames are parked behind it.
    assert_eq!(
        database.store.first_parked(&did(ALICE)).await.unwrap(),
        None
    );
    let counted = async || database.store.repo_counts().await.unwrap();
    assert_eq!(counted().await.parked_commits, 1);
    database.apply(&[large(2), large(1003)]).await;
    assert_eq!(counted().await.parked_commits, 3);
    assert_eq!(counted().await.parked.repository.commits, 2);
    let parked = database.store.first_parked(&did(ALICE)).await.unwrap();
    let newest = "SELECT max(id) FROM parked_commits";
    assert_eq!(parked.unwrap().id, database.number(newest).await - 1);

    let database = database.reopen().await;
    let mut pieces = Vec::new();
    let limit = PieceLimit {
        rows: 200,
        ..PieceLimit::default()
    };
    while database.store.drop_piece(limit).await.unwrap() {
        pieces.push(database.number(of_alice).await);
    }
    assert_eq!(pieces, [456, 256, 56, 2]);
    assert_eq!(database.column(PARKED).await, ["2", "1003", "2"]);
    assert_eq!(
        database.column(COUNTED).await,
        database.column(RECOUNTED).await
    );
}

/// Its frame is deleted in a piece. Holds invariant 4.11.
#[tokio::test]
async fn a_replay_of_a_frame_that_was_dropped_meanwhile_is_not_counted() {
    let database = Database::new().await;
    database.track(&[ALICE, BOB]).await;
    database
        .apply(&[without_key(ALICE, 2), without_key(BOB, 2)])
        .await;
    let parked = &first(&database, ALICE).await;
    database
        .execute(
            "INSERT INTO parked_drops SELECT did, id FROM parked_commits ORDER BY id LIMIT 1; \
             DELETE FROM parked_repos WHERE did IN (SELECT did FROM parked_drops); \
             UPDATE parked_totals SET commits = 1, bytes = (SELECT bytes FROM kept_parked_commits) \
             WHERE commits > 0",
        )
        .await;
    let kept = database.column(SUMS).await;
    assert_eq!(kept.len(), 1);
    let replay = Replay::of_one(parked, &[]);
    let replayed = database.store.change(RepoChange::Replayed(replay)).await;
    replayed.unwrap();
    assert_eq!(database.column(SUMS).await, kept);
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
    let counted = async || {
        let parked = database.store.repo_counts().await.unwrap().parked;
        let commits = ParkedReason::ALL.map(|reason| parked.of(reason).commits);
        (commits, parked.lagging_since().is_some())
    };
    assert_eq!(counted().await, ([0, 0, 3, 0], true));
    database
        .execute("UPDATE repos SET state = 'desynchronized', cause = 'since' WHERE did LIKE '%bob'")
        .await;
    database
        .execute("INSERT OR REPLACE INTO accounts (did, active, status) SELECT did, 0, 'suspended' FROM repos WHERE did LIKE '%carol'")
        .await;
    assert_eq!(counted().await, ([0, 1, 1, 1], true));
}

/// Its owner can have them wait for ever. Holds invariant 12.8.
#[tokio::test]
async fn parked_commits_that_wait_for_their_own_account_are_no_lag() {
    const WEB: &str = "did:web:alice.example";
    let database = Database::new().await;
    database.track(&[BOB, WEB]).await;
    let counted = async || {
        let parked = database.store.repo_counts().await.unwrap().parked;
        let is_lag = parked.lagging_since().is_some();
        (parked.account.commits, parked.key.commits, is_lag)
    };
    // The document of a did:web is at its own host.
    database
        .apply(&[without_key(WEB, 2), put_by(WEB, "b", 2)])
        .await;
    assert_eq!(counted().await, (1, 0, false));

    database
        .apply(&[without_key(BOB, 2), put_by(BOB, "b", 2)])
        .await;
    assert_eq!(counted().await, (1, 1, true));
    let until = second(90);
    for (waits_for, expected) in [
        (WaitsFor::Account, (2, 0, false)),
        (WaitsFor::Shared, (1, 1, true)),
    ] {
        database
            .note(BOB, RepoEvent::RetryLater { until, waits_for })
            .await;
        assert_eq!(counted().await, expected);
    }
    database.request_resync(BOB, ResyncCause::Operator).await;
    assert!(counted().await.2, "its fetch was not tried yet");
    database.begin_resync(BOB).await;
    assert!(!counted().await.2, "its host is asked");
    database.end_resync(&failed(BOB, 90)).await;
    assert!(!counted().await.2, "its host gave no answer");
    database.begin_resync(BOB).await;
    database.end_resync(&resynced(BOB, 9)).await;
    assert_eq!(counted().await, (1, 1, true));
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
        format!("account 2 {}", bytes(2) + bytes(3)),
        format!("repository 1 {of_bob}"),
    ])
    .await;
    // The same frame again is no other one.
    database.apply(&[without_key(ALICE, 2)]).await;
    let effects = [commit(ALICE, 2, 1), put_by(ALICE, "b", 2)];
    assert_eq!(
        replay_first(&database, ALICE, &effects).await,
        Replayed::Done
    );
    counted(&[
        format!("account 1 {}", bytes(3)),
        format!("repository 1 {of_bob}"),
    ])
    .await;
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
