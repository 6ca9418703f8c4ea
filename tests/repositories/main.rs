//! Tests of whole repositories: broken chains, fetches and what they accept, the hosts that are
//! asked, and inactive accounts. The whole tree runs against a simulated network, in which only the
//! test causes events.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod accounts;
mod backfill;
mod breaks;
mod clocks;
mod cold_start;
mod commands;
mod dead_letters;
mod deaths;
mod expansion;
mod hosts;
mod identities;
mod interest;
mod isolation;
mod levels;
mod lost_stretch;
mod measured;
mod memory;
mod steady_state;

use huddle_firehose::config::Config;
use simulated_network::shape::Shape;
use test_support::simulation::verified::Verified;

// The paths of offers, and of records that are not wanted.
const A: &str = "com.huddle.slotOffer/key-0";
const B: &str = "com.huddle.slotOffer/key-1";
const C: &str = "com.huddle.slotOffer/key-2";
const D: &str = "com.huddle.slotOffer/key-3";
const E: &str = "com.huddle.slotOffer/key-4";
const LIKE: &str = "app.bsky.feed.like/key-0";
const POST: &str = "app.bsky.feed.post/key-0";

/// A few accounts without records.
async fn few_accounts() -> Verified {
    few_accounts_with(|_| {}).await
}

async fn few_accounts_with(change: impl FnOnce(&mut Config)) -> Verified {
    let shape = Shape {
        accounts: 3,
        ..Shape::default()
    };
    Verified::start_with(1, shape, change).await
}

/// A few accounts. The first two have three offers each, and the worker has applied them.
async fn few_accounts_with_offers() -> Verified {
    let verified = few_accounts().await;
    verified.tell(|network| {
        network.write(0, &[A, B, C], &[]);
        network.write(1, &[A, B, C], &[]);
    });
    verified.until_settled().await;
    verified
}
