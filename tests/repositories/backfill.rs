//! How a backfill finds accounts.

use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::config::{Config, Discovering, Start};
use huddle_firehose::store::repo_store::{RepoStore, Search};
use simulated_network::mishap::{Endpoint, Mishap};
use simulated_network::network::Network;
use simulated_network::shape::Shape;
use test_support::simulation::verified::Verified;

use super::{A, B, few_accounts};

/// A worker that begins at the live end, with three accounts whose records are older, and a pattern
/// for their collection.
async fn late(change: impl FnOnce(&mut Config, &[Did])) -> Verified {
    let shape = Shape {
        accounts: 3,
        ..Shape::default()
    };
    let mut network = Network::new(1, shape);
    for number in 0..3 {
        network.write(number, &[A, B], &[]);
    }
    let accounts = network.accounts().iter();
    let dids: Vec<Did> = accounts
        .map(|account| Did::parse(&account.did).unwrap())
        .collect();
    let verified = Verified::start_late_with(1, network, |config| {
        config.start = Start::Live;
        config.collections = vec!["com.huddle.*".parse().unwrap()];
        change(config, &dids);
    })
    .await;
    verified
        .until("the source is followed", async || {
            verified.relay.sessions() > 0
        })
        .await;
    verified
}

async fn fetched(verified: &Verified) -> i64 {
    verified
        .count("SELECT count(DISTINCT did) FROM resyncs WHERE error IS NULL")
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_repositories_that_the_relay_index_lists_are_fetched() {
    let verified = late(|config, _| config.backfill_discovery = Discovering::Repos).await;
    verified
        .until("all are fetched", async || fetched(&verified).await == 3)
        .await;
    assert_eq!(verified.http.requests(Endpoint::ListReposByCollection), 0);
    for number in 0..3 {
        assert_eq!(verified.visible(number).await, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_accounts_that_the_settings_name_are_fetched_and_no_server_is_asked_for_a_list() {
    let verified = late(|config, dids| {
        config.backfill_discovery = Discovering::Dids;
        config.dids_allow = vec![dids[1].clone()];
    })
    .await;
    verified
        .until("it is fetched", async || fetched(&verified).await == 1)
        .await;
    assert_eq!(verified.visible(1).await, 2);
    assert_eq!(verified.http.requests(Endpoint::ListReposByCollection), 0);
    assert_eq!(verified.http.requests(Endpoint::ListRepos), 0);
}

/// Its answer will not change soon, so it is asked once, and nothing waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_index_that_has_no_list_is_not_asked_again_at_once() {
    for status in [404, 501] {
        let verified = few_accounts().await;
        for endpoint in [Endpoint::ListRepos, Endpoint::ListReposByCollection] {
            let mishap = Mishap::Status(status);
            verified.http.misbehave(endpoint, mishap, u64::MAX);
        }
        let offers = Search::parse("com.huddle.slotOffer").unwrap();
        let searches = std::slice::from_ref(&offers);
        let begun = verified.store.begin_discovery(searches, true).await;
        begun.unwrap();
        verified
            .until("it is said", async || {
                let unsupported = "SELECT count(*) FROM discoveries WHERE is_unsupported";
                verified.count(unsupported).await == 1
            })
            .await;
        let repositories = verified.tree.context().repositories.as_ref().unwrap();
        verified
            .until("nothing waits for it", async || {
                repositories.idleness.is_idle()
            })
            .await;
        assert_eq!(verified.http.requests(Endpoint::ListRepos), 1);
        assert_eq!(verified.http.requests(Endpoint::ListReposByCollection), 1);
    }
}

/// The list of one collection fails, and that of the other is still read.
#[tokio::test(flavor = "multi_thread")]
async fn a_search_that_fails_does_not_stop_another_one() {
    let verified = few_accounts().await;
    verified
        .http
        .misbehave(Endpoint::ListReposByCollection, Mishap::Status(500), 1);
    let searches = ["com.huddle.booking", "com.huddle.slotOffer"];
    let searches = searches.map(|name| Search::parse(name).unwrap());
    let begun = verified.store.begin_discovery(&searches, true).await;
    begun.unwrap();
    verified
        .until("the other one is over first", async || {
            let over = "SELECT count(*) FROM discoveries WHERE ended_at IS NOT NULL";
            verified.count(over).await == 1
        })
        .await;
    verified
        .until("both are over", async || {
            let over = "SELECT count(*) FROM discoveries WHERE ended_at IS NOT NULL";
            verified.count(over).await == 2
        })
        .await;
    assert_eq!(verified.http.requests(Endpoint::ListReposByCollection), 3);
}

/// The server does not answer for one collection, and the list of the other is still read.
#[tokio::test(flavor = "multi_thread")]
async fn a_search_that_hangs_does_not_stop_another_one() {
    let verified = few_accounts().await;
    verified
        .http
        .misbehave(Endpoint::ListReposByCollection, Mishap::Held, 1);
    let searches = ["com.huddle.booking", "com.huddle.slotOffer"];
    let searches = searches.map(|name| Search::parse(name).unwrap());
    let begun = verified.store.begin_discovery(&searches, true).await;
    begun.unwrap();
    let over = "SELECT count(*) FROM discoveries WHERE ended_at IS NOT NULL";
    verified
        .until("the other one is over", async || {
            verified.count(over).await == 1
        })
        .await;
    assert_eq!(verified.http.held(), 1);
    verified.http.release();
    verified
        .until("both are over", async || verified.count(over).await == 2)
        .await;
}
