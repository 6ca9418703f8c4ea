//! A gap is recorded once, and no gap hides another. Holds invariant 2.7.

use huddle_firehose::model::GapCause;
use huddle_firehose::store::plan::effect::Effect;

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
async fn gaps_that_begin_or_end_elsewhere_or_have_another_cause_are_others() {
    let database = Database::new().await;
    let reset = Effect::Gap(gap(GapCause::SequenceReset, 5, Some(9)));
    database
        .apply(&[
            outdated(5, Some(9)),
            outdated(5, Some(11)),
            outdated(6, Some(9)),
            reset,
        ])
        .await;
    assert_eq!(open_gaps(&database).await.len(), 4);
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
