//! How a snapshot changes the rows of its repository. Holds invariant 2.8.

use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::model::SourceId;
use huddle_firehose::store::plan::effect::Effect;
use huddle_firehose::store::repo_store::{Held, HeldRange, RepoChange, RepoStore, SnapshotPart};
use huddle_firehose::store::{StoreError, Written};

use crate::commits::*;
use crate::fixture::*;

const VERIFIED: &str = "SELECT rkey || ' ' || verified FROM records ORDER BY rkey";

async fn try_write(
    database: &Database,
    effects: &[Effect],
    confirmed: &[&str],
) -> Result<Written, StoreError> {
    let confirmed: Vec<String> = confirmed
        .iter()
        .map(|rkey| format!("{PROFILE}/{rkey}"))
        .collect();
    let part = SnapshotPart {
        source: &SourceId::new("https://host.example/"),
        did: &did(ALICE),
        effects,
        confirmed: &confirmed,
    };
    database.store.change(RepoChange::Snapshot(&part)).await
}

async fn write(database: &Database, effects: &[Effect]) -> Written {
    try_write(database, effects, &[]).await.unwrap()
}

async fn held(database: &Database, after: &str, through: Option<&str>, limit: usize) -> Vec<Held> {
    let range = HeldRange {
        did: &did(ALICE),
        after,
        through,
        limit,
    };
    database.store.held(range).await.unwrap()
}

fn rkeys(held: &[Held]) -> Vec<&str> {
    let paths = held.iter().map(|held| held.path.as_str());
    paths
        .map(|path| path.rsplit('/').next().unwrap_or_default())
        .collect()
}

#[tokio::test]
async fn it_creates_updates_and_deletes() {
    let database = Database::new().await;
    database
        .apply(&[
            first_commit(ALICE, 1),
            put_by(ALICE, "gone", 1),
            put_by(ALICE, "old", 1),
            put_by(ALICE, "same", 1),
        ])
        .await;
    let written = write(
        &database,
        &[
            put_by(ALICE, "new", 5),
            put_by(ALICE, "old", 5),
            delete_by(ALICE, "gone", 5),
        ],
    )
    .await;
    assert_eq!((written.records, written.stale), (3, 0));
    let expected = ["gone 5 deleted", "new 5", "old 5", "same 1"];
    assert_eq!(database.column(ROWS).await, expected);
    let sources = "SELECT DISTINCT source FROM records WHERE seq = 5";
    assert_eq!(database.column(sources).await, ["https://host.example/"]);
}

#[tokio::test]
async fn a_part_that_is_written_again_changes_nothing() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    let part = [put_by(ALICE, "b", 5), delete_by(ALICE, "a", 5)];
    write(&database, &part).await;
    let contents = database.contents().await;
    let written = write(&database, &part).await;
    assert_eq!((written.records, written.stale), (0, 2));
    assert_eq!(database.contents().await, contents);
}

#[tokio::test]
async fn no_replay_brings_back_what_it_deletes() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    write(&database, &[delete_by(ALICE, "a", 5)]).await;
    database.resync(ALICE, 5).await;
    for replayed in [
        vec![put_by(ALICE, "a", 4)],
        vec![first_commit(ALICE, 1), put_by(ALICE, "a", 1)],
        vec![commit(ALICE, 5, 4), put_by(ALICE, "a", 5)],
    ] {
        database.apply(&replayed).await;
        assert_eq!(database.column(ROWS).await, ["a 5 deleted"]);
    }
    // A later commit may.
    database
        .apply(&[commit(ALICE, 6, 5), put_by(ALICE, "a", 6)])
        .await;
    assert_eq!(database.column(ROWS).await, ["a 6"]);
}

