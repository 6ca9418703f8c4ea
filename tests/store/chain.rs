//! Commits are applied if they follow from the known head, and parked otherwise. Holds invariants
//! 1.1 and 7.2.

use huddle_firehose::model::Position;
use huddle_firehose::store::plan::effect::{Effect, EffectPart};
use huddle_firehose::store::repo_store::{Replay, RepoChange, RepoEvent, RepoStore};
use huddle_firehose::store::{Store, StoreError};

use crate::commits::*;
use crate::fixture::*;

async fn cursor(database: &Database) -> Position {
    database
        .store
        .load_cursor(&source())
        .await
        .unwrap()
        .position
}

#[tokio::test]
async fn a_commit_that_follows_is_written_and_moves_its_chain() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    let written = database
        .apply(&[
            commit(ALICE, 2, 1),
            put_by(ALICE, "b", 2),
            delete_by(ALICE, "a", 2),
        ])
        .await;
    assert_eq!((written.records, written.parked), (2, 0));
    assert!(!written.leaves_work);
    assert_eq!(database.column(ROWS).await, ["a 2 deleted", "b 2"]);
    let expected = [head(ALICE, 2, "synchronized")];
    assert_eq!(database.column(HEADS).await, expected);
    assert_eq!(
        database.column("SELECT data FROM repos").await,
        [tree(2).to_string()]
    );
}

#[tokio::test]
async fn of_several_commits_in_a_batch_each_follows_the_one_before_it() {
    let database = Database::new().await;
    let written = database
        .apply(&[
            first_commit(ALICE, 1),
            put_by(ALICE, "a", 1),
            first_commit(BOB, 1),
            put_by(BOB, "a", 1),
            commit(ALICE, 2, 1),
            put_by(ALICE, "a", 2),
            commit(BOB, 3, 2),
            put_by(BOB, "a", 3),
        ])
        .await;
    assert_eq!(database.column(ROWS).await, ["a 2", "a 1"]);
    assert_eq!(written.parked, 1);
    let expected = [
        head(ALICE, 2, "synchronized"),
        head(BOB, 1, "desynchronized parked"),
    ];
    assert_eq!(database.column(HEADS).await, expected);
}

/// The missing commit may have changed kept records.
#[tokio::test]
async fn a_commit_that_does_not_follow_breaks_the_chain_and_is_parked() {
    for (broken, cause) in [
        (commit(ALICE, 4, 3), "prev_data"),
        (sync(ALICE, 4, 4), "sync"),
    ] {
        let database = Database::new().await;
        database.track(&[ALICE]).await;
        database
            .apply(&[commit(ALICE, 2, 1), put_by(ALICE, "a", 2)])
            .await;
        let written = database.apply(&[broken, put_by(ALICE, "b", 4)]).await;
        assert_eq!((written.records, written.parked), (0, 1), "{cause}");
        assert!(written.leaves_work, "{cause}");
        assert_eq!(database.column(ROWS).await, ["a 2"], "{cause}");
        let expected = [head(ALICE, 2, "desynchronized parked")];
        assert_eq!(database.column(HEADS).await, expected, "{cause}");
        assert_eq!(database.column(CAUSE).await, [cause]);
        assert_eq!(database.column(PARKED).await, ["4"], "{cause}");
    }
}

#[tokio::test]
async fn a_known_commit_changes_nothing() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database
        .apply(&[commit(ALICE, 2, 1), delete_by(ALICE, "a", 2)])
        .await;
    let contents = database.contents().await;
    for again in [
        [commit(ALICE, 2, 1), put_by(ALICE, "late", 2)],
        [first_commit(ALICE, 1), put_by(ALICE, "a", 1)],
    ] {
        let written = database.apply(&again).await;
        assert_eq!((written.records, written.parked), (0, 0));
        assert_eq!(database.contents().await, contents);
    }
}

#[tokio::test]
async fn a_commit_without_kept_records_moves_the_head() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    let written = database
        .apply(&[commit(ALICE, 2, 1), sync(ALICE, 3, 2)])
        .await;
    assert_eq!((written.records, written.parked), (0, 0));
    let at_the_sync = [head(ALICE, 3, "synchronized")];
    assert_eq!(database.column(HEADS).await, at_the_sync);
    assert_eq!(
        database.column("SELECT data FROM repos").await,
        [tree(2).to_string()]
    );
}

#[tokio::test]
async fn a_repository_without_kept_records_leaves_no_row() {
    let database = Database::new().await;
    let written = database
        .apply(&[
            first_commit(ALICE, 1),
            commit(ALICE, 9, 8),
            sync(BOB, 1, 1),
            commit(CAROL, 5, 4),
        ])
        .await;
    assert_eq!(written.parked, 0);
    assert!(database.contents().await.is_empty());
}

