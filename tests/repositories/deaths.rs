//! The actors that work on repositories are killed repeatedly, during a request and in between.
//! Holds invariant 3.2.

use std::time::Duration;

use huddle_firehose::telemetry::status::ActorState;
use huddle_firehose::worker::Role;
use simulated_network::mishap::{Endpoint, Mishap};
use simulated_network::network::Network;
use simulated_network::shape::Shape;
use test_support::simulation::verified::Verified;

/// One of this many events is withheld, if it is a commit.
const WITHHELD: usize = 7;

/// Delivers most events. Statuses and handles are always delivered, because nothing else tells
/// them.
fn deliver_most(verified: &Verified, steps: usize) {
    for step in 0..steps {
        let is_commit = |network: &Network, from: usize| {
            let events = network.log()[from..].iter();
            events
                .into_iter()
                .any(|entry| entry.frame.windows(7).any(|window| window == b"#commit"))
        };
        let mut network = verified.network();
        let before = network.log().len();
        network.step();
        if step % WITHHELD != 0 || !is_commit(&network, before) {
            verified.relay.append(&network.log()[before..]);
        }
    }
    verified.tell(|network| {
        network.conclude();
    });
}

/// Kills `role` and waits until it is back.
async fn kill(verified: &Verified, role: Role) {
    let actor = || verified.tree.context().status.snapshot().actors[&role.to_string()].clone();
    let before = actor().restarts;
    verified.tree.kill(role);
    verified
        .until("the actor is back", async || {
            actor().restarts > before && actor().state == ActorState::Running
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_many_restarts_of_its_actors_nothing_is_missing() {
    for seed in 70..72 {
        let shape = Shape {
            migrations: 6,
            ..Shape::default()
        };
        let verified = Verified::start_with(seed, shape, |config| {
            config.backfill = true;
            config
                .collections
                .push("com.huddle.profile".parse().unwrap());
            config.restart_min = Duration::from_millis(5);
            config.restart_max = Duration::from_millis(20);
            config.restart_limit = 1000;
        })
        .await;
        for _ in 0..4 {
            // Each is killed first while a response is pending, and then at any point.
            for endpoint in [Endpoint::GetRepo, Endpoint::ListReposByCollection] {
                verified.http.misbehave(endpoint, Mishap::Held, u64::MAX);
            }
            deliver_most(&verified, 40);
            // Whatever the seed, there is something to fetch.
            let mut accounts = verified.network().accounts().to_vec().into_iter();
            let active = accounts.position(|account| account.status.is_none());
            verified.ask_for(active.unwrap()).await;
            verified
                .until("a response is pending", async || verified.http.held() > 0)
                .await;
            kill(&verified, Role::Repositories).await;
            kill(&verified, Role::Backfill).await;
            verified.http.release();
            for _ in 0..5 {
                kill(&verified, Role::Backfill).await;
                kill(&verified, Role::Repositories).await;
            }
            verified.until_settled().await;
        }
        verified.look_again().await;
        let fetched = "SELECT count(*) FROM resyncs WHERE error IS NULL";
        assert!(verified.count(fetched).await > 0, "seed {seed}");
        verified.compare().await;
    }
}