#[tokio::test]
async fn an_older_one_overwrites_nothing() {
    let database = Database::new().await;
    database
        .apply(&[
            first_commit(ALICE, 7),
            put_by(ALICE, "a", 7),
            delete_by(ALICE, "b", 7),
        ])
        .await;
    let written = write(
        &database,
        &[
            delete_by(ALICE, "a", 5),
            put_by(ALICE, "b", 5),
            put_by(ALICE, "c", 5),
        ],
    )
    .await;
    assert_eq!((written.records, written.stale), (1, 2));
    assert_eq!(database.column(ROWS).await, ["a 7", "b 7 deleted", "c 5"]);
}

#[tokio::test]
async fn confirmed_records_become_verified_and_stay_otherwise_equal() {
    let database = Database::new().await;
    database
        .apply(&[put(ALICE, "a", 1), put(ALICE, "b", 1), put(BOB, "c", 1)])
        .await;
    try_write(&database, &[], &["a", "c"]).await.unwrap();
    // The last one belongs to another repository.
    assert_eq!(
        database.column(VERIFIED).await,
        ["a chain", "b none", "c none"]
    );
    assert_eq!(database.column(ROWS).await, ["a 1", "b 1", "c 1"]);
}

#[tokio::test]
async fn it_does_not_move_the_chain_before_all_of_it_is_written() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    write(&database, &[put_by(ALICE, "b", 5)]).await;
    let before = [head(ALICE, 1, "synchronized")];
    assert_eq!(database.column(HEADS).await, before);
}

#[tokio::test]
async fn nothing_of_a_deleted_account_is_written_until_it_is_active_again() {
    let database = Database::new().await;
    database.apply(&[account(ALICE, Some("deleted"), 5)]).await;
    // Its revs are made by the clock of its host, so they tell nothing.
    let part = [put_by(ALICE, "a", 4), put_by(ALICE, "b", 6)];
    assert_eq!(write(&database, &part).await.records, 0);
    database.apply(&[account(ALICE, None, 7)]).await;
    assert_eq!(write(&database, &part).await.records, 2);
    assert_eq!(database.column(ROWS).await, ["a 4", "b 6"]);
}

#[tokio::test]
async fn a_refused_record_is_named_and_nothing_is_half_written() {
    let database = Database::new().await;
    database.apply(&[put(ALICE, "a", 1)]).await;
    database
        .execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON records WHEN NEW.rkey = 'poison' \
             BEGIN SELECT RAISE(ABORT, 'poisoned'); END",
        )
        .await;
    let part = [put_by(ALICE, "b", 5), put_by(ALICE, "poison", 5)];
    let result = try_write(&database, &part, &["a"]).await;
    let Err(StoreError::Rejected(rejections)) = result else {
        panic!("it was not refused: {result:?}");
    };
    let named: Vec<usize> = rejections
        .iter()
        .map(|rejected| rejected.part.effect)
        .collect();
    assert_eq!(named, [1]);
    assert_eq!(database.column(ROWS).await, ["a 1"]);
    assert_eq!(database.column(VERIFIED).await, ["a none"]);
}

#[tokio::test]
async fn the_rows_of_a_repository_are_read_in_the_order_of_their_paths() {
    let database = Database::new().await;
    let neighbour = Did::parse("did:plc:alice0").unwrap();
    database
        .apply(&[
            put(ALICE, "c", 1),
            delete(ALICE, PROFILE, "a", 2),
            put(ALICE, "b", 3),
            offer(ALICE, "o", 4, slot_offer()),
            put(neighbour.as_str(), "n", 5),
            put(BOB, "z", 6),
        ])
        .await;
    let all = held(&database, "", None, 100).await;
    assert_eq!(rkeys(&all), ["a", "b", "c", "o"]);
    assert_eq!(all[0].path, format!("{PROFILE}/a"));
    assert_eq!((&all[0].cid, &all[0].rev), (&None, &rev(2).to_string()));
    assert!(all[1].cid.is_some());

    let path = |rkey| format!("{PROFILE}/{rkey}");
    let between = held(&database, &path("a"), Some(&path("c")), 100).await;
    assert_eq!(rkeys(&between), ["b", "c"]);
    let some = held(&database, &path("a"), None, 1).await;
    assert_eq!(rkeys(&some), ["b"]);
}
