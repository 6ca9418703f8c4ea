//! A chain that is broken: the repository is fetched, once, and what came meanwhile is applied after it.

use simulated_network::mishap::{Endpoint, Mishap};
use test_support::simulation::verified::Verified;

use super::{A, B, C, D, E, LIKE, POST, few_accounts_with_offers};

/// The one attempt to fetch the first account's repository: its cause, and how many records it created,
/// updated and deleted.
async fn only_resync(verified: &Verified) -> (String, [i64; 3]) {
    let resyncs = verified.resyncs(0).await;
    let [resync] = resyncs.as_slice() else {
        panic!("not once: {resyncs:?}");
    };
    assert_eq!(resync.error, None);
    assert_eq!(resync.host, Some(format!("{}/", verified.http.url())));
    let changed = [resync.created, resync.updated, resync.deleted];
    (resync.cause.clone(), changed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_missing_is_made_good_by_fetching_its_repository_once() {
    let verified = few_accounts_with_offers().await;
    verified.withhold(|network| network.write(0, &[A, D, LIKE], &[B]));
    verified.tell(|network| network.write(0, &[POST], &[]));
    verified.until_settled().await;
    // The chain goes on from there.
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
async fn a_missing_commit_is_noticed_also_where_it_touches_nothing_that_is_kept() {
    let verified = few_accounts_with_offers().await;
    verified.withhold(|network| network.write(0, &[LIKE], &[]));
    verified.tell(|network| network.write(0, &[POST], &[]));
    verified.until_settled().await;

    let (cause, changed) = only_resync(&verified).await;
    assert_eq!((cause.as_str(), changed), ("prev_data", [0, 0, 0]));
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_commit_is_noticed_also_where_it_changes_nothing() {
    let verified = few_accounts_with_offers().await;
    verified.withhold(|network| network.write(0, &[], &[]));
    verified.tell(|network| network.write(0, &[D], &[]));
    verified.until_settled().await;

    let (cause, changed) = only_resync(&verified).await;
    assert_eq!((cause.as_str(), changed), ("since", [1, 0, 0]));
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_differs_is_followed_by_a_fetch_and_one_that_does_not_is_not() {
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

/// Of an account that has nothing that is kept, nobody follows the chain.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_commit_of_a_repository_that_is_not_tracked_is_nobodys_loss() {
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
async fn commits_that_come_while_their_repository_is_fetched_wait_and_are_applied_after_it() {
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
    // The answer does not have these.
    verified.tell(|network| {
        network.write(0, &[D], &[B]);
        network.write(0, &[LIKE], &[]);
        network.write(0, &[E], &[D]);
        network.write(1, &[D], &[]);
    });
    verified.until_applied().await;

    assert_eq!(verified.waiting(0).await, 4);
    assert_eq!(verified.repo(0).await.unwrap().state, "resyncing");
    let shown = verified.visible(0).await;
    assert_eq!((shown, verified.visible(1).await), (3, 4));

    verified.http.release();
    verified.until_settled().await;
    assert_eq!(verified.waiting(0).await, 0);
    assert_eq!(verified.http.requests(Endpoint::GetRepo), 1);
    let (cause, changed) = only_resync(&verified).await;
    assert_eq!((cause.as_str(), changed), ("prev_data", [0, 1, 0]));
    // What was fetched has no seq, and what waited has its own.
    let records = verified.records(0).await;
    let fetched = records.iter().map(|record| record.seq == 0);
    assert_eq!(
        fetched.collect::<Vec<_>>(),
        [true, false, false, false, false]
    );
    assert!(records.iter().all(|record| record.verified == "chain"));
    verified.compare().await;
}
