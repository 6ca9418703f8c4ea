//! What the cache keeps, for how long, and which requests wait for others. Time is paused.
//! Holds invariants 4.7 and 8.5.

use std::time::Duration;

use futures_util::future::join_all;
use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::identity::document::DocumentError;
use huddle_firehose::identity::resolve::{Invalid, ResolveError, Unavailable};
use huddle_firehose::identity::{Identities, Limits};
use huddle_firehose::net::http_client::FetchError;
use tokio::time::{Instant, advance, timeout};

use super::scripted::{Failure, Scripted, unavailable};
use super::{did, plc};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Limits on the rate that only tests of the rate reach.
fn limits() -> Limits {
    Limits {
        per_second: 1_000_000,
        burst: 1_000_000,
        ..Limits::default()
    }
}

/// The DID with this number, of very many.
fn numbered(number: usize) -> Did {
    let letters = format!("{number:024}");
    let letters: String = letters
        .chars()
        .map(|digit| char::from(digit as u8 - b'0' + b'a'))
        .collect();
    did(&format!("did:plc:{letters}"))
}

/// Asks in the background.
fn ask(
    identities: &Identities,
    did: &Did,
) -> tokio::task::JoinHandle<Result<String, ResolveError>> {
    let (identities, did) = (identities.clone(), did.clone());
    tokio::spawn(async move {
        let identity = identities.get(&did).await?;
        Ok(identity.signing_key.clone())
    })
}

