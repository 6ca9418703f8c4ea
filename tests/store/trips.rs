//! A transaction takes at most three trips to the database's thread, whatever it writes. Holds
//! invariant 4.12.

use bytes::Bytes;
use huddle_firehose::model::{Position, SourceId};
use huddle_firehose::store::plan::ResyncCause;
use huddle_firehose::store::plan::effect::Effect;
use huddle_firehose::store::repo_store::{Replay, RepoChange, RepoEvent, RepoStore, SnapshotPart};
use huddle_firehose::store::{PieceLimit, Store, WriteBatch};

use crate::commits::*;
use crate::fixture::*;

/// Enough rows for several batches.
const ROWS: u64 = 1000;

/// Does `work`, and asserts that its transactions take at most three trips each.
async fn is_bounded<T>(database: &Database, what: &str, work: impl Future<Output = T>) -> T {
    let before = database.store.trips();
    let done = work.await;
    let after = database.store.trips();
    let trips = after.trips - before.trips;
    let transactions = after.transactions - before.transactions;
    assert!(transactions > 0, "{what}");
    assert!(
        (transactions..=3 * transactions).contains(&trips),
        "{what}: {trips} trips of {transactions} transactions"
    );
    done
}

async fn apply_group(database: &Database, what: &str, effects: &[Effect], seq: u64) {
    let batch = WriteBatch {
        source: &source(),
        effects: &commits(effects),
        position: Position { seq, time: None },
        sequence_restarted: false,
    };
    let written = is_bounded(database, what, database.store.apply_group(&batch));
    written.await.unwrap();
}

fn name(number: u64) -> String {
    format!("did:plc:number{number}")
}

#[tokio::test]
async fn records_of_every_table() {
    let database = Database::new().await;
    let row = |n: u64| {
        let (did, rkey) = (name(n % 100), format!("r{n}"));
        let offer_uri = uri(ALICE, "com.huddle.slotOffer", "o");
        match n % 4 {
            0 => offer(&did, &rkey, n, slot_offer()),
            1 => request(&did, &rkey, n, &offer_uri, "pending"),
            2 => booking(&did, &rkey, n, &offer_uri, "confirmed"),
            _ => put(&did, &rkey, n),
        }
    };
    let creates: Vec<Effect> = (1..=ROWS).map(row).collect();
    apply_group(&database, "creates", &creates, ROWS).await;
    assert_eq!(
        database.number("SELECT count(*) FROM records").await,
        ROWS as i64
    );
    let deletion = |n: u64| {
        delete(
            &name(n % 100),
            "com.huddle.profile",
            &format!("r{n}"),
            n + ROWS,
        )
    };
    let deletions: Vec<Effect> = (1..=ROWS).map(deletion).collect();
    apply_group(&database, "deletions", &deletions, 2 * ROWS).await;
    let letters: Vec<Effect> = (1..=ROWS).map(dead_letter).collect();
    apply_group(&database, "dead letters", &letters, 3 * ROWS).await;
    assert_eq!(
        database.number("SELECT count(*) FROM dead_letters").await,
        ROWS as i64
    );
}

#[tokio::test]
async fn commits_that_follow_and_commits_that_are_parked() {
    let database = Database::new().await;
    let first = |n: u64| [first_commit(&name(n), 1), put_by(&name(n), "a", 1)];
    let begun: Vec<Effect> = (1..=ROWS).flat_map(first).collect();
    apply_group(&database, "first commits", &begun, 1).await;
    let next = |n: u64| [commit(&name(n), 2, 1), put_by(&name(n), "b", 2)];
    let follow: Vec<Effect> = (1..=ROWS).flat_map(next).collect();
    apply_group(&database, "commits that follow", &follow, 2).await;
    assert_eq!(
        database.number("SELECT count(*) FROM records").await,
        2 * ROWS as i64
    );

    let parked = |n: u64| {
        with_chain(without_key(ALICE, n), |chain| {
            chain.frame = Bytes::from(vec![n as u8; 5000]);
        })
    };
    let parked: Vec<Effect> = (1..=200).map(parked).collect();
    apply_group(&database, "parked commits", &parked, 200).await;
    let frames = database.store.parked(&did(ALICE), 1000).await.unwrap();
    assert_eq!(frames.len(), 200);
    let replayed = |n: u64| match n {
        1 => commits(&[first_commit(ALICE, 1), put_by(ALICE, "r1", 1)]),
        n => commits(&[commit(ALICE, n, n - 1), put_by(ALICE, &format!("r{n}"), n)]),
    };
    let effects: Vec<Effect> = (1..=200).flat_map(replayed).collect();
    let ends: Vec<usize> = (1..=200).collect();
    let replay = Replay::of(&frames, &effects, &ends).unwrap();
    let change = database.store.change(RepoChange::Replayed(replay));
    let written = is_bounded(&database, "a replay", change).await.unwrap();
    assert_eq!(
        (written.replayed, written.records, written.parked),
        (200, 200, 0)
    );
    assert_eq!(
        database.number("SELECT count(*) FROM parked_commits").await,
        0
    );
}

