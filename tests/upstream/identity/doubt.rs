//! A directory that answers wrongly is not believed. Time is paused.

use std::time::Duration;

use huddle_firehose::identity::document::DocumentError;
use huddle_firehose::identity::resolve::{Invalid, ResolveError, Unavailable};
use huddle_firehose::identity::{Identities, Limits};
use tokio::time::{Instant, advance, sleep};

use super::scripted::{Failure, Scripted, unavailable};
use super::{did, plc};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// No answer at all that would say something about the DIDs.
fn wrong_answers() -> Vec<ResolveError> {
    let page = DocumentError::NoObject("expected value at line 1 column 1".into());
    vec![
        ResolveError::NotFound,
        ResolveError::Tombstoned,
        unavailable(None),
        Unavailable::NoDocument(page).into(),
    ]
}

/// Asks about these DIDs once a second, for this many seconds.
async fn ask_for(identities: &Identities, seconds: u64, numbers: &[usize]) {
    for _ in 0..seconds {
        for number in numbers {
            let asking = identities.clone();
            let did = plc(*number);
            tokio::spawn(async move { asking.get(&did).await });
        }
        sleep(SECOND).await;
    }
}

fn fail_all(resolver: &Scripted, numbers: impl IntoIterator<Item = usize>, error: &ResolveError) {
    for number in numbers {
        resolver.fail(&plc(number), Failure::Error(error.clone()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_has_no_usable_answer_for_any_did_is_a_fault_until_it_has_one() {
    for error in wrong_answers() {
        let resolver = Scripted::default();
        let identities = resolver.cache(Limits::default());
        fail_all(&resolver, 0..20, &error);
        let numbers: Vec<usize> = (0..20).collect();
        ask_for(&identities, 8, &numbers).await;
        let fault = identities.directory_fault().unwrap();
        assert_eq!(fault.reason, error.to_string());
        for number in 0..20 {
            let answer = identities.get(&plc(number)).await;
            assert!(answer.unwrap_err().is_unknown(), "{error}");
        }

        // It is asked now and then.
        let before = resolver.requests();
        ask_for(&identities, 60, &numbers).await;
        let requests = resolver.requests() - before;
        assert!((1..=10).contains(&requests), "{requests} for {error}");

        (0..20).for_each(|number| resolver.recover(&plc(number)));
        ask_for(&identities, 60, &numbers).await;
        assert_eq!(identities.directory_fault(), None);
        for number in 0..20 {
            assert!(identities.get(&plc(number)).await.is_ok(), "{error}");
        }
    }
}

/// Anybody can write a DID that does not exist.
#[tokio::test(start_paused = true)]
async fn dids_that_do_not_exist_are_no_fault_of_the_directory() {
    let resolver = Scripted::default();
    let identities = resolver.cache(Limits::default());
    assert!(identities.get(&plc(99)).await.is_ok());
    fail_all(&resolver, 0..20, &ResolveError::NotFound);
    let numbers: Vec<usize> = (0..20).collect();
    ask_for(&identities, 60, &numbers).await;
    assert_eq!(identities.directory_fault(), None);
    // The DID that had a document was looked up again, to be sure.
    assert!(resolver.times(&plc(99)).len() > 1);
}

#[tokio::test(start_paused = true)]
async fn a_fault_ends_without_a_caller_when_a_did_that_had_a_document_is_found_again() {
    let resolver = Scripted::default();
    let identities = resolver.cache(Limits::default());
    assert!(identities.get(&plc(9)).await.is_ok());
    fail_all(&resolver, 0..10, &ResolveError::NotFound);
    ask_for(&identities, 10, &[1, 2, 3, 4]).await;
    assert!(identities.directory_fault().is_some());
    resolver.recover(&plc(9));
    sleep(2 * MINUTE).await;
    assert_eq!(identities.directory_fault(), None);
}

#[tokio::test(start_paused = true)]
async fn a_did_that_had_a_document_is_never_missing() {
    for is_from_earlier_run in [false, true] {
        let resolver = Scripted::default();
        let identities = resolver.cache(Limits::default());
        if is_from_earlier_run {
            identities.assume_document(&plc(1));
        } else {
            assert!(identities.get(&plc(1)).await.is_ok());
        }
        fail_all(&resolver, [1], &ResolveError::NotFound);
        // An event about its identity does not change that.
        identities.forget(&plc(1));
        let missing = Err(Unavailable::Missing.into());
        for number in 2..60 {
            let answer = identities.get(&plc(1)).await;
            assert_eq!(answer, missing);
            // The directory has others.
            assert!(identities.get(&plc(number)).await.is_ok());
            advance(MINUTE).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_did_that_never_had_a_document_is_missing_after_ten_minutes_if_others_are_found() {
    let resolver = Scripted::default();
    let identities = resolver.cache(Limits::default());
    fail_all(&resolver, [1], &ResolveError::NotFound);
    let start = Instant::now();
    let mut number = 2;
    while identities.get(&plc(1)).await == Err(Unavailable::Missing.into()) {
        assert!(start.elapsed() < 16 * MINUTE);
        number += 1;
        assert!(identities.get(&plc(number)).await.is_ok());
        advance(10 * SECOND).await;
    }
    assert_eq!(identities.get(&plc(1)).await, Err(ResolveError::NotFound));
    assert!(start.elapsed() >= 10 * MINUTE);

    // Nothing else was found meanwhile.
    let identities = resolver.cache(Limits::default());
    for _ in 0..60 {
        let answer = identities.get(&plc(1)).await;
        assert_eq!(answer, Err(Unavailable::Missing.into()));
        advance(MINUTE).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_hosts_of_did_web_count_for_themselves_only() {
    let resolver = Scripted::default();
    let identities = resolver.cache(Limits::default());
    let hosts: Vec<_> = (0..10)
        .map(|number| did(&format!("did:web:{number}.example")))
        .collect();
    for host in &hosts[1..] {
        resolver.fail(host, Failure::Error(unavailable(None)));
    }
    for _ in 0..20 {
        for host in &hosts[1..] {
            assert!(identities.get(host).await.is_err());
        }
        sleep(SECOND).await;
    }
    assert_eq!(identities.directory_fault(), None);
    assert!(identities.get(&hosts[0]).await.is_ok());
    assert!(identities.get(&plc(1)).await.is_ok());
}

/// Each says something about its DID.
#[tokio::test(start_paused = true)]
async fn documents_that_cannot_be_used_are_answers_of_a_directory_that_works() {
    let resolver = Scripted::default();
    let identities = resolver.cache(Limits::default());
    let unusable = [
        DocumentError::AnotherDid(plc(7).to_string()),
        DocumentError::NoSigningKey,
    ];
    for (number, error) in unusable.iter().cycle().take(10).enumerate() {
        let invalid = ResolveError::from(Invalid::Document(error.clone()));
        resolver.fail(&plc(number), Failure::Error(invalid));
    }
    let numbers: Vec<usize> = (0..10).collect();
    ask_for(&identities, 60, &numbers).await;
    assert_eq!(identities.directory_fault(), None);
    for number in numbers {
        let error = identities.get(&plc(number)).await.unwrap_err();
        assert!(!error.is_unknown(), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_refuses_without_a_delay_is_asked_a_few_times_and_all_wait_for_it() {
    let resolver = Scripted::default();
    let identities = resolver.cache(Limits::default());
    let refusal = huddle_firehose::net::http_client::FetchError::Status {
        status: 429,
        retry_after: None,
    };
    let refused = ResolveError::from(Unavailable::from(refusal));
    fail_all(&resolver, 0..40, &refused);
    let numbers: Vec<usize> = (0..40).collect();
    ask_for(&identities, 25, &numbers).await;
    // Those that were under way together, and one after each pause.
    assert!(resolver.requests() <= 25, "{}", resolver.requests());
    numbers
        .iter()
        .for_each(|number| resolver.recover(&plc(*number)));
    ask_for(&identities, 40, &numbers).await;
    for number in numbers {
        assert!(identities.get(&plc(number)).await.is_ok());
        assert_eq!(identities.wait(&plc(number)), None);
    }
}
