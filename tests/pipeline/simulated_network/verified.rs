//! The whole tree at level `chain`: it follows the relay, and asks directory and hosts. So it comes to
//! hold what the network holds, whatever the relay has told of it.

use std::ops::Range;

use simulated_network::network::Network;
use simulated_network::shape::Shape;
use test_support::simulation::verified::Verified;

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_sync_tells_is_fetched() {
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
        // Of a repository that nothing was seen of, nobody asks when it says no more than `#sync`.
        verified.look_again().await;
        verified.compare().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hostile_relay_says_changes_nothing_in_the_end() {
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

/// Events that nobody can ask for again, deletions among them.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_in_a_gap_is_fetched_and_the_gap_is_closed() {
    for seed in seeds(50..53) {
        let verified = Verified::start(seed, Shape::default()).await;
        verified.grow(100);
        verified.until_settled().await;
        // Nobody hears of what follows.
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

/// Whoever hears of commits by a key that is no longer the account's knows only that something has
/// happened. What it came to, the host tells.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_signed_by_a_key_from_before_is_superseded_and_not_refused() {
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

/// The seeds that the environment asks for, or else the default ones.
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
