//! A worker that knows no key yet, and a PLC directory that answers at once, slowly, or not at all.
//! Holds invariants 4.12 and 11.12.

use simulated_network::mishap::{Endpoint, Mishap};
use simulated_network::shape::Shape;
use test_support::simulation::verified::Verified;

use super::{A, B, few_accounts, few_accounts_with};

/// Bytes. 300 commits have many more.
const LIMIT: u64 = 50_000;
/// More than replays have slots, and fewer than there are look-ups at the same time.
const ACCOUNTS: i64 = 12;
const KEY_UNAVAILABLE: &str = "huddle_key_unavailable_total";

/// The value of a counter, as an operator sees it.
fn counter(verified: &Verified, name: &str) -> u64 {
    let text = verified.tree.prometheus().render();
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.split(' ').nth(1));
    value.map_or(0, |value| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn if_the_directory_answers_at_once_no_commit_is_parked() {
    let shape = Shape {
        accounts: 40,
        ..Shape::default()
    };
    let verified = Verified::start_with(1, shape, |_| {}).await;
    verified.tell(|network| {
        for path in [A, B] {
            (0..40).for_each(|number| network.write(number, &[path], &[]));
        }
    });
    verified.until_settled().await;
    assert_eq!(counter(&verified, KEY_UNAVAILABLE), 0);
    assert_eq!(verified.http.requests(Endpoint::DidDocument), 40);
    let records = "SELECT count(*) FROM records WHERE verified = 'chain'";
    assert_eq!(verified.count(records).await, 80);
    verified.compare().await;
}

/// The look-up begins after the event has arrived, so it has what the event announces.
#[tokio::test(flavor = "multi_thread")]
async fn the_identity_event_of_a_new_account_has_its_commits_not_parked() {
    let verified = few_accounts().await;
    verified.tell(|network| {
        for number in 0..3 {
            network.emit_empty_identity(number);
            network.write(number, &[A], &[]);
        }
    });
    verified.until_settled().await;
    assert_eq!(counter(&verified, KEY_UNAVAILABLE), 0);
    verified.compare().await;
}

/// What waits is not dropped, and no repository is fetched.
#[tokio::test(flavor = "multi_thread")]
async fn while_much_waits_for_the_directory_the_source_is_read_more_slowly() {
    let verified = few_accounts_with(|config| {
        config.parked_limit = LIMIT;
        config.batch_frames = 8;
    })
    .await;
    let failing = Mishap::Status(503);
    verified
        .http
        .misbehave(Endpoint::DidDocument, failing, u64::MAX);
    let source_status = || {
        let status = verified.tree.context().status.snapshot();
        status.sources.into_values().next().unwrap_or_default()
    };
    verified.tell(|network| {
        for _ in 0..100 {
            (0..3).for_each(|number| network.write(number, &[A], &[]));
        }
    });
    verified
        .until("the source is read more slowly", async || {
            source_status().slowed_by_directory.is_some()
        })
        .await;
    let parked = "SELECT sum(bytes) FROM parked_commits";
    let parked = verified.count(parked).await.unsigned_abs();
    // One batch may exceed the limit.
    assert!((LIMIT..2 * LIMIT).contains(&parked), "{parked} bytes");

    verified.http.behave(Endpoint::DidDocument);
    verified.until_settled().await;
    assert!(source_status().slowed_by_directory.is_none());
    assert_eq!(verified.count("SELECT count(*) FROM resyncs").await, 0);
    assert_eq!(verified.verify_errors(), [""; 0]);
    verified.compare().await;
}

/// More replays wait for keys than have slots, and all the keys are looked up.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_waits_for_its_key_takes_no_slot() {
    let shape = Shape {
        accounts: ACCOUNTS as usize,
        ..Shape::default()
    };
    let verified = Verified::start_with(1, shape, |_| {}).await;
    let failing = Mishap::Status(503);
    verified
        .http
        .misbehave(Endpoint::DidDocument, failing, u64::MAX);
    verified.tell(|network| {
        (0..ACCOUNTS as usize).for_each(|number| network.write(number, &[A], &[]));
    });
    verified.until_applied().await;
    assert_eq!(
        verified.count("SELECT count(*) FROM parked_commits").await,
        ACCOUNTS
    );

    let http = &verified.http;
    http.misbehave(Endpoint::DidDocument, Mishap::Held, u64::MAX);
    let verified = verified.restart(|_| {}).await;
    verified
        .until("all keys are looked up", async || {
            verified.http.held() == ACCOUNTS as usize
        })
        .await;
    let replays = "SELECT count(*) FROM jobs_in_progress WHERE job = 'replay'";
    assert_eq!(verified.count(replays).await, 0);
    verified.http.release();
    verified.until_settled().await;
    assert_eq!(
        verified.count("SELECT count(*) FROM parked_commits").await,
        0
    );
    verified.compare().await;
}