#[tokio::test]
async fn statuses_handles_and_removals() {
    let database = Database::new().await;
    let statuses = (1..=ROWS).map(|n| account(&name(n), Some("deactivated"), n));
    let handles = (1..=ROWS).map(|n| identity(&name(n), Some("alice.example"), n));
    let changes: Vec<Effect> = statuses.chain(handles).collect();
    apply_group(&database, "statuses and handles", &changes, ROWS).await;
    assert_eq!(
        database.number("SELECT count(*) FROM accounts").await,
        ROWS as i64
    );

    let records: Vec<Effect> = (1..=2500)
        .map(|n| put(ALICE, &format!("r{n}"), n))
        .collect();
    apply_group(&database, "records", &records, 2500).await;
    let deletions = [
        account(ALICE, Some("deleted"), 2501),
        account(BOB, Some("deleted"), 2502),
    ];
    apply_group(&database, "a removal", &deletions, 2502).await;
    let piece = || {
        is_bounded(
            &database,
            "a piece",
            database.store.remove_piece(PieceLimit::default()),
        )
    };
    let mut pieces = Vec::new();
    while let Some(piece) = piece().await.unwrap() {
        pieces.push((piece.did, piece.rows, piece.is_last));
    }
    let expected = [(ALICE, 1000, false), (ALICE, 500, true), (BOB, 0, true)];
    assert_eq!(
        pieces,
        expected.map(|(did, rows, is_last)| (did.to_owned(), rows, is_last))
    );
    assert_eq!(database.number("SELECT count(*) FROM records").await, 0);
}

#[tokio::test]
async fn pages_and_events_of_a_repository() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database.request_resync(ALICE, ResyncCause::Operator).await;
    let effects: Vec<Effect> = (1..=ROWS)
        .map(|n| put_by(ALICE, &format!("r{n}"), 2))
        .collect();
    let part = SnapshotPart {
        source: &SourceId::new("https://host.example/"),
        did: &did(ALICE),
        effects: &effects,
        confirmed: &[format!("{PROFILE}/a")],
    };
    let page = database.store.change(RepoChange::Snapshot(&part));
    let written = is_bounded(&database, "a page", page).await.unwrap();
    assert_eq!(written.records, ROWS);
    let resync = resynced(ALICE, 2);
    let did = &did(ALICE);
    for event in [
        RepoEvent::BeginResync,
        RepoEvent::EndResync(&resync),
        RepoEvent::FinishReplay,
        RepoEvent::Untrack,
    ] {
        let change = database.store.change(RepoChange::Repo { did, event });
        is_bounded(&database, "an event", change).await.unwrap();
    }
    let source = source();
    let gap = gap(huddle_firehose::model::GapCause::CursorMoved, 5, Some(9));
    let position = Position { seq: 9, time: None };
    let moved = database.store.move_cursor(&source, position, Some(&gap));
    is_bounded(&database, "a moved cursor", moved)
        .await
        .unwrap();
}

/// More than a trip takes is sent in several.
#[tokio::test]
async fn long_rows_take_more_trips() {
    let database = Database::new().await;
    let letter = |n: u64| match dead_letter(n) {
        Effect::DeadLetter(mut letter) => {
            letter.raw = vec![7; 1 << 20].into();
            Effect::DeadLetter(letter)
        }
        effect => effect,
    };
    let letters: Vec<Effect> = (1..=10).map(letter).collect();
    let before = database.store.trips().trips;
    database.apply(&letters).await;
    assert!(database.store.trips().trips - before > 3);
}
