//! Changes of the set of interest between two runs. Holds invariant 6.7.

use huddle_firehose::config::{Config, Verify};
use simulated_network::mishap::{Endpoint, Mishap};
use simulated_network::network::Network;
use simulated_network::shape::Shape;
use test_support::simulation::verified::Verified;

use super::{A, B, C, D, few_accounts_with};

const BOOKING: &str = "com.huddle.booking/key-0";
const BOOKING_2: &str = "com.huddle.booking/key-1";
const BOOKING_3: &str = "com.huddle.booking/key-2";
const PROFILE: &str = "com.huddle.profile/self";

const OPEN: &str =
    "SELECT count(*) FROM gaps WHERE cause = 'interest_widened' AND closed_at IS NULL";
const CLOSED: &str = "SELECT count(*) FROM gaps \
                      WHERE cause = 'interest_widened' AND closed_at IS NOT NULL";
const SHOWN: &str = "SELECT count(*) FROM visible_records WHERE collection = 'com.huddle.booking'";

fn collections(config: &mut Config, patterns: &[&str]) {
    let patterns = patterns.iter().map(|pattern| pattern.parse().unwrap());
    config.collections = patterns.collect();
}

fn narrow(config: &mut Config) {
    collections(config, &["com.huddle.slotOffer"]);
}

fn wide(config: &mut Config) {
    collections(config, &["com.huddle.*"]);
}

/// Three accounts: two with offers and bookings that the worker has applied, and one without.
async fn with_bookings_at(level: Verify) -> Verified {
    let verified = few_accounts_with(|config| config.verify = level).await;
    verified.tell(|network| {
        for number in [0, 1] {
            network.write(number, &[A, B, BOOKING, BOOKING_2, PROFILE], &[]);
        }
    });
    verified.until_settled().await;
    verified
}

/// One booking is created, one updated and one deleted, each in a commit of its own or with an
/// offer. The third account makes only a booking.
fn change_bookings(network: &mut Network) {
    network.write(0, &[C, BOOKING_3], &[BOOKING_2]);
    network.write(0, &[BOOKING], &[]);
    network.write(1, &[], &[BOOKING]);
    network.write(2, &[BOOKING], &[]);
    // The next connection asks for the last event once more.
    network.write(1, &[C], &[]);
}

/// Waits until the gap of a wider set was opened and closed.
async fn until_reconciled(verified: &Verified) {
    verified
        .until("the wider set is reconciled", async || {
            verified.count(CLOSED).await > 0 && verified.count(OPEN).await == 0
        })
        .await;
}

async fn narrowed_and_widened(level: Verify) -> Verified {
    let verified = with_bookings_at(level).await.restart(narrow).await;
    verified.tell(change_bookings);
    verified.until_settled().await;
    assert_eq!(verified.count(SHOWN).await, 0);
    assert_eq!(verified.count("SELECT count(*) FROM bookings").await, 4);
    assert_eq!(verified.count("SELECT count(*) FROM gaps").await, 0);
    verified.restart(wide).await
}