#[tokio::test]
async fn the_first_commit_with_a_kept_record_begins_the_chain() {
    let database = Database::new().await;
    database
        .apply(&[commit(ALICE, 5, 4), put_by(ALICE, "a", 5)])
        .await;
    assert_eq!(
        database.column(HEADS).await,
        [head(ALICE, 5, "synchronized")]
    );
    // It is not whole, because the commits before it never arrived.
    assert_eq!(database.number("SELECT is_whole FROM repos").await, 0);
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    assert_eq!(database.number("SELECT is_whole FROM repos").await, 1);
}

#[tokio::test]
async fn if_history_is_wanted_the_first_commit_that_arrives_has_its_repository_fetched() {
    let database = Database::new().await;
    let written = database
        .apply(&[
            with_history(commit(ALICE, 5, 4)),
            put_by(ALICE, "a", 5),
            with_history(first_commit(BOB, 6)),
            put_by(BOB, "a", 6),
        ])
        .await;
    assert_eq!((written.records, written.parked), (1, 1));
    let expected = [
        format!("{ALICE} - desynchronized parked"),
        head(BOB, 6, "synchronized"),
    ];
    assert_eq!(database.column(HEADS).await, expected);
    assert_eq!(database.column(CAUSE).await, ["backfill", "-"]);
}

#[tokio::test]
async fn how_much_was_verified_is_in_the_row() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database
        .apply(&[put(BOB, "a", 1), delete(BOB, PROFILE, "b", 2)])
        .await;
    let verified = "SELECT did || ' ' || verified FROM records ORDER BY did, rkey";
    let expected = [
        format!("{ALICE} chain"),
        format!("{BOB} none"),
        format!("{BOB} none"),
    ];
    assert_eq!(database.column(verified).await, expected);
    // The level is the one of the commit that the row comes from.
    database
        .apply(&[put_by(BOB, "a", 3), put(ALICE, "a", 3)])
        .await;
    let expected = [
        format!("{ALICE} none"),
        format!("{BOB} chain"),
        format!("{BOB} none"),
    ];
    assert_eq!(database.column(verified).await, expected);
}

#[tokio::test]
async fn a_refused_effect_rolls_back_head_rows_and_cursor() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database.try_apply(&[], 1).await.unwrap();
    database
        .execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON records WHEN NEW.rkey = 'poison' \
             BEGIN SELECT RAISE(ABORT, 'poisoned'); END",
        )
        .await;
    let contents = database.contents().await;
    let batch = [
        commit(ALICE, 2, 1),
        put_by(ALICE, "b", 2),
        put_by(ALICE, "poison", 2),
        without_key(BOB, 3),
    ];
    let Err(StoreError::Rejected(rejections)) = database.try_apply(&batch, 3).await else {
        panic!("the batch was not refused");
    };
    let named: Vec<EffectPart> = rejections.iter().map(|rejected| rejected.part).collect();
    let poison = EffectPart {
        effect: 0,
        record: Some(1),
    };
    assert_eq!(named, [poison]);
    assert_eq!(database.contents().await, contents);
    assert_eq!(cursor(&database).await.seq, 1);

    // With a dead letter in place of the refused part, the commit is applied.
    let batch = Effect::without_refused(commits(&batch), &source(), rejections);
    database.try_apply(&batch, 3).await.unwrap();
    assert_eq!(database.column(ROWS).await, ["a 1", "b 2"]);
    assert_eq!(
        database.column(HEADS).await,
        [
            head(ALICE, 2, "synchronized"),
            format!("{BOB} - unverified_chain parked")
        ]
    );
    assert_eq!(cursor(&database).await.seq, 3);
}

#[tokio::test]
async fn a_head_that_cannot_be_stored_rolls_back_rows_and_cursor() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database
        .execute(
            "CREATE TRIGGER refuse BEFORE UPDATE ON repos \
             BEGIN SELECT RAISE(ABORT, 'not here'); END",
        )
        .await;
    let contents = database.contents().await;
    let batch = [commit(ALICE, 2, 1), put_by(ALICE, "b", 2)];
    assert!(database.try_apply(&batch, 2).await.is_err());
    assert_eq!(database.contents().await, contents);
    assert_eq!(cursor(&database).await.seq, 0);
}

#[tokio::test]
async fn commits_before_the_deletion_of_their_account_move_no_head() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database.apply(&[account(ALICE, Some("deleted"), 5)]).await;
    let expected = [format!("{ALICE} - desynchronized")];
    assert_eq!(database.column(HEADS).await, expected);
    let written = database
        .apply(&[commit(ALICE, 2, 1), put_by(ALICE, "b", 2)])
        .await;
    assert_eq!((written.records, written.parked), (0, 0));
    assert_eq!(database.column(HEADS).await, expected);
    assert!(database.column(ROWS).await.is_empty());
}

