//! The whole tree at level `chain`: it follows the relay, and asks PLC directory and hosts. In the
//! end it holds the network's state, also if the relay omits or invents events. Holds invariants
//! 6.5 and 9.4.

use std::ops::Range;

use simulated_network::network::Network;
use simulated_network::shape::Shape;
use test_support::simulation::verified::Verified;

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_with_a_sync_event_alone_is_fetched() {
    for seed in seeds(30..34) {
        let shape = Shape {
            migrations: 6,
            ..Shape::default()
        };
        let verified = Verified::start(seed, shape).await;
        for round in 0..6 {
            verified.grow(50);
            if round % 3 == 2 {
                verified.relay.drop_connections();
            }
            verified.until_settled().await;
        }
        // A repository without any commit so far is not tracked, so its `#sync` causes no fetch.
        verified.look_again().await;
        verified.compare().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_relay_changes_nothing_in_the_end() {
    for seed in seeds(40..43) {
        let verified = Verified::start(seed, Shape::adversarial()).await;
        for round in 0..4 {
            verified.grow(60);
            if round % 2 == 1 {
                verified.relay.drop_connections();
            }
            verified.until_settled().await;
        }
        verified.compare().await;
    }
}

/// The missed events, deletions among them, cannot be requested again.
#[tokio::test(flavor = "multi_thread")]
async fn records_missed_in_a_gap_are_fetched_and_the_gap_is_closed() {
    for seed in seeds(50..53) {
        let verified = Verified::start(seed, Shape::default()).await;
        verified.grow(100);
        verified.until_settled().await;
        // The relay loses the following events.
        verified.network().steps(100);
        verified.network().restart_sequence();
        verified.relay.forget();
        verified.grow(50);
        verified.until_settled().await;
        verified.until_closed().await;
        // Handles and statuses come by events alone.
        verified.compare_records().await;
    }
}

/// A commit with an old key of the account shows only that something has changed. The host has the
/// result.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_signed_before_a_key_rotation_is_superseded_and_not_refused() {
    for seed in seeds(60..63) {
        let shape = Shape {
            key_rotations: 8,
            ..Shape::default()
        };
        let mut network = Network::new(seed, shape);
        network.steps(200);
        network.conclude();
        let verified = Verified::start_late(seed, network).await;
        verified.until_settled().await;
        verified.grow(100);
        verified.until_settled().await;
        verified.look_again().await;
        let refused = verified.dead_letters().await;
        assert!(
            refused.iter().all(|(stage, _)| stage != "verify"),
            "seed {seed}"
        );
        verified.compare().await;
    }
}

/// The seeds that the environment sets, or the default ones.
fn seeds(default: Range<u64>) -> Range<u64> {
    let Ok(text) = std::env::var("HUDDLE_VERIFIED_SEEDS") else {
        return default;
    };
    let number = |text: &str| text.parse::<u64>().unwrap();
    match text.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => number(&text)..number(&text) + 1,
    }
}
