//! A broken chain: the repository is fetched once, and the commits that arrive meanwhile are
//! applied after it. Holds invariants 6.6 and 7.4.

use simulated_network::mishap::{Endpoint, Mishap};
use test_support::simulation::verified::Verified;

use super::{A, B, C, D, E, LIKE, POST, few_accounts_with_offers};

/// The only attempt to fetch the first account's repository: its cause, and the records that it
/// created, updated and deleted.
async fn only_resync(verified: &Verified) -> (String, [i64; 3]) {
    let resyncs = verified.resyncs(0).await;
    let [resync] = resyncs.as_slice() else {
        panic!("expected one attempt: {resyncs:?}");
    };
    assert_eq!(resync.error, None);
    assert_eq!(resync.host, Some(format!("{}/", verified.http.url())));
    let changed = [resync.created, resync.updated, resync.deleted];
    (resync.cause.clone(), changed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_commit_is_repaired_by_one_fetch() {
    let verified = few_accounts_with_offers().await;
    verified.withhold(|network| network.write(0, &[A, D, LIKE], &[B]));
    verified.tell(|network| network.write(0, &[POST], &[]));
    verified.until_settled().await;
    // The chain continues from there.
    verified.tell(|network| network.write(0, &[E], &[C]));
    verified.until_settled().await;

    let (cause, changed) = only_resync(&verified).await;
    assert_eq!((cause.as_str(), changed), ("prev_data", [1, 1, 1]));
    assert!(verified.resyncs(1).await.is_empty());
    assert!(verified.dead_letters().await.is_empty());
    assert_eq!(verified.verify_errors(), [""; 0]);
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_commit_without_kept_records_is_noticed() {
    let verified = few_accounts_with_offers().await;
    verified.withhold(|network| network.write(0, &[LIKE], &[]));
    verified.tell(|network| network.write(0, &[POST], &[]));
    verified.until_settled().await;

    let (cause, changed) = only_resync(&verified).await;
    assert_eq!((cause.as_str(), changed), ("prev_data", [0, 0, 0]));
    verified.compare().await;
}

/// Its tree is that of the commit before it, so nothing is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_commit_without_changes_is_counted_and_fetches_nothing() {
    let verified = few_accounts_with_offers().await;
    verified.withhold(|network| network.write(0, &[], &[]));
    verified.tell(|network| network.write(0, &[D], &[]));
    verified.until_settled().await;

    assert!(verified.resyncs(0).await.is_empty());
    let counted = "huddle_verify_errors_total{error=\"since\"} 1";
    assert_eq!(verified.verify_errors(), [counted]);
    assert!(verified.dead_letters().await.is_empty());
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_causes_a_fetch_only_if_its_tree_differs() {
    let verified = few_accounts_with_offers().await;
    verified.tell(|network| network.assert_state(0));
    verified.until_settled().await;
    assert!(verified.resyncs(0).await.is_empty());
    assert_eq!(verified.http.requests(Endpoint::GetRepo), 0);

    verified.withhold(|network| network.write(0, &[D], &[A, B]));
    verified.tell(|network| network.assert_state(0));
    verified.until_settled().await;

    let (cause, changed) = only_resync(&verified).await;
    assert_eq!((cause.as_str(), changed), ("sync", [1, 0, 2]));
    verified.compare().await;
}

/// The chain of an account without kept records is not checked.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_commit_of_an_untracked_repository_causes_no_fetch() {
    let verified = few_accounts_with_offers().await;
    verified.withhold(|network| network.write(2, &[LIKE], &[]));
    verified.tell(|network| {
        network.write(2, &[POST], &[]);
        network.assert_state(2);
    });
    verified.until_settled().await;

    assert!(verified.resyncs(2).await.is_empty());
    assert_eq!(verified.repo(2).await, None);
    assert_eq!(verified.http.requests(Endpoint::GetRepo), 0);
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_that_arrive_during_a_fetch_are_parked_and_applied_after_it() {
    let verified = few_accounts_with_offers().await;
    verified
        .http
        .misbehave(Endpoint::GetRepo, Mishap::Held, u64::MAX);
    verified.withhold(|network| network.write(0, &[A], &[]));
    verified.tell(|network| network.write(0, &[POST], &[]));
    verified
        .until("the answer is on its way", async || {
            verified.http.held() == 1
        })
        .await;
    // The answer does not contain these.
    verified.tell(|network| {
        network.write(0, &[D], &[B]);
        network.write(0, &[LIKE], &[]);
        network.write(0, &[E], &[D]);
        network.write(1, &[D], &[]);
    });
    verified.until_applied().await;

    assert_eq!(verified.waiting(0).await, 4);
    assert_eq!(verified.repo(0).await.unwrap().state, "resyncing");
    let visible = verified.visible(0).await;
    assert_eq!((visible, verified.visible(1).await), (3, 4));

    verified.http.release();
    verified.until_settled().await;
    assert_eq!(verified.waiting(0).await, 0);
    assert_eq!(verified.http.requests(Endpoint::GetRepo), 1);
    let (cause, changed) = only_resync(&verified).await;
    assert_eq!((cause.as_str(), changed), ("prev_data", [0, 1, 0]));
    // A fetched record has no seq; the parked ones have their own.
    let records = verified.records(0).await;
    let fetched = records.iter().map(|record| record.seq == 0);
    assert_eq!(
        fetched.collect::<Vec<_>>(),
        [true, false, false, false, false]
    );
    assert!(records.iter().all(|record| record.verified == "chain"));
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_histories_at_one_rev_are_not_mixed() {
    let verified = few_accounts_with_offers().await;
    // The worker has the first one.
    verified.tell(|network| network.fork(0, &[D], &[E]));
    verified.until_settled().await;
    assert!(verified.resyncs(0).await.is_empty());
    verified.tell(|network| network.assert_state(0));
    verified.until_settled().await;

    let (cause, changed) = only_resync(&verified).await;
    assert_eq!((cause.as_str(), changed), ("fork", [1, 0, 1]));
    // The chain continues in the other one.
    verified.tell(|network| network.write(0, &[A, LIKE], &[]));
    verified.until_settled().await;
    only_resync(&verified).await;
    assert!(verified.dead_letters().await.is_empty());
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_did_not_come_with_its_commit_is_fetched() {
    let verified = few_accounts_with_offers().await;
    verified.tell(|network| {
        network.omit_records(true);
        network.write(0, &[D, LIKE], &[A]);
        // What is not wanted is not missed.
        network.write(1, &[LIKE, POST], &[A]);
        network.omit_records(false);
        network.write(0, &[E], &[]);
    });
    verified.until_settled().await;

    let (cause, _) = only_resync(&verified).await;
    assert_eq!(cause, "record_missing");
    assert!(verified.resyncs(1).await.is_empty());
    assert!(verified.dead_letters().await.is_empty());
    assert_eq!(verified.verify_errors(), [""; 0]);
    verified.compare().await;
}
