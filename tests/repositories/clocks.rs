//! Clocks that are wrong: our own, and those of others.

use jiff::{SignedDuration, Timestamp};
use simulated_network::shape::Shape;
use test_support::simulation::verified::Verified;

use super::{A, B, C};

/// Our clock, moved by `ahead`, in microseconds.
fn clock(ahead: SignedDuration) -> u64 {
    let micros = (Timestamp::now() + ahead).as_microsecond();
    micros.try_into().unwrap()
}

/// Some accounts without records, on servers whose clocks are so much ahead of ours.
async fn accounts(ahead: SignedDuration) -> Verified {
    let shape = Shape {
        accounts: 4,
        beginning: clock(ahead),
        ..Shape::default()
    };
    Verified::start_with(1, shape, |_| {}).await
}

/// Holds invariant 9.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_of_ours_that_is_an_hour_behind_refuses_nothing_and_fetches_nothing() {
    let verified = accounts(SignedDuration::from_hours(1)).await;
    verified.tell(|network| {
        for number in 0..4 {
            network.write(number, &[A, B], &[]);
        }
        for number in 0..4 {
            network.write(number, &[C], &[]);
        }
    });
    verified.until_settled().await;

    assert!(verified.dead_letters().await.is_empty());
    for number in 0..4 {
        assert_eq!(verified.visible(number).await, 3);
        assert_eq!(verified.resyncs(number).await, []);
    }
    verified.compare().await;
}

/// Holds invariant 9.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_whose_clock_is_an_hour_ahead_waits_alone_and_nothing_of_it_is_refused() {
    let verified = accounts(SignedDuration::ZERO).await;
    verified.tell(|network| {
        for number in 1..4 {
            network.write(number, &[A], &[]);
        }
        network.set_clock(clock(SignedDuration::from_hours(1)));
        network.write(0, &[A], &[]);
        network.set_clock(clock(SignedDuration::from_mins(1)));
        network.write(1, &[B], &[]);
    });
    verified
        .until("the commit of the fast clock waits", async || {
            verified.waiting(0).await == 1 && verified.visible(1).await == 2
        })
        .await;
    assert!(verified.dead_letters().await.is_empty());
    assert_eq!(verified.visible(0).await, 0);
}