/// Its commits meanwhile are not known.
#[tokio::test]
async fn an_account_that_is_active_again_has_its_repository_fetched() {
    for status in ["deleted", "takendown", "suspended", "deactivated"] {
        let database = Database::new().await;
        database.track(&[ALICE]).await;
        database
            .apply(&[unconfirmed_status(ALICE, Some(status), 2)])
            .await;
        let written = database.apply(&[unconfirmed_status(ALICE, None, 3)]).await;
        assert!(written.leaves_work, "{status}");
        assert_eq!(database.due(0).await, [ALICE], "{status}");
        assert_eq!(database.column(CAUSE).await, ["returned"], "{status}");
        let written = database
            .apply(&[commit(ALICE, 4, 1), put_by(ALICE, "b", 4)])
            .await;
        assert_eq!(written.parked, 1, "{status}");
    }
}

#[tokio::test]
async fn a_refused_commit_has_its_repository_rechecked_or_fetched() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    let written = database
        .apply(&[
            recheck(ALICE, true),
            recheck(BOB, true),
            recheck(CAROL, false),
        ])
        .await;
    assert!(written.leaves_work);
    assert_eq!(database.due(0).await.len(), 2);
    let why = "SELECT did || ' ' || state || ' ' || coalesce(recheck_cause, coalesce(cause, '-')) \
               FROM repos ORDER BY did";
    // The third repository is not tracked, and the refused commit had no wanted record.
    let expected = [
        format!("{ALICE} synchronized 0"),
        format!("{BOB} desynchronized refused"),
    ];
    assert_eq!(database.column(why).await, expected);
}

#[tokio::test]
async fn another_tree_at_the_heads_rev_has_the_repository_fetched_once() {
    let other = |effect| with_chain(effect, |chain| chain.data = tree(99));
    for fork in [commit(ALICE, 2, 1), sync(ALICE, 2, 2)] {
        let database = Database::new().await;
        database.track(&[ALICE]).await;
        database
            .apply(&[commit(ALICE, 2, 1), put_by(ALICE, "b", 2)])
            .await;
        let written = database
            .apply(&[other(fork.clone()), put_by(ALICE, "b", 2)])
            .await;
        assert!(written.leaves_work);
        let expected = [head(ALICE, 2, "desynchronized")];
        assert_eq!(database.column(HEADS).await, expected);
        assert_eq!(database.column(CAUSE).await, ["fork"]);
        assert_eq!(database.column(PARKED).await, [""; 0]);
        // It was in the other history all the time.
        database.begin_resync(ALICE).await;
        let mut resync = resynced(ALICE, 2);
        if let Ok(done) = &mut resync.outcome {
            done.data = tree(99).to_string();
        }
        database.end_resync(&resync).await;
        database.apply(&[other(fork)]).await;
        let expected = [head(ALICE, 2, "synchronized")];
        assert_eq!(database.column(HEADS).await, expected);
    }
}

/// What is behind a commit without a key does not decide about it.
#[tokio::test]
async fn a_refused_commit_behind_a_parked_one_waits_for_its_replay() {
    for is_wanted in [false, true] {
        for is_one_batch in [false, true] {
            let database = Database::new().await;
            let effects = [without_key(ALICE, 1), recheck(ALICE, is_wanted)];
            if is_one_batch {
                database.apply(&effects).await;
            } else {
                database.apply(&effects[..1]).await;
                database.apply(&effects[1..]).await;
            }
            let parked = database.store.first_parked(&did(ALICE)).await.unwrap();
            let good = [first_commit(ALICE, 1), put_by(ALICE, "a", 1)];
            let (parked, good) = (parked.unwrap(), commits(&good));
            let replayed = RepoChange::Replayed(Replay::of_one(&parked, &good));
            database.store.change(replayed).await.unwrap();
            database.note(ALICE, RepoEvent::FinishReplay).await;
            assert_eq!(database.column(ROWS).await, ["a 1"]);
            let expected = [head(ALICE, 1, "synchronized")];
            assert_eq!(database.column(HEADS).await, expected);
            // Then its host is asked.
            let cause = "SELECT recheck_cause || '' FROM repos";
            assert_eq!(database.column(cause).await, ["0"]);
        }
    }
}

#[tokio::test]
async fn a_commit_that_names_a_wrong_rev_before_it_is_counted_and_applied() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    let wrong = [commit_since(ALICE, 4, 1, 3), put_by(ALICE, "a", 4)];
    let written = database.apply(&wrong).await;
    assert_eq!((written.records, written.wrong_sinces), (1, 1));
    assert!(!written.leaves_work);
    let right = [commit_since(ALICE, 5, 4, 4), put_by(ALICE, "a", 5)];
    assert_eq!(database.apply(&right).await.wrong_sinces, 0);
    // A replay of it is stale, and not counted again.
    assert_eq!(database.apply(&wrong).await.wrong_sinces, 0);
}
