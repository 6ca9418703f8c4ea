//! Accounts with an unconfirmed status. Holds invariant 9.6.

use simulated_network::account::Status;
use simulated_network::mishap::{Endpoint, Mishap};
use test_support::simulation::verified::Verified;

use super::{A, B, D, POST, few_accounts_with_offers};

/// The relay's status hides an account until its own host was asked.
async fn assert_only_hidden(status: Status) {
    let verified = few_accounts_with_offers().await;
    let before = verified.records(0).await;
    verified
        .http
        .misbehave(Endpoint::GetRepoStatus, Mishap::Held, u64::MAX);
    verified.tell(|network| network.emit_false_account(0, status));
    verified
        .until("the host is asked", async || verified.http.held() == 1)
        .await;
    assert_eq!(
        (verified.visible(0).await, verified.visible(1).await),
        (0, 3)
    );
    assert_eq!(verified.records(0).await, before);

    verified.http.release();
    verified.until_settled().await;
    assert_eq!(verified.visible(0).await, 3);
    assert_eq!(verified.records(0).await, before);
    // Its commits meanwhile are not known.
    verified.tell(|network| network.write(0, &[D], &[A]));
    verified.until_settled().await;
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unconfirmed_deletion_hides_an_account_until_its_host_denies_it() {
    assert_only_hidden(Status::Deleted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takedown_by_the_source_holds_although_the_host_calls_the_account_active() {
    for status in [Status::Takendown, Status::Suspended] {
        let verified = few_accounts_with_offers().await;
        let before = verified.records(0).await;
        verified.tell(|network| network.emit_false_account(0, status));
        verified.until_settled().await;
        assert_eq!(verified.visible(0).await, 0);
        // Its commits go on, and stay hidden.
        verified.tell(|network| network.write(0, &[D], &[A]));
        verified.until_settled().await;
        assert_eq!(verified.visible(0).await, 0);
        assert_ne!(verified.records(0).await, before);
        verified.tell(|network| network.set_status(0, None));
        verified.until_settled().await;
        verified.compare().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unconfirmed_deactivation_hides_an_account_until_its_host_denies_it() {
    assert_only_hidden(Status::Deactivated).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_deleted_is_purged_once_its_host_has_confirmed_it() {
    let verified = few_accounts_with_offers().await;
    verified
        .http
        .misbehave(Endpoint::GetRepoStatus, Mishap::Held, u64::MAX);
    verified.tell(|network| network.set_status(0, Some(Status::Deleted)));
    verified
        .until("the host is asked", async || verified.http.held() == 1)
        .await;
    assert_eq!(verified.visible(0).await, 0);
    assert_eq!(verified.records(0).await.len(), 3);

    verified.http.release();
    verified.until_settled().await;
    assert_eq!(verified.records(0).await, []);
    assert_eq!(verified.records(1).await.len(), 3);
    let offers = format!(
        "SELECT count(*) FROM offers_index WHERE did = '{}'",
        verified.did(0)
    );
    assert_eq!(verified.count(&offers).await, 0);
    verified.compare().await;
}

/// A takedown may end at any time.
#[tokio::test(flavor = "multi_thread")]
async fn a_takedown_hides_an_account_and_keeps_its_records() {
    let verified = few_accounts_with_offers().await;
    let before = verified.records(0).await;
    verified.tell(|network| network.set_status(0, Some(Status::Takendown)));
    verified.until_settled().await;
    assert_eq!(verified.visible(0).await, 0);
    assert_eq!(verified.records(0).await, before);
    verified.compare().await;
}

/// The changes that an account made while it was inactive are fetched.
async fn assert_fetched_when_active_again(verified: &Verified, created: i64, deleted: i64) {
    let fetched = verified.resyncs(0).await.len();
    assert_eq!(fetched, 0);
    verified.tell(|network| network.set_status(0, None));
    verified.until_settled().await;
    let resyncs = verified.resyncs(0).await;
    let last = resyncs.last().unwrap();
    assert_eq!(
        (last.cause.as_str(), last.error.as_deref()),
        ("returned", None)
    );
    assert_eq!((last.created, last.deleted), (created, deleted));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_active_again_is_fetched() {
    let verified = few_accounts_with_offers().await;
    verified.tell(|network| network.set_status(0, Some(Status::Deactivated)));
    verified.until_settled().await;
    verified.withhold(|network| network.write(0, &[D], &[A, B]));
    assert_fetched_when_active_again(&verified, 1, 2).await;
    assert_eq!(verified.visible(0).await, 2);
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_created_again_has_none_of_its_old_records() {
    let verified = few_accounts_with_offers().await;
    verified.tell(|network| network.set_status(0, Some(Status::Deleted)));
    verified.until_settled().await;
    assert_fetched_when_active_again(&verified, 0, 0).await;
    verified.tell(|network| {
        network.write(0, &[D], &[]);
        network.write(0, &[A, POST], &[]);
    });
    verified.until_settled().await;
    assert_eq!(verified.visible(0).await, 2);
    verified.compare().await;
}