#[tokio::test(start_paused = true)]
async fn an_identity_is_looked_up_once_a_day() {
    let resolver = Scripted::default();
    let identities = resolver.cache(limits());
    for _ in 0..3 {
        let identity = identities.get(&plc(1)).await.unwrap();
        assert_eq!(identity.did, plc(1));
        advance(8 * HOUR - SECOND).await;
    }
    assert_eq!(resolver.requests(), 1);
    advance(4 * SECOND).await;
    identities.get(&plc(1)).await.unwrap();
    assert_eq!(resolver.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_missing_identity_is_kept_for_minutes() {
    let not_one = DocumentError::NoSigningKey;
    for error in [ResolveError::Tombstoned, Invalid::Document(not_one).into()] {
        assert!(!error.is_unknown());
        let resolver = Scripted::default();
        resolver.fail(&plc(1), Failure::Error(error.clone()));
        let identities = resolver.cache(limits());
        // The directory works.
        assert!(identities.get(&plc(2)).await.is_ok());
        assert_eq!(identities.get(&plc(1)).await, Err(error.clone()));
        advance(5 * MINUTE - SECOND).await;
        assert_eq!(identities.get(&plc(1)).await, Err(error));
        assert_eq!(resolver.times(&plc(1)).len(), 1);

        resolver.recover(&plc(1));
        advance(SECOND).await;
        assert!(identities.get(&plc(1)).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_identity_is_requested_with_growing_delays() {
    let resolver = Scripted::default();
    resolver.fail(&plc(1), Failure::Error(unavailable(None)));
    let identities = resolver.cache(limits());
    let start = Instant::now();
    while start.elapsed() < 30 * MINUTE {
        assert_eq!(identities.get(&plc(1)).await, Err(unavailable(None)));
        advance(SECOND).await;
    }
    let times = resolver.times(&plc(1));
    let delays: Vec<u64> = times
        .windows(2)
        .map(|pair| (pair[1] - pair[0]).as_secs())
        .collect();
    assert_eq!(delays, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300, 300]);

    resolver.recover(&plc(1));
    advance(5 * MINUTE).await;
    assert!(identities.get(&plc(1)).await.is_ok());
    // A later failure begins with the first delay again.
    advance(25 * HOUR).await;
    resolver.fail(&plc(1), Failure::Error(unavailable(None)));
    assert!(identities.get(&plc(1)).await.is_err());
    resolver.recover(&plc(1));
    advance(2 * SECOND).await;
    assert!(identities.get(&plc(1)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_retry_after_of_a_server_is_kept() {
    let resolver = Scripted::default();
    let error = unavailable(Some(10 * MINUTE));
    resolver.fail(&plc(1), Failure::Error(error.clone()));
    let identities = resolver.cache(limits());
    assert_eq!(identities.get(&plc(1)).await, Err(error.clone()));
    advance(10 * MINUTE - SECOND).await;
    assert_eq!(identities.get(&plc(1)).await, Err(error));
    assert_eq!(resolver.requests(), 1);
    advance(SECOND).await;
    assert!(identities.get(&plc(1)).await.is_err());
    assert_eq!(resolver.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn concurrent_callers_share_one_request() {
    let resolver = Scripted::with_delay(SECOND);
    let identities = resolver.cache(limits());
    let asked: Vec<_> = (0..100).map(|_| ask(&identities, &plc(1))).collect();
    for answer in join_all(asked).await {
        assert_eq!(answer.unwrap(), Ok("key 1".to_owned()));
    }
    assert_eq!(resolver.requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_stops_waiting_does_not_cost_the_others_their_answer() {
    let resolver = Scripted::with_delay(SECOND);
    let identities = resolver.cache(limits());
    let first = ask(&identities, &plc(1));
    let second = ask(&identities, &plc(1));
    resolver.reached(1).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert_eq!(second.await.unwrap(), Ok("key 1".to_owned()));
    assert_eq!(resolver.requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_waiting_caller_still_serves_later_callers() {
    let resolver = Scripted::with_delay(10 * SECOND);
    let identities = resolver.cache(limits());
    let abandoned = timeout(SECOND, identities.get(&plc(1))).await;
    assert!(abandoned.is_err());
    advance(10 * SECOND).await;
    assert!(identities.get(&plc(1)).await.is_ok());
    assert_eq!(resolver.requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_number_of_concurrent_requests_is_limited() {
    let resolver = Scripted::with_delay(SECOND);
    let limits = Limits {
        plc_in_flight: 4,
        in_flight: 4,
        ..limits()
    };
    let identities = resolver.cache(limits);
    let dids: Vec<Did> = (0..20).map(plc).collect();
    let start = Instant::now();
    let answers = join_all(dids.iter().map(|did| identities.get(did))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(resolver.requests(), 20);
    assert_eq!(resolver.most_under_way(), 4);
    assert_eq!(start.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn requests_follow_each_other_no_faster_than_allowed() {
    let resolver = Scripted::default();
    let limits = Limits {
        per_second: 10,
        most_per_second: 10,
        burst: 5,
        ..limits()
    };
    let identities = resolver.cache(limits);
    let dids: Vec<Did> = (0..25).map(plc).collect();
    let start = Instant::now();
    join_all(dids.iter().map(|did| identities.get(did))).await;
    let at_once = dids.iter().filter(|did| resolver.times(did)[0] == start);
    assert_eq!(at_once.count(), 5);
    assert_eq!(start.elapsed().as_millis() / 100, 20);
    assert_eq!(resolver.requests(), 25);
}

/// The courtesy rate would rise while the directory answers, and begin with a burst.
#[tokio::test(start_paused = true)]
async fn the_rate_that_an_operator_has_set_is_kept_whatever_it_is() {
    for (rate, seconds) in [(1, 60), (5000, 3)] {
        let resolver = Scripted::default();
        let limits = Limits {
            plc_per_second: Some(rate),
            capacity: 1_000_000,
            ..Limits::default()
        };
        let identities = resolver.cache(limits);
        let start = Instant::now();
        for number in 0..rate as usize * seconds {
            identities.get(&numbered(number)).await.unwrap();
        }
        // The first of them begins at once, and a few of the others with it.
        let taken = start.elapsed().as_millis();
        let seconds = seconds as u128 * 1000;
        assert!(
            (seconds - 1000..=seconds).contains(&taken),
            "{rate}: {taken} ms"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn slow_hosts_do_not_delay_the_plc_directory() {
    let resolver = Scripted::with_delay(SECOND);
    let limits = Limits {
        plc_in_flight: 1,
        in_flight: 1,
        ..limits()
    };
    let identities = resolver.cache(limits);
    let hosts: Vec<_> = (0..20)
        .map(|host| ask(&identities, &did(&format!("did:web:{host}.example"))))
        .collect();
    resolver.reached(1).await;
    let start = Instant::now();
    assert!(identities.get(&plc(1)).await.is_ok());
    assert_eq!(start.elapsed().as_secs(), 1);
    assert!(hosts.iter().any(|host| !host.is_finished()));
}

#[tokio::test(start_paused = true)]
async fn no_caller_waits_for_ever() {
    let resolver = Scripted::with_delay(24 * HOUR);
    let identities = resolver.cache(limits());
    let start = Instant::now();
    let answer = identities.get(&plc(1)).await;
    assert_eq!(answer, Err(Unavailable::Busy.into()));
    assert_eq!(start.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn callers_that_stop_waiting_leave_no_queue() {
    let resolver = Scripted::with_delay(20 * SECOND);
    let limits = Limits {
        plc_in_flight: 1,
        in_flight: 1,
        ..limits()
    };
    let identities = resolver.cache(limits);
    let first = ask(&identities, &plc(0));
    resolver.reached(1).await;
    let dids: Vec<Did> = (1..100).map(plc).collect();
    let queue = join_all(dids.iter().map(|did| identities.get(did)));
    assert!(timeout(SECOND, queue).await.is_err());
    assert!(first.await.unwrap().is_ok());
    // A new caller is next.
    let start = Instant::now();
    assert!(identities.get(&plc(50)).await.is_ok());
    assert_eq!(start.elapsed().as_secs(), 20);
    assert_eq!(resolver.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_least_recently_used_is_forgotten_first() {
    let resolver = Scripted::default();
    let limits = Limits {
        capacity: 3,
        ..limits()
    };
    let identities = resolver.cache(limits);
    for number in [1, 2, 3, 1, 4] {
        identities.get(&plc(number)).await.unwrap();
    }
    assert_eq!(resolver.requests(), 4);
    for number in [1, 3, 4] {
        identities.get(&plc(number)).await.unwrap();
    }
    assert_eq!(resolver.requests(), 4);
    identities.get(&plc(2)).await.unwrap();
    assert_eq!(resolver.requests(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_resolver_that_panics_leaves_the_identity_unknown() {
    let resolver = Scripted::default();
    resolver.fail(&plc(1), Failure::Panic);
    let identities = resolver.cache(limits());
    let interrupted = Err(Unavailable::Interrupted.into());
    assert_eq!(identities.get(&plc(1)).await, interrupted);
    resolver.recover(&plc(1));
    assert_eq!(identities.get(&plc(1)).await, interrupted);
    advance(2 * SECOND).await;
    assert!(identities.get(&plc(1)).await.is_ok());
}

/// The order in which the directory was asked for these DIDs.
fn order(resolver: &Scripted, dids: &[Did]) -> Vec<usize> {
    let mut asked: Vec<_> = dids
        .iter()
        .enumerate()
        .filter_map(|(number, did)| Some((*resolver.times(did).last()?, number)))
        .collect();
    asked.sort_unstable();
    asked.into_iter().map(|(_, number)| number).collect()
}

#[tokio::test(start_paused = true)]
async fn look_ups_that_commits_wait_for_come_first_and_those_of_newcomers_before_them() {
    let resolver = Scripted::with_delay(SECOND);
    let identities = resolver.cache(Limits {
        plc_in_flight: 1,
        in_flight: 1,
        ..limits()
    });
    let dids: Vec<Did> = (0..4).map(plc).collect();
    let [blocking, handle, again, newcomer] = &dids[..] else {
        panic!("{dids:?}");
    };
    // It was looked up a moment ago.
    identities.get(again).await.unwrap();
    identities.forget(again);
    let first = ask(&identities, blocking);
    resolver.reached(2).await;
    let waiting = [
        ask(&identities.in_background(), handle),
        ask(&identities, again),
        ask(&identities, newcomer),
    ];
    first.await.unwrap().unwrap();
    for asked in waiting {
        asked.await.unwrap().unwrap();
    }
    assert_eq!(order(&resolver, &dids), [0, 3, 2, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_look_up_in_the_background_moves_forward_when_a_commit_waits_for_it() {
    let resolver = Scripted::with_delay(SECOND);
    let identities = resolver.cache(Limits {
        plc_in_flight: 1,
        in_flight: 1,
        ..limits()
    });
    let dids: Vec<Did> = (0..3).map(plc).collect();
    let first = ask(&identities, &dids[0]);
    resolver.reached(1).await;
    let earlier = ask(&identities.in_background(), &dids[1]);
    let background = ask(&identities.in_background(), &dids[2]);
    tokio::task::yield_now().await;
    let commit = ask(&identities, &dids[2]);
    for asked in [first, earlier, background, commit] {
        asked.await.unwrap().unwrap();
    }
    assert_eq!(order(&resolver, &dids), [0, 2, 1]);
    assert_eq!(resolver.requests(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_process_without_file_descriptors_is_no_failure_of_the_directory() {
    let resolver = Scripted::default();
    let identities = resolver.cache(limits());
    let ours = ResolveError::from(Unavailable::Fetch(FetchError::NoDescriptor));
    for _ in 0..4 {
        for did in (0..5).map(plc) {
            resolver.fail(&did, Failure::Error(ours.clone()));
            let error = identities.get(&did).await.unwrap_err();
            assert!(error.wait().is_some(), "{error}");
            assert_eq!(identities.wait(&did), None);
        }
        advance(10 * SECOND).await;
    }
    assert_eq!(identities.directory_fault(), None);
    resolver.recover(&plc(0));
    assert!(identities.get(&plc(0)).await.is_ok());
}