#[tokio::test(flavor = "multi_thread")]
async fn at_level_chain_what_changed_while_it_was_not_wanted_is_fetched() {
    let verified = narrowed_and_widened(Verify::Chain).await;
    until_reconciled(&verified).await;
    // The tables do not know that it holds something, until it commits again.
    verified.tell(|network| network.write(2, &[D], &[]));
    verified.until_settled().await;
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_level_commit_what_changed_while_it_was_not_wanted_is_fetched() {
    let verified = narrowed_and_widened(Verify::Commit).await;
    until_reconciled(&verified).await;
    verified.tell(|network| network.write(2, &[D], &[]));
    verified.until_settled().await;
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_level_none_the_gap_stays_open_and_no_record_is_shown_that_may_be_outdated() {
    let verified = narrowed_and_widened(Verify::None).await;
    verified.tell(|network| network.write(0, &[BOOKING_2], &[]));
    verified.until_applied().await;
    assert_eq!(verified.count(OPEN).await, 1);
    assert_eq!(verified.count(SHOWN).await, 1, "the one that came since");
    assert_eq!(verified.http.requests(Endpoint::GetRepo), 0);

    let verified = verified
        .restart(|config| config.verify = Verify::Chain)
        .await;
    until_reconciled(&verified).await;
    verified.tell(|network| network.write(2, &[D], &[]));
    verified.until_settled().await;
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_allowed_again_is_brought_up_to_date_and_hidden_until_then() {
    let verified = with_bookings_at(Verify::Chain).await;
    let (ann, bob) = (verified.did(0), verified.did(1));
    let verified = verified
        .restart(|config| config.dids_deny = vec![ann.clone()])
        .await;
    verified.tell(change_bookings);
    verified.until_settled().await;
    assert_eq!(
        (verified.visible(0).await, verified.visible(1).await),
        (0, 5)
    );

    // Still not wanted, by another rule.
    let verified = verified
        .restart(|config| {
            config.dids_deny.clear();
            config.dids_allow = vec![bob.clone()];
        })
        .await;
    verified.tell(|network| network.write(0, &[D], &[A]));
    verified.until_settled().await;
    assert_eq!(
        (verified.visible(0).await, verified.visible(2).await),
        (0, 0)
    );

    let verified = verified.restart(|config| config.dids_allow.clear()).await;
    until_reconciled(&verified).await;
    verified.until_settled().await;
    assert!(
        verified.resyncs(1).await.is_empty(),
        "it was wanted throughout"
    );
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_left_while_it_was_denied_is_not_shown_when_it_is_allowed_again() {
    let verified = with_bookings_at(Verify::Chain).await;
    let ann = verified.did(0);
    let verified = verified
        .restart(|config| config.dids_deny = vec![ann])
        .await;
    verified.tell(|network| {
        network.set_status(0, Some(simulated_network::account::Status::Deactivated));
    });
    verified.until_settled().await;
    let verified = verified.restart(|config| config.dids_deny.clear()).await;
    until_reconciled(&verified).await;
    assert_eq!(verified.visible(0).await, 0);
    verified.compare_records().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_runs_under_the_narrower_set_does_not_count_for_the_wider_one() {
    let verified = with_bookings_at(Verify::Chain).await.restart(narrow).await;
    verified.tell(change_bookings);
    verified.until_settled().await;
    verified.http.misbehave(Endpoint::GetRepo, Mishap::Held, 1);
    verified.withhold(|network| network.write(0, &[], &[A]));
    verified.tell(|network| network.write(0, &[D], &[]));
    verified
        .until("the fetch hangs", async || {
            let repo = verified.repo(0).await;
            repo.is_some_and(|repo| repo.state == "resyncing")
        })
        .await;
    let verified = verified.restart(wide).await;
    verified.http.release();
    until_reconciled(&verified).await;
    verified.tell(|network| network.write(2, &[D], &[]));
    verified.until_settled().await;
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_of_another_collection_brings_all_of_its_records() {
    let shape = Shape {
        accounts: 4,
        ..Shape::default()
    };
    let verified = Verified::start_with(7, shape, |config| {
        config.backfill = true;
        narrow(config);
    })
    .await;
    verified.withhold(|network| {
        network.write(0, &[A, BOOKING], &[]);
        network.write(1, &[A, BOOKING, BOOKING_2], &[]);
        network.write(2, &[BOOKING, BOOKING_2, BOOKING_3], &[]);
    });
    verified.tell(|network| network.write(3, &[A], &[]));
    verified.look_again().await;
    assert_eq!(verified.count("SELECT count(*) FROM repos").await, 3);

    let verified = verified
        .restart(|config| {
            collections(config, &["com.huddle.booking", "com.huddle.slotOffer"]);
        })
        .await;
    until_reconciled(&verified).await;
    assert_eq!(verified.count(SHOWN).await, 6);
    assert_eq!(verified.count("SELECT count(*) FROM gaps").await, 1);
    verified.compare_records().await;
}
