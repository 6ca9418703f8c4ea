//! Repositories as wholes: what breaks a chain, what a fetch then finds and what it believes, whom it is
//! asked of, and what becomes of accounts that are said to be gone. The whole tree, before a simulated
//! network in which nothing happens unless a test says so.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod accounts;
mod breaks;
mod deaths;
mod hosts;
mod identities;
mod levels;
mod memory;
mod steady_state;

use huddle_firehose::config::Config;
use simulated_network::shape::Shape;
use test_support::simulation::verified::Verified;

// The paths of offers, and of what nobody wants.
const A: &str = "com.huddle.slotOffer/key-0";
const B: &str = "com.huddle.slotOffer/key-1";
const C: &str = "com.huddle.slotOffer/key-2";
const D: &str = "com.huddle.slotOffer/key-3";
const E: &str = "com.huddle.slotOffer/key-4";
const LIKE: &str = "app.bsky.feed.like/key-0";
const POST: &str = "app.bsky.feed.post/key-0";

/// A few accounts that have nothing yet.
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

/// The same, of whom the first two have three offers each, and the worker knows it.
async fn few_accounts_with_offers() -> Verified {
    let verified = few_accounts().await;
    verified.tell(|network| {
        network.write(0, &[A, B, C], &[]);
        network.write(1, &[A, B, C], &[]);
    });
    verified.until_settled().await;
    verified
}
