//! How many dead letters are kept, how they are counted, and their ids. Holds invariants 2.10 and 13.9.

use huddle_firehose::command::Command;
use huddle_firehose::model::{DeadLetter, Stage};
use huddle_firehose::store::letters::LetterFilter;
use huddle_firehose::store::plan::effect::Effect;
use huddle_firehose::store::{PieceLimit, Retention, Store};

use crate::dead_letters::*;
use crate::fixture::*;

#[tokio::test]
async fn letters_of_an_earlier_version_get_their_groups_in_pieces() {
    let database = Database::new().await;
    let names = ["a", "b", "c", "d", "e"];
    let letters = names.map(|name| invalid(proven(name, 1)));
    database.apply(&letters).await;
    database
        .execute("UPDATE dead_letters SET error_group = NULL")
        .await;
    let without = "SELECT count(*) FROM dead_letters WHERE error_group IS NULL";
    for (rows, bytes, left) in [
        (2, u64::MAX >> 1, 3),
        // The first one of a piece may be larger than the piece.
        (5, 1, 2),
        (5, u64::MAX >> 1, 0),
    ] {
        let limit = PieceLimit { rows, bytes };
        assert!(database.store.group_piece(limit).await.unwrap());
        assert_eq!(database.number(without).await, left);
    }
    let piece = database.store.group_piece(PieceLimit::default());
    assert!(!piece.await.unwrap());
    let groups = database
        .store
        .letter_groups(&LetterFilter::default())
        .await
        .unwrap();
    assert_eq!(groups.len(), 1);
    assert!(groups[0].group.is_some());
}

#[tokio::test]
async fn the_oldest_letters_go_beyond_the_limits_of_number_and_bytes() {
    let database = Database::new().await;
    let letter = |n: u64, bytes: usize| {
        Effect::DeadLetter(Box::new(DeadLetter {
            stage: Stage::Decode,
            error: "no CAR".to_owned(),
            seq: Some(n),
            did: None,
            uri: None,
            task: None,
            raw: vec![0; bytes].into(),
            attempts: 1,
        }))
    };
    for n in 1..=6 {
        database.apply(&[letter(n, 100)]).await;
    }
    let keeping = |dead_letters, dead_letter_bytes| Retention {
        inactive_request_days: 30,
        dead_letter_days: 90,
        dead_letters,
        dead_letter_bytes,
        closed_gap_days: 90,
        audit_days: 365,
    };
    for (letters, bytes, expected) in [
        (6, 600, (6, 600, 0)),
        (4, 600, (6, 600, 2)),
        (4, 150, (4, 400, 3)),
        (4, 150, (1, 100, 0)),
    ] {
        let kept = database.store.trim_letters(keeping(letters, bytes));
        let kept = kept.await.unwrap();
        assert_eq!((kept.letters, kept.bytes, kept.deleted), expected);
    }
    let seqs = database.column("SELECT seq || '' FROM dead_letters").await;
    assert_eq!(seqs, ["6"]);
}

/// An act on the letters up to an id means no letter that comes later. Holds invariant 13.9.
#[tokio::test]
async fn the_id_of_a_letter_is_never_given_twice() {
    let letters = Letters::new().await;
    let database = &letters.database;
    let ids = "SELECT id || ' ' || uri FROM dead_letters ORDER BY id";
    let uri = |id: i64, name: &str| format!("{id} at://{ALICE}/{OFFER}/{name}");
    let both = [invalid(proven("a", 1)), invalid(proven("b", 2))];
    database.apply(&both).await;
    let last = LetterFilter {
        ids: vec![2],
        ..LetterFilter::default()
    };
    letters.give(Command::DeadLettersDiscard(of(last))).await;
    let more = [invalid(proven("c", 3)), invalid(proven("d", 4))];
    database.apply(&more).await;
    assert_eq!(
        database.column(ids).await,
        [uri(1, "a"), uri(3, "c"), uri(4, "d")]
    );
    database.execute("DELETE FROM dead_letters").await;
    database.apply(&[invalid(proven("e", 5))]).await;
    assert_eq!(database.column(ids).await, [uri(5, "e")]);
}

/// Holds invariant 2.10.
#[tokio::test]
async fn the_totals_are_those_of_the_letters_whatever_becomes_of_them() {
    let mut letters = Letters::new().await;
    let are_true = "SELECT (letters, bytes) = (SELECT count(*), \
                    coalesce(sum(octet_length(raw) + coalesce(octet_length(task), 0)), 0) \
                    FROM dead_letters) FROM dead_letter_totals";
    let names = ["a", "b", "c", "d"];
    let effects = names.map(|name| invalid(proven(name, 1)));
    letters.database.apply(&effects).await;
    assert_eq!(letters.database.number(are_true).await, 1);
    // What comes again adds nothing.
    letters.database.apply(&effects).await;
    assert_eq!(letters.database.number(are_true).await, 1);
    let first = LetterFilter {
        ids: vec![1],
        ..LetterFilter::default()
    };
    letters.give(Command::DeadLettersDiscard(of(first))).await;
    assert_eq!(letters.database.number(LETTERS).await, 3);
    assert_eq!(letters.database.number(are_true).await, 1);
    letters.relax();
    letters.retry().await;
    assert_eq!(letters.database.number(LETTERS).await, 0);
    assert_eq!(letters.database.number(are_true).await, 1);
}
