//! Accounts that are said to be gone: whom to believe.

use simulated_network::account::Status;
use simulated_network::mishap::{Endpoint, Mishap};
use test_support::simulation::verified::Verified;

use super::{A, B, D, POST, few_accounts_with_offers};

/// The relay's word hides an account until its own host was asked.
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
    // What its commits were meanwhile nobody knows.
    verified.tell(|network| network.write(0, &[D], &[A]));
    verified.until_settled().await;
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_said_to_be_deleted_is_hidden_until_its_host_says_otherwise() {
    assert_only_hidden(Status::Deleted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_said_to_be_taken_down_is_hidden_until_its_host_says_otherwise() {
    assert_only_hidden(Status::Takendown).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_said_to_be_deactivated_is_hidden_until_its_host_says_otherwise() {
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

/// Of a takedown nobody knows how long it lasts.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_taken_down_is_hidden_and_keeps_what_it_has() {
    let verified = few_accounts_with_offers().await;
    let before = verified.records(0).await;
    verified.tell(|network| network.set_status(0, Some(Status::Takendown)));
    verified.until_settled().await;
    assert_eq!(verified.visible(0).await, 0);
    assert_eq!(verified.records(0).await, before);
    verified.compare().await;
}

/// What an account has changed before its return, in secret, is fetched.
async fn assert_fetched_at_return(verified: &Verified, created: i64, deleted: i64) {
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
async fn an_account_that_comes_back_is_fetched() {
    let verified = few_accounts_with_offers().await;
    verified.tell(|network| network.set_status(0, Some(Status::Deactivated)));
    verified.until_settled().await;
    verified.withhold(|network| network.write(0, &[D], &[A, B]));
    assert_fetched_at_return(&verified, 1, 2).await;
    assert_eq!(verified.visible(0).await, 2);
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_begins_anew_has_nothing_of_what_it_had() {
    let verified = few_accounts_with_offers().await;
    verified.tell(|network| network.set_status(0, Some(Status::Deleted)));
    verified.until_settled().await;
    assert_fetched_at_return(&verified, 0, 0).await;
    verified.tell(|network| {
        network.write(0, &[D], &[]);
        network.write(0, &[A, POST], &[]);
    });
    verified.until_settled().await;
    assert_eq!(verified.visible(0).await, 2);
    verified.compare().await;
}
