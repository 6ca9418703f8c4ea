//! Commits of several accounts that do not follow from their predecessors show that the source has
//! lost events. Holds invariant 6.

use huddle_firehose::model::GapCause;
use huddle_firehose::store::plan::effect::Effect;
use huddle_firehose::store::repo_store::RepoStore;
use jiff::Timestamp;

use crate::commits::*;
use crate::fixture::*;

const DAVE: &str = "did:plc:dave";
const ERIN: &str = "did:plc:erin";

const GAPS: &str =
    "SELECT cause || ' ' || from_seq || '..' || coalesce(to_seq, '') FROM gaps ORDER BY id";

/// A database in which each account is at commit 1 or later.
async fn followed() -> Database {
    let database = Database::new().await;
    let firsts = [ALICE, BOB, CAROL, DAVE, ERIN]
        .iter()
        .zip(1..)
        .flat_map(|(did, n)| [first_commit(did, n), put_by(did, "a", n)]);
    database.apply(&firsts.collect::<Vec<_>>()).await;
    database
}

/// A commit of `did` whose predecessor is missing.
fn missed(did: &str, n: u64) -> Effect {
    commit(did, n, n - 1)
}

#[tokio::test]
async fn chains_of_three_accounts_that_break_are_a_gap_for_all_accounts() {
    let database = followed().await;
    assert_eq!(
        database.apply(&[missed(ALICE, 20)]).await.lost_stretch,
        None
    );
    assert_eq!(database.apply(&[missed(BOB, 21)]).await.lost_stretch, None);
    // What the first two have shown is in the tables.
    let database = database.reopen().await;
    let written = database
        .apply(&[commit(DAVE, 22, 4), missed(CAROL, 23)])
        .await;
    assert!(written.leaves_work);
    assert_eq!(written.lost_stretch.unwrap().accounts, 3);
    assert_eq!(database.column(GAPS).await, ["source_lost 3..23"]);
    // The accounts that are silent are compared too.
    let reconciled = database
        .store
        .reconcile_gaps(Timestamp::now())
        .await
        .unwrap();
    assert_eq!(reconciled.rechecks, Some(5));
}

#[tokio::test]
async fn commits_that_come_again_are_no_new_evidence() {
    let database = followed().await;
    let batch = [missed(ALICE, 20), missed(BOB, 21), missed(CAROL, 22)];
    for _ in 0..3 {
        database.apply(&batch).await;
    }
    assert_eq!(database.column(GAPS).await, ["source_lost 3..22"]);
    // When the gap is closed, they still are none.
    database
        .execute("UPDATE gaps SET closed_at = '2026-11-23T00:00:00.000Z'")
        .await;
    database.apply(&batch).await;
    assert_eq!(database.column(GAPS).await.len(), 1);
}

#[tokio::test]
async fn breaks_with_an_explanation_are_none() {
    let breaks = || [missed(ALICE, 20), missed(BOB, 21), missed(CAROL, 22)];
    // A commit of each was refused.
    let database = followed().await;
    let refused = [ALICE, BOB, CAROL].map(|did| recheck(did, false));
    database.apply(&refused).await;
    database.apply(&breaks()).await;
    assert_eq!(database.column(GAPS).await, [""; 0]);
    // There is a gap between their heads and these commits, which the same batch opens.
    let database = followed().await;
    let outdated = Effect::Gap(gap(GapCause::OutdatedCursor, 10, Some(20)));
    let batch = [vec![outdated], breaks().to_vec()].concat();
    database.apply(&batch).await;
    database.apply(&[missed(DAVE, 23), missed(ERIN, 24)]).await;
    assert_eq!(database.column(GAPS).await, ["outdated_cursor 10..20"]);
}

/// An account's host sends it.
#[tokio::test]
async fn a_sync_is_no_break() {
    let database = followed().await;
    let syncs = [ALICE, BOB, CAROL].map(|did| sync(did, 20, 20));
    database.apply(&syncs).await;
    assert_eq!(database.column(CAUSE).await[..3], ["sync"; 3]);
    assert_eq!(database.column(GAPS).await, [""; 0]);
}

#[tokio::test]
async fn one_account_that_breaks_again_and_again_is_no_evidence() {
    let database = followed().await;
    for n in 20..40 {
        database.apply(&[missed(ALICE, 2 * n)]).await;
        database
            .execute("UPDATE repos SET state = 'synchronized', has_parked = 0")
            .await;
    }
    assert_eq!(
        database.number("SELECT count(*) FROM chain_breaks").await,
        1
    );
    assert_eq!(database.column(GAPS).await, [""; 0]);
}
