//! Hosts that do not give a repository out, or give out something else.

use bytes::Bytes;
use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use simulated_network::car::{read_car, write_car};
use simulated_network::key::SigningKey;
use simulated_network::mishap::{Endpoint, Mishap};
use simulated_network::network::Network;
use test_support::simulation::verified::Verified;

use super::{A, B, C, D, POST, few_accounts_with_offers};

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A deletion that nobody hears of, and then a commit by which it shows.
fn miss_a_deletion(verified: &Verified, number: usize) {
    verified.withhold(|network| network.write(number, &[D], &[B]));
    verified.tell(|network| network.write(number, &[POST], &[]));
}

/// The first account's host was asked for its repository, and wants to be left alone for 3 seconds.
async fn asked_for_patience() -> Verified {
    let verified = few_accounts_with_offers().await;
    let mishap = Mishap::RetryAfter(3);
    verified.http.misbehave(Endpoint::GetRepo, mishap, 1);
    miss_a_deletion(&verified, 0);
    verified
        .until("the first attempt is over", async || {
            !verified.resyncs(0).await.is_empty()
        })
        .await;
    verified
}

fn car(network: &Network) -> Bytes {
    let car = network.accounts()[0].repo.export_car();
    car.unwrap().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_asks_for_patience_is_left_alone_for_as_long_as_it_says() {
    let verified = asked_for_patience().await;
    let repo = verified.repo(0).await.unwrap();
    assert_eq!(repo.state, "throttled");
    verified.until_settled().await;

    let resyncs = verified.resyncs(0).await;
    let [first, second] = resyncs.as_slice() else {
        panic!("not twice: {resyncs:?}");
    };
    let error = first.error.as_deref().unwrap();
    assert!(error.contains("limits requests"), "{error}");
    let retry_at = time(repo.retry_at.as_deref().unwrap());
    assert!(retry_at.duration_since(time(&first.started_at)).as_secs() >= 3);
    assert!(time(&second.started_at) >= retry_at);
    assert_eq!(second.error, None);
    // It knows best, so nobody else was asked.
    assert_eq!(verified.mirror.requests(Endpoint::GetRepo), 0);
    assert_eq!(verified.http.requests(Endpoint::GetRepo), 2);
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_asks_for_patience_is_not_asked_for_another_account_either() {
    let verified = asked_for_patience().await;
    miss_a_deletion(&verified, 1);
    verified.until_settled().await;

    let asked_at = time(&verified.resyncs(0).await[0].started_at);
    let resyncs = verified.resyncs(1).await;
    let fetched = resyncs.last().unwrap();
    assert_eq!(fetched.error, None);
    let patience = time(&fetched.started_at).duration_since(asked_at);
    assert!(patience >= SignedDuration::from_secs(3), "{resyncs:?}");
    assert_eq!(verified.http.requests(Endpoint::GetRepo), 3);
    assert_eq!(verified.mirror.requests(Endpoint::GetRepo), 0);
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_accounts_own_host_gives_nothing_out_the_source_is_asked() {
    for status in [500, 501] {
        let verified = few_accounts_with_offers().await;
        let mishap = Mishap::Status(status);
        verified.http.misbehave(Endpoint::GetRepo, mishap, u64::MAX);
        miss_a_deletion(&verified, 0);
        verified.until_settled().await;

        let resyncs = verified.resyncs(0).await;
        let [resync] = resyncs.as_slice() else {
            panic!("not once: {resyncs:?}");
        };
        assert_eq!(resync.error, None);
        let relay = verified.relay.url().replace("ws://", "http://");
        let relay = relay.replace("/xrpc/com.atproto.sync.subscribeRepos", "/");
        assert_eq!(resync.host, Some(relay));
        let changed = [resync.created, resync.updated, resync.deleted];
        assert_eq!(changed, [1, 0, 1], "{status}");
        assert_eq!(verified.mirror.requests(Endpoint::GetRepo), 1);
        verified.compare().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_hangs_keeps_nobody_else_waiting() {
    let verified = few_accounts_with_offers().await;
    let other = verified.another_host().await;
    verified.tell(|network| {
        network.move_to(1, other.url());
        network.emit_empty_identity(1);
    });
    verified
        .http
        .misbehave(Endpoint::GetRepo, Mishap::Held, u64::MAX);
    miss_a_deletion(&verified, 0);
    verified
        .until("the host hangs", async || verified.http.held() == 1)
        .await;
    miss_a_deletion(&verified, 1);
    verified
        .until("the other host's repository is fetched", async || {
            !verified.resyncs(1).await.is_empty()
        })
        .await;
    assert_eq!(verified.resyncs(1).await[0].error, None);
    assert!(verified.resyncs(0).await.is_empty());

    verified.http.release();
    verified.until_settled().await;
    verified.compare().await;
}

/// What is given out instead of the repository, and what is said of it then.
fn refused(old: Bytes, network: &Network) -> Vec<(Bytes, &'static str)> {
    let account = &network.accounts()[0];
    let whole = car(network);
    let (root, blocks) = read_car(&whole).unwrap();
    let without = |cid: &cid::Cid| {
        let mut blocks = blocks.clone();
        assert!(blocks.remove(cid).is_some());
        Bytes::from(write_car(root, &blocks))
    };
    let mut flipped = whole.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    let mut forged = account.repo.clone();
    forged.rotate_key(SigningKey::generate(&mut Rng::with_seed(9)));
    let rev = account.repo.head().unwrap().rev.clone();
    forged.apply(Vec::new(), format!("{}z", &rev[..12]));
    vec![
        // Cut at a block boundary: it does not show in the bytes.
        (without(&account.repo.cid(C).unwrap()), "is missing"),
        (without(&account.repo.head().unwrap().data), "tree: "),
        (without(&root), "commit block is missing"),
        (flipped.into(), "does not hash to its CID"),
        (forged.export_car().unwrap().into(), "signature"),
        (old, "here it is at"),
    ]
}

/// In all of them but the last the offer is missing that was deleted, and in none it may go.
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_is_believed_only_from_a_repository_that_is_complete_and_signed_and_not_older() {
    let verified = few_accounts_with_offers().await;
    let old = car(&verified.network());
    // Newer than that one is what is known when the chain breaks.
    verified.tell(|network| network.write(0, &[A], &[]));
    verified.until_settled().await;
    let before = verified.records(0).await;
    // The source has nothing to say.
    let mishap = Mishap::Status(501);
    verified
        .mirror
        .misbehave(Endpoint::GetRepo, mishap, u64::MAX);

    verified.withhold(|network| network.write(0, &[D], &[B]));
    let answers = refused(old, &verified.network());
    for (index, (answer, reason)) in answers.into_iter().enumerate() {
        let mishap = Mishap::Body(answer);
        verified.http.misbehave(Endpoint::GetRepo, mishap, u64::MAX);
        match index {
            0 => verified.tell(|network| network.write(0, &[POST], &[])),
            // An operator need not wait until it is tried again.
            _ => verified.ask_for(0).await,
        }
        verified
            .until(reason, async || {
                let resyncs = verified.resyncs(0).await;
                let error = resyncs.last().and_then(|resync| resync.error.as_deref());
                error.is_some_and(|error| error.contains(reason))
            })
            .await;

        assert_eq!(verified.records(0).await, before, "{reason}");
        let repo = verified.repo(0).await.unwrap();
        assert_eq!(repo.state, "desynchronized", "{reason}");
        assert!(repo.retry_at.is_some(), "{reason}");
        assert_eq!(verified.waiting(0).await, 1, "{reason}");
    }

    verified.http.behave(Endpoint::GetRepo);
    verified.ask_for(0).await;
    verified.until_settled().await;
    let resyncs = verified.resyncs(0).await;
    let last = resyncs.last().unwrap();
    assert_eq!(last.error, None);
    assert_eq!((last.created, last.updated, last.deleted), (1, 0, 1));
    verified.compare().await;
}
