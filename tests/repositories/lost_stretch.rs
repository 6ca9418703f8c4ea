//! A relay that loses a stretch of its events and says nothing. Holds invariant 6.

use simulated_network::shape::Shape;
use test_support::simulation::verified::Verified;

use super::{A, B, C, D, LIKE, POST};

const GAPS: &str = "SELECT count(*) FROM gaps WHERE cause = 'source_lost'";

async fn followed(accounts: usize) -> Verified {
    let shape = Shape {
        accounts,
        ..Shape::default()
    };
    let verified = Verified::start_with(1, shape, |_| {}).await;
    verified.tell(|network| (0..accounts).for_each(|account| network.write(account, &[A, B], &[])));
    verified.until_settled().await;
    verified
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_relay_has_lost_is_fetched_also_of_accounts_that_are_silent_since() {
    let verified = followed(6).await;
    verified.relay.drop_connections();
    verified.withhold(|network| (0..5).for_each(|account| network.write(account, &[C], &[A])));
    verified.tell(|network| {
        for account in [5, 0, 1, 2] {
            network.write(account, &[D], &[]);
        }
    });
    verified.until_settled().await;
    verified.until_closed().await;
    assert_eq!(verified.count(GAPS).await, 1);
    assert_eq!(verified.visible(4).await, 2);
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_accounts_that_miss_a_commit_are_repaired_alone() {
    let verified = followed(6).await;
    for _ in 0..3 {
        verified
            .withhold(|network| (0..2).for_each(|account| network.write(account, &[LIKE], &[])));
        verified.tell(|network| (0..2).for_each(|account| network.write(account, &[POST], &[])));
        verified.until_settled().await;
    }
    assert_eq!(verified.count(GAPS).await, 0);
    verified.compare().await;
}
