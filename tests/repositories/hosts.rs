//! Hosts that refuse a repository, or send another one. Holds invariants 9.5, 11.1 and 11.4.

use bytes::Bytes;
use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use simulated_network::car::{read_car, write_car};
use simulated_network::http::HttpServer;
use simulated_network::key::SigningKey;
use simulated_network::mishap::{Endpoint, Mishap};
use simulated_network::network::Network;
use simulated_network::shape::Shape;
use test_support::simulation::verified::Verified;

use super::{A, B, D, E, LIKE, POST, few_accounts_with_offers};

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Withholds a deletion, and delivers a later commit that shows it.
fn miss_a_deletion(verified: &Verified, number: usize) {
    verified.withhold(|network| network.write(number, &[D], &[B]));
    verified.tell(|network| network.write(number, &[POST], &[]));
}

/// The first account's host was asked for its repository, and asked for a cooldown of 3 seconds.
async fn throttled_for_three_seconds() -> Verified {
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
async fn a_throttled_host_is_not_asked_until_its_cooldown_ends() {
    let verified = throttled_for_three_seconds().await;
    let repo = verified.repo(0).await.unwrap();
    assert_eq!(repo.state, "throttled");
    verified.until_settled().await;

    let resyncs = verified.resyncs(0).await;
    let [first, second] = resyncs.as_slice() else {
        panic!("expected two attempts: {resyncs:?}");
    };
    let error = first.error.as_deref().unwrap();
    assert!(error.contains("limits requests"), "{error}");
    let retry_at = time(repo.retry_at.as_deref().unwrap());
    assert!(retry_at.duration_since(time(&first.started_at)).as_secs() >= 3);
    assert!(time(&second.started_at) >= retry_at);
    assert_eq!(second.error, None);
    // Its answer is final, so no other host was asked.
    assert_eq!(verified.mirror.requests(Endpoint::GetRepo), 0);
    assert_eq!(verified.http.requests(Endpoint::GetRepo), 2);
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_host_is_not_asked_for_another_account_either() {
    let verified = throttled_for_three_seconds().await;
    miss_a_deletion(&verified, 1);
    verified.until_settled().await;

    let asked_at = time(&verified.resyncs(0).await[0].started_at);
    let resyncs = verified.resyncs(1).await;
    let fetched = resyncs.last().unwrap();
    assert_eq!(fetched.error, None);
    let waited = time(&fetched.started_at).duration_since(asked_at);
    assert!(waited >= SignedDuration::from_secs(3), "{resyncs:?}");
    assert_eq!(verified.http.requests(Endpoint::GetRepo), 3);
    assert_eq!(verified.mirror.requests(Endpoint::GetRepo), 0);
    verified.compare().await;
}

/// It waits for its host meanwhile, which is no attempt: it is not counted and leaves no row.
#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_waits_for_its_host_has_made_no_attempt() {
    let verified = throttled_for_three_seconds().await;
    miss_a_deletion(&verified, 1);
    verified
        .until("it waits", async || {
            let repo = verified.repo(1).await;
            repo.is_some_and(|repo| repo.state == "throttled")
        })
        .await;
    assert_eq!(verified.repo(1).await.unwrap().attempts, 0);
    assert!(verified.resyncs(1).await.is_empty());
    verified.until_settled().await;
    assert_eq!(verified.resyncs(1).await.len(), 1);
    let rows = verified.count("SELECT count(*) FROM resyncs").await;
    assert_eq!(rows, verified.http.requests(Endpoint::GetRepo) as i64);
    verified.compare().await;
}

/// Holds invariant 12.8.
#[tokio::test(flavor = "multi_thread")]
async fn commits_whose_own_host_gives_no_answer_are_counted_apart() {
    let verified = few_accounts_with_offers().await;
    let endpoints = [
        Endpoint::GetRepo,
        Endpoint::GetRepoStatus,
        Endpoint::GetLatestCommit,
    ];
    for server in [&verified.http, &verified.mirror] {
        for endpoint in endpoints {
            server.misbehave(endpoint, Mishap::Status(500), u64::MAX);
        }
    }
    // One needs its repository. The other is compared with it, because another key signed it.
    miss_a_deletion(&verified, 0);
    verified.tell(|network| network.emit_foreign_commit(1, D));
    verified
        .until("both wait for their accounts", async || {
            verified.waiting_for_their_accounts().await == 2
        })
        .await;
    assert_eq!(
        (verified.waiting(0).await, verified.waiting(1).await),
        (1, 1)
    );
    for server in [&verified.http, &verified.mirror] {
        for endpoint in endpoints {
            server.behave(endpoint);
        }
    }
    verified.until_settled().await;
    assert_eq!(verified.waiting_for_their_accounts().await, 0);
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_refuses_some_requests_is_asked_again_a_moment_later() {
    let verified = few_accounts_with_offers().await;
    let mishap = Mishap::Status(429);
    verified.http.misbehave(Endpoint::GetRepo, mishap, 3);
    miss_a_deletion(&verified, 0);
    miss_a_deletion(&verified, 1);
    verified.until_settled().await;
    let rows = verified.count("SELECT count(*) FROM resyncs").await;
    assert_eq!(rows, 5);
    assert_eq!(verified.http.requests(Endpoint::GetRepo), 5);
    for number in 0..2 {
        let resyncs = verified.resyncs(number).await;
        let took =
            time(&resyncs.last().unwrap().started_at).duration_since(time(&resyncs[0].started_at));
        assert!(took < SignedDuration::from_secs(15), "{resyncs:?}");
    }
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_gap_a_host_is_compared_by_whichever_method_it_has() {
    for lacking in [
        &[Endpoint::GetRepoStatus][..],
        &[Endpoint::GetLatestCommit, Endpoint::GetRepoStatus],
    ] {
        for status in [404, 501] {
            let verified = few_accounts_with_offers().await;
            for endpoint in lacking {
                let mishap = Mishap::Status(status);
                verified.http.misbehave(*endpoint, mishap, u64::MAX);
            }
            verified.withhold(|network| network.write(0, &[D], &[B]));
            // The relay loses the event.
            verified.network().restart_sequence();
            verified.relay.forget();
            verified.tell(|network| network.write(2, &[A], &[]));
            verified.until_settled().await;
            verified.until_closed().await;
            let uncompared = "SELECT count(*) FROM uncompared_repos";
            assert_eq!(verified.count(uncompared).await, 0);
            // What the host does not have is asked for once, by the two jobs that ask it at once.
            assert!(verified.http.requests(lacking[0]) <= 2, "{lacking:?}");
            assert!(!verified.resyncs(0).await.is_empty(), "{lacking:?}");
            // One that missed nothing is fetched only if no method shows that.
            let is_fetched = !verified.resyncs(1).await.is_empty();
            assert_eq!(is_fetched, lacking.len() == 2, "{lacking:?}");
            verified.compare().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn if_the_accounts_own_host_fails_the_source_is_asked() {
    for status in [500, 501] {
        let verified = few_accounts_with_offers().await;
        let mishap = Mishap::Status(status);
        verified.http.misbehave(Endpoint::GetRepo, mishap, u64::MAX);
        miss_a_deletion(&verified, 0);
        verified.until_settled().await;

        let resyncs = verified.resyncs(0).await;
        let [resync] = resyncs.as_slice() else {
            panic!("expected one attempt: {resyncs:?}");
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
async fn a_host_that_hangs_does_not_delay_other_hosts() {
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

/// Eight accounts of four hosts take all slots of fetches. A job that has had its turn yields.
#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_hang_do_not_keep_all_slots_from_the_others() {
    const HANGING: usize = 8;
    let shape = Shape {
        accounts: HANGING + 1,
        ..Shape::default()
    };
    let verified = Verified::start_with(1, shape, |_| {}).await;
    let mut hosts = Vec::new();
    for _ in 0..HANGING / 2 {
        hosts.push(verified.another_host().await);
    }
    verified.tell(|network| {
        for number in 0..=HANGING {
            network.write(number, &[A, B], &[]);
        }
        for number in 0..HANGING {
            network.move_to(number, hosts[number / 2].url());
            network.emit_empty_identity(number);
        }
    });
    verified.until_settled().await;
    for host in &hosts {
        host.misbehave(Endpoint::GetRepo, Mishap::Held, u64::MAX);
    }
    for number in 0..HANGING {
        miss_a_deletion(&verified, number);
    }
    let held = || hosts.iter().map(HttpServer::held).sum::<usize>();
    verified
        .until("they take all slots", async || held() == HANGING)
        .await;
    miss_a_deletion(&verified, HANGING);
    verified
        .until("another account's repository is fetched", async || {
            !verified.resyncs(HANGING).await.is_empty()
        })
        .await;
    let resyncs = verified.resyncs(HANGING).await;
    assert_eq!(resyncs[0].error, None, "{resyncs:?}");
    // None of the others was given up.
    let rows = verified.count("SELECT count(*) FROM resyncs").await;
    assert_eq!(rows, 1);

    for host in &hosts {
        host.behave(Endpoint::GetRepo);
        host.release();
    }
    verified.until_settled().await;
    verified.compare().await;
}

/// The bodies that a host sends instead of the repository, and the error of each.
fn refused(old: Bytes, network: &Network) -> Vec<(Bytes, &'static str)> {
    let account = &network.accounts()[0];
    let whole = car(network);
    let (root, blocks) = read_car(&whole).unwrap();
    let without = |cid: &cid::Cid| {
        let mut blocks = blocks.clone();
        assert!(blocks.remove(cid).is_some());
        Bytes::from(write_car(root, &blocks))
    };
    let mut flipped = blocks.clone();
    let data = account.repo.head().unwrap().data;
    *flipped.get_mut(&data).unwrap().last_mut().unwrap() ^= 1;
    let mut forged = account.repo.clone();
    forged.rotate_key(SigningKey::generate(&mut Rng::with_seed(9)));
    let rev = account.repo.head().unwrap().rev.clone();
    forged.apply(Vec::new(), format!("{}z", &rev[..12]));
    vec![
        // Cut at a block boundary, so the bytes alone do not show it.
        (without(&data), "tree: "),
        (without(&root), "commit block is missing"),
        (write_car(root, &flipped).into(), "its block is missing"),
        (forged.export_car().unwrap().into(), "signature"),
        (old, "older than the known rev"),
    ]
}

/// The deleted offer is missing in all of them but the last. None of them may delete it.
#[tokio::test(flavor = "multi_thread")]
async fn only_a_complete_signed_and_current_repository_deletes_records() {
    let verified = few_accounts_with_offers().await;
    let old = car(&verified.network());
    // The known head is newer than `old` when the chain breaks.
    verified.tell(|network| network.write(0, &[A], &[]));
    verified.until_settled().await;
    let before = verified.records(0).await;
    // The source has no answer.
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
            // A request by an operator is not delayed.
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

/// The answer of a host without the blocks of the records at `paths`.
fn without_records(network: &Network, paths: &[&str]) -> Mishap {
    let (root, mut blocks) = read_car(&car(network)).unwrap();
    for path in paths {
        let cid = network.accounts()[0].repo.cid(path).unwrap();
        assert!(blocks.remove(&cid).is_some());
    }
    Mishap::Body(write_car(root, &blocks).into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_the_tables_have_may_be_missing_at_the_host() {
    let verified = few_accounts_with_offers().await;
    verified.withhold(|network| network.write(0, &[D, LIKE], &[B]));
    let answer = without_records(&verified.network(), &[A, LIKE]);
    verified.http.misbehave(Endpoint::GetRepo, answer, u64::MAX);
    verified.tell(|network| network.write(0, &[E], &[]));
    verified.until_settled().await;

    let resyncs = verified.resyncs(0).await;
    assert_eq!(resyncs.len(), 1);
    assert_eq!(resyncs[0].error, None);
    // No other host had to be asked, and the commit that was parked is applied.
    assert_eq!(verified.mirror.requests(Endpoint::GetRepo), 0);
    assert!(verified.dead_letters().await.is_empty());
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_missing_at_the_host_comes_from_the_source() {
    let verified = few_accounts_with_offers().await;
    verified.withhold(|network| network.write(0, &[D], &[B]));
    let answer = without_records(&verified.network(), &[D]);
    verified.http.misbehave(Endpoint::GetRepo, answer, u64::MAX);
    verified.tell(|network| network.write(0, &[POST], &[]));
    verified.until_settled().await;

    let resyncs = verified.resyncs(0).await;
    assert_eq!(resyncs.len(), 1);
    assert_ne!(resyncs[0].host, Some(format!("{}/", verified.http.url())));
    assert_eq!(verified.mirror.requests(Endpoint::GetRepo), 1);
    assert!(verified.dead_letters().await.is_empty());
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_no_host_has_is_one_dead_letter_and_costs_no_other() {
    let verified = few_accounts_with_offers().await;
    verified.withhold(|network| network.write(0, &[A, D], &[B]));
    let answer = without_records(&verified.network(), &[D]);
    for server in [&verified.http, &verified.mirror] {
        server.misbehave(Endpoint::GetRepo, answer.clone(), u64::MAX);
    }
    verified.tell(|network| network.write(0, &[E], &[]));
    verified.until_settled().await;
    let answer = without_records(&verified.network(), &[D]);
    for server in [&verified.http, &verified.mirror] {
        server.misbehave(Endpoint::GetRepo, answer.clone(), u64::MAX);
    }
    verified.ask_for(0).await;
    verified.until_settled().await;

    assert_eq!(verified.resyncs(0).await.len(), 2);
    let letters = verified.dead_letters().await;
    assert_eq!(letters, [("decode".to_owned(), Vec::new())]);
    let records = verified.records(0).await.into_iter();
    let kept: Vec<String> = records
        .filter(|record| record.cid.is_some())
        .map(|record| record.rkey)
        .collect();
    assert_eq!(kept, ["key-0", "key-2", "key-4"]);

    // When it is found again, it comes by itself with the next fetch.
    verified.http.behave(Endpoint::GetRepo);
    verified.ask_for(0).await;
    verified.until_settled().await;
    verified.compare().await;
}
