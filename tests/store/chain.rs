//! Commits are believed where they follow from what is known, and nothing is lost where they do not.

use huddle_firehose::model::Position;
use huddle_firehose::store::plan::effect::{Effect, EffectPart};
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
    assert_eq!((written.records, written.waiting), (2, 0));
    assert!(!written.leaves_work);
    assert_eq!(database.column(ROWS).await, ["a 2 deleted", "b 2"]);
    let stands = [stands(ALICE, 2, "synchronized")];
    assert_eq!(database.column(STANDS).await, stands);
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
    assert_eq!(written.waiting, 1);
    let expected = [
        stands(ALICE, 2, "synchronized"),
        stands(BOB, 1, "desynchronized waiting"),
    ];
    assert_eq!(database.column(STANDS).await, expected);
}

/// What is missed between them may have touched what is kept.
#[tokio::test]
async fn a_commit_that_does_not_follow_breaks_the_chain_and_waits() {
    for (broken, cause) in [
        (commit(ALICE, 4, 3), "prev_data"),
        (commit_since(ALICE, 4, 2, 1), "since"),
        (sync(ALICE, 4, 4), "sync"),
    ] {
        let database = Database::new().await;
        database.track(&[ALICE]).await;
        database
            .apply(&[commit(ALICE, 2, 1), put_by(ALICE, "a", 2)])
            .await;
        let written = database.apply(&[broken, put_by(ALICE, "b", 4)]).await;
        assert_eq!((written.records, written.waiting), (0, 1), "{cause}");
        assert!(written.leaves_work, "{cause}");
        assert_eq!(database.column(ROWS).await, ["a 2"], "{cause}");
        let stands = [stands(ALICE, 2, "desynchronized waiting")];
        assert_eq!(database.column(STANDS).await, stands, "{cause}");
        assert_eq!(database.column(CAUSE).await, [cause]);
        assert_eq!(database.column(WAITING).await, ["4"], "{cause}");
    }
}

#[tokio::test]
async fn a_commit_that_is_known_already_changes_nothing() {
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
        assert_eq!((written.records, written.waiting), (0, 0));
        assert_eq!(database.contents().await, contents);
    }
}

#[tokio::test]
async fn a_commit_that_touches_nothing_that_is_kept_moves_the_chain() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    let written = database
        .apply(&[commit(ALICE, 2, 1), sync(ALICE, 3, 2)])
        .await;
    assert_eq!((written.records, written.waiting), (0, 0));
    let at_the_sync = [stands(ALICE, 3, "synchronized")];
    assert_eq!(database.column(STANDS).await, at_the_sync);
    assert_eq!(
        database.column("SELECT data FROM repos").await,
        [tree(2).to_string()]
    );
}

#[tokio::test]
async fn a_repository_of_which_nothing_is_kept_leaves_no_row() {
    let database = Database::new().await;
    let written = database
        .apply(&[
            first_commit(ALICE, 1),
            commit(ALICE, 9, 8),
            sync(BOB, 1, 1),
            commit(CAROL, 5, 4),
        ])
        .await;
    assert_eq!(written.waiting, 0);
    assert!(database.contents().await.is_empty());
}

#[tokio::test]
async fn the_first_commit_that_is_seen_with_something_to_keep_begins_the_chain() {
    let database = Database::new().await;
    database
        .apply(&[commit(ALICE, 5, 4), put_by(ALICE, "a", 5)])
        .await;
    assert_eq!(
        database.column(STANDS).await,
        [stands(ALICE, 5, "synchronized")]
    );
    // It is not whole: what was before it was never seen.
    assert_eq!(database.number("SELECT is_whole FROM repos").await, 0);
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    assert_eq!(database.number("SELECT is_whole FROM repos").await, 1);
}

#[tokio::test]
async fn where_history_is_wanted_the_first_commit_that_is_seen_has_its_repository_fetched() {
    let database = Database::new().await;
    let written = database
        .apply(&[
            with_history(commit(ALICE, 5, 4)),
            put_by(ALICE, "a", 5),
            with_history(first_commit(BOB, 6)),
            put_by(BOB, "a", 6),
        ])
        .await;
    assert_eq!((written.records, written.waiting), (1, 1));
    let expected = [
        format!("{ALICE} - desynchronized waiting"),
        stands(BOB, 6, "synchronized"),
    ];
    assert_eq!(database.column(STANDS).await, expected);
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
    // It is that of the commit that the row comes from, whatever was known before it.
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
async fn a_refused_effect_takes_chain_rows_and_cursor_back_with_it() {
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
        unproven(BOB, 3),
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

    // With a dead letter in its place, its commit goes through.
    let batch = Effect::without_refused(commits(&batch), &source(), rejections);
    database.try_apply(&batch, 3).await.unwrap();
    assert_eq!(database.column(ROWS).await, ["a 1", "b 2"]);
    assert_eq!(
        database.column(STANDS).await,
        [
            stands(ALICE, 2, "synchronized"),
            format!("{BOB} - unverified_chain waiting")
        ]
    );
    assert_eq!(cursor(&database).await.seq, 3);
}

#[tokio::test]
async fn a_state_that_cannot_be_stored_takes_rows_and_cursor_back_with_it() {
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
async fn what_came_before_a_deletion_of_its_account_moves_no_chain() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database.apply(&[account(ALICE, Some("deleted"), 5)]).await;
    let gone = [format!("{ALICE} - desynchronized")];
    assert_eq!(database.column(STANDS).await, gone);
    let written = database
        .apply(&[commit(ALICE, 2, 1), put_by(ALICE, "b", 2)])
        .await;
    assert_eq!((written.records, written.waiting), (0, 0));
    assert_eq!(database.column(STANDS).await, gone);
    assert!(database.column(ROWS).await.is_empty());
}

/// Nobody knows what happened to it meanwhile.
#[tokio::test]
async fn an_account_that_is_said_to_be_back_has_its_repository_fetched() {
    for status in ["deleted", "takendown", "suspended", "deactivated"] {
        let database = Database::new().await;
        database.track(&[ALICE]).await;
        database.apply(&[said(ALICE, Some(status), 2)]).await;
        let written = database.apply(&[said(ALICE, None, 3)]).await;
        assert!(written.leaves_work, "{status}");
        assert_eq!(database.due(0).await, [ALICE], "{status}");
        assert_eq!(database.column(CAUSE).await, ["returned"], "{status}");
        let written = database
            .apply(&[commit(ALICE, 4, 1), put_by(ALICE, "b", 4)])
            .await;
        assert_eq!(written.waiting, 1, "{status}");
    }
}

#[tokio::test]
async fn what_could_not_be_believed_has_its_repository_compared_or_fetched() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    let written = database
        .apply(&[doubt(ALICE, true), doubt(BOB, true), doubt(CAROL, false)])
        .await;
    assert!(written.leaves_work);
    assert_eq!(database.due(0).await.len(), 2);
    let why = "SELECT did || ' ' || state || ' ' || coalesce(recheck_cause, coalesce(cause, '-')) \
               FROM repos ORDER BY did";
    // Of the third nothing is kept, nor would anything have been.
    let expected = [
        format!("{ALICE} synchronized 0"),
        format!("{BOB} desynchronized refused"),
    ];
    assert_eq!(database.column(why).await, expected);
}
