//! Look-ups that begin because commits arrive, and how long the stream waits for them. Time is paused.
//! Holds invariants 11.12 and 11.13.

use std::time::Duration;

use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::identity::{Identities, Limits};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use super::scripted::{Failure, Scripted, unavailable};
use super::{did, plc};

const SECOND: Duration = Duration::from_secs(1);

/// Limits on the rate that are never reached.
fn limits() -> Limits {
    Limits {
        per_second: 1_000_000,
        burst: 1_000_000,
        ..Limits::default()
    }
}

/// How long a batch with commits of `dids` waits that may wait for 2 s.
async fn waits(identities: &Identities, dids: &[Did]) -> Duration {
    let start = Instant::now();
    identities.settle(dids, start + 2 * SECOND).await;
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn the_keys_of_all_that_has_arrived_are_looked_up_at_the_same_time() {
    let resolver = Scripted::with_delay(SECOND);
    let identities = resolver.cache(limits());
    let dids: Vec<Did> = (0..10).map(plc).collect();
    dids.iter().for_each(|did| identities.expect(did, 1));
    for did in &dids {
        identities
            .settle(std::slice::from_ref(did), Instant::now() + 2 * SECOND)
            .await;
        assert!(identities.known(did).is_some());
    }
    assert_eq!(resolver.most_under_way(), 10);
    // What is known costs nothing.
    dids.iter().for_each(|did| identities.expect(did, 1));
    assert_eq!(waits(&identities, &dids).await, Duration::ZERO);
    assert_eq!(resolver.requests(), 10);
}

#[tokio::test(start_paused = true)]
async fn the_account_with_most_commits_is_looked_up_before_quiet_ones_that_came_earlier() {
    let resolver = Scripted::with_delay(SECOND);
    let one_at_a_time = Limits {
        plc_in_flight: 1,
        ..limits()
    };
    let identities = resolver.cache(one_at_a_time);
    for number in 0..300 {
        identities.expect(&plc(number), 1);
    }
    resolver.reached(1).await;
    let hot = plc(300);
    for _ in 0..100 {
        identities.expect(&hot, 10);
        yield_now().await;
    }
    sleep(10 * SECOND).await;
    let asked_at = resolver.times(&hot)[0];
    let before = (0..300).filter(|number| {
        let times = resolver.times(&plc(*number));
        times.first().is_some_and(|at| *at < asked_at)
    });
    // The one that was under way, and at most the one whose turn it was.
    assert!(before.count() <= 2);
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_does_not_keep_up_is_waited_for_once() {
    let resolver = Scripted::with_delay(5 * SECOND);
    let identities = resolver.cache(limits());
    assert_eq!(waits(&identities, &[plc(1), plc(2)]).await, 2 * SECOND);
    assert_eq!(waits(&identities, &[plc(1), plc(3)]).await, Duration::ZERO);
    // The look-ups continue. When all have ended, it is waited for again.
    sleep(6 * SECOND).await;
    assert!((1..=3).all(|number| identities.known(&plc(number)).is_some()));
    assert_eq!(waits(&identities, &[plc(4)]).await, 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_stream_never_waits_for_the_host_of_an_account() {
    let resolver = Scripted::with_delay(SECOND);
    let identities = resolver.cache(limits());
    let slow = did("did:web:slow.example");
    identities.expect(&slow, 1000);
    assert_eq!(waits(&identities, &[slow]).await, Duration::ZERO);
    sleep(SECOND).await;
    assert_eq!(resolver.requests(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_account_holds_the_stream_at_most_once_a_minute() {
    let resolver = Scripted::with_delay(SECOND);
    let identities = resolver.cache(limits());
    assert_eq!(waits(&identities, &[plc(1)]).await, SECOND);
    for _ in 0..3 {
        sleep(SECOND).await;
        identities.forget(&plc(1));
        assert_eq!(waits(&identities, &[plc(1)]).await, Duration::ZERO);
    }
    sleep(61 * SECOND).await;
    identities.forget(&plc(1));
    assert_eq!(waits(&identities, &[plc(1)]).await, SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_look_up_that_failed_is_not_waited_for() {
    let resolver = Scripted::with_delay(SECOND);
    resolver.fail(&plc(1), Failure::Error(unavailable(None)));
    resolver.fail(&plc(2), Failure::Panic);
    let identities = resolver.cache(limits());
    assert_eq!(waits(&identities, &[plc(1), plc(2)]).await, SECOND);
    assert_eq!(waits(&identities, &[plc(1), plc(2)]).await, Duration::ZERO);
    assert_eq!(resolver.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_look_up_that_failed_is_not_repeated_before_its_pause_is_over() {
    let resolver = Scripted::with_delay(SECOND);
    resolver.fail(&plc(1), Failure::Error(unavailable(None)));
    let identities = resolver.cache(limits());
    for _ in 0..5 {
        identities.expect_parked(&plc(1), 7);
        sleep(SECOND).await;
    }
    // The first took a second, and the pause after it two.
    assert_eq!(resolver.requests(), 2);
}

/// The events of an account are read later than they arrive. A look-up between the two has what the
/// event announces.
#[tokio::test(start_paused = true)]
async fn an_identity_event_ends_only_what_was_asked_before_it_arrived() {
    let resolver = Scripted::with_delay(SECOND);
    let identities = resolver.cache(limits());
    identities.get(&plc(1)).await.unwrap();
    let event_at = Instant::now();
    identities.forget_before(&plc(1), event_at);
    assert!(identities.known(&plc(1)).is_none());

    sleep(SECOND).await;
    identities.expect(&plc(1), 1);
    identities.forget_before(&plc(1), event_at);
    assert_eq!(resolver.requests(), 1, "it has not been polled yet");
    sleep(2 * SECOND).await;
    identities.forget_before(&plc(1), event_at);
    assert!(identities.known(&plc(1)).is_some());
    assert_eq!(resolver.requests(), 2);
    identities.forget_before(&plc(1), Instant::now());
    assert!(identities.known(&plc(1)).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_did_that_fails_while_others_are_found_does_not_wait_for_the_directory() {
    let resolver = Scripted::default();
    resolver.fail(&plc(1), Failure::Error(unavailable(None)));
    let identities = resolver.cache(limits());
    assert!(identities.awaits_directory(&plc(1)));
    assert!(!identities.awaits_directory(&did("did:web:slow.example")));
    for number in 2..5 {
        assert!(identities.awaits_directory(&plc(1)), "{number}");
        assert!(identities.get(&plc(1)).await.is_err());
        identities.get(&plc(number)).await.unwrap();
        sleep(10 * SECOND).await;
    }
    assert!(!identities.awaits_directory(&plc(1)));
}

/// If all fail, the directory is the reason.
#[tokio::test(start_paused = true)]
async fn while_the_directory_finds_nothing_all_wait_for_it() {
    let resolver = Scripted::default();
    resolver.fail(&plc(1), Failure::Error(unavailable(None)));
    let identities = resolver.cache(limits());
    identities.get(&plc(2)).await.unwrap();
    for _ in 0..5 {
        sleep(20 * SECOND).await;
        assert!(identities.get(&plc(1)).await.is_err());
        assert!(identities.awaits_directory(&plc(1)));
    }
}
