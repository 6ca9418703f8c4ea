//! A gap is recorded once, and no gap hides another. Holds invariant 2.7.

use huddle_firehose::model::GapCause;
use huddle_firehose::store::plan::effect::Effect;
use huddle_firehose::store::repo_store::RepoStore;
use jiff::Timestamp;

use crate::fixture::*;

async fn open_gaps(database: &Database) -> Vec<(i64, Option<i64>)> {
    let gaps = database.store.open_gaps().await.unwrap();
    gaps.into_iter()
        .map(|gap| (gap.from_seq, gap.to_seq))
        .collect()
}

fn outdated(from_seq: u64, to_seq: Option<u64>) -> Effect {
    Effect::Gap(gap(GapCause::OutdatedCursor, from_seq, to_seq))
}

#[tokio::test]
async fn a_gap_that_is_replayed_adds_nothing() {
    let database = Database::new().await;
    for _ in 0..2 {
        database
            .apply(&[outdated(5, Some(9)), outdated(5, Some(9))])
            .await;
    }
    assert_eq!(open_gaps(&database).await, [(5, Some(9))]);
}

#[tokio::test]
async fn a_gap_gets_its_end_once_it_is_known() {
    let database = Database::new().await;
    database.apply(&[outdated(5, None)]).await;
    database.apply(&[outdated(5, Some(9))]).await;
    database.apply(&[outdated(5, None)]).await;
    // Without an end, the last gap is the one that ended at 9, while that is open.
    assert_eq!(open_gaps(&database).await, [(5, Some(9))]);
}

#[tokio::test]
async fn gaps_that_lie_elsewhere_or_have_another_cause_are_others() {
    let database = Database::new().await;
    let reset = Effect::Gap(gap(GapCause::SequenceReset, 5, Some(9)));
    database
        .apply(&[
            outdated(5, Some(9)),
            outdated(9, Some(11)),
            outdated(20, Some(29)),
            reset,
        ])
        .await;
    assert_eq!(open_gaps(&database).await.len(), 4);
}

#[tokio::test]
async fn gaps_that_overlap_are_one() {
    let database = Database::new().await;
    database.apply(&[outdated(5, Some(9))]).await;
    database
        .apply(&[
            outdated(6, Some(8)),
            outdated(8, Some(12)),
            outdated(3, Some(6)),
        ])
        .await;
    assert_eq!(open_gaps(&database).await, [(3, Some(12))]);
    // New sequences, each before the last one was compared.
    for (from, to) in [(900, 7), (30, 2), (800, 3)] {
        let reset = Effect::Gap(gap(GapCause::SequenceReset, from, Some(to)));
        database.apply(&[reset]).await;
    }
    assert_eq!(
        open_gaps(&database).await,
        [(3, Some(12)), (30, Some(7))],
        "one row for each cause"
    );
}

/// Nothing more comes of the source, so nothing else would end its gap.
#[tokio::test]
async fn a_gap_of_a_source_that_was_left_ends_when_another_one_is_followed() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database.try_apply(&[outdated(5, None)], 5).await.unwrap();
    let rechecks = async || {
        database
            .store
            .reconcile_gaps(Timestamp::now())
            .await
            .unwrap()
            .rechecks
    };
    assert_eq!(rechecks().await, None);
    database
        .execute(
            "INSERT INTO firehose_cursor (id, source, cursor, updated_at) \
             VALUES ('wss://other.example/', 'wss://other.example/', '7', unixepoch() + 1)",
        )
        .await;
    assert_eq!(rechecks().await, Some(1));
}

/// Repositories that were compared already may have changed in the later gap.
#[tokio::test]
async fn a_gap_whose_repositories_are_being_compared_takes_in_no_other() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database.apply(&[outdated(5, Some(9))]).await;
    database
        .store
        .reconcile_gaps(Timestamp::now())
        .await
        .unwrap();
    database.apply(&[outdated(6, Some(12))]).await;
    assert_eq!(open_gaps(&database).await.len(), 2);
    let reconciled = database
        .store
        .reconcile_gaps(Timestamp::now())
        .await
        .unwrap();
    assert_eq!(reconciled.rechecks, Some(1));
}

#[tokio::test]
async fn a_gap_that_ends_where_it_began_closes_the_open_one_and_is_none_by_itself() {
    let database = Database::new().await;
    let reset = |from, to| Effect::Gap(gap(GapCause::SequenceReset, from, to));
    database.apply(&[reset(5, Some(5))]).await;
    assert_eq!(database.number("SELECT count(*) FROM gaps").await, 0);
    database.apply(&[reset(5, None)]).await;
    assert_eq!(open_gaps(&database).await, [(5, None)]);
    database.apply(&[reset(5, Some(5))]).await;
    assert_eq!(open_gaps(&database).await, []);
    let resolution = database.column("SELECT resolution FROM gaps").await;
    assert!(
        resolution[0].contains("nothing was missed"),
        "{resolution:?}"
    );
}

#[tokio::test]
async fn a_gap_that_was_closed_hides_no_new_one_without_an_end() {
    let database = Database::new().await;
    database.apply(&[outdated(5, None)]).await;
    database
        .execute("UPDATE gaps SET closed_at = '2026-11-23T00:00:00.000Z'")
        .await;
    database.apply(&[outdated(5, None)]).await;
    assert_eq!(open_gaps(&database).await, [(5, None)]);
}
