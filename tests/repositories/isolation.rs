//! Runs that ended without a word while a job was in progress. Holds invariant 5.8.

use huddle_firehose::repo::isolation::CONDEMNED_AFTER;
use huddle_firehose::store::repo_store::{JobKey, RepoStore, Search};
use huddle_firehose::store::sqlite::SqliteStore;
use simulated_network::mishap::{Endpoint, Mishap};
use test_support::simulation::verified::Verified;

use super::{A, B, D, E, POST, few_accounts_with_offers};

const SUSPECTED: &str = "SELECT count(*) FROM suspected_jobs";
const IN_PROGRESS: &str = "SELECT count(*) FROM jobs_in_progress";

/// Restarts the worker after `runs` runs that ended while the job was in progress for each of the
/// accounts.
async fn restart_after_ends(
    verified: Verified,
    numbers: &[usize],
    job: &str,
    runs: u32,
) -> Verified {
    let key = |number: &usize| JobKey {
        did: verified.did(*number).to_string(),
        job: job.to_owned(),
    };
    let keys: Vec<JobKey> = numbers.iter().map(key).collect();
    let end_runs = async |store: &SqliteStore| {
        for _ in 0..runs {
            store.note_jobs(&keys, &[], &[]).await.unwrap();
            store.begin_jobs().await.unwrap();
        }
    };
    verified.restart_after(end_runs, |_| {}).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_commit_at_which_runs_ended_becomes_a_dead_letter_alone() {
    let verified = few_accounts_with_offers().await;
    let mishap = Mishap::Status(503);
    verified
        .http
        .misbehave(Endpoint::DidDocument, mishap, u64::MAX);
    verified.tell(|network| {
        network.emit_empty_identity(0);
        network.write(0, &[D], &[A]);
        network.write(0, &[E], &[]);
    });
    verified.until_applied().await;
    assert_eq!(verified.waiting(0).await, 2);
    let verified = restart_after_ends(verified, &[0], "replay", CONDEMNED_AFTER).await;
    verified.http.behave(Endpoint::DidDocument);
    verified.tell(|network| network.write(1, &[D], &[]));
    verified.until_settled().await;

    let letters = verified.dead_letters().await;
    let [(stage, raw)] = letters.as_slice() else {
        panic!("one dead letter: {letters:?}");
    };
    assert_eq!(stage, "poison");
    assert!(!raw.is_empty(), "it is kept");
    assert_eq!(verified.waiting(0).await, 0);
    assert_eq!(verified.count(SUSPECTED).await, 0);
    // Its repository was fetched, which brings what the commit had.
    verified.compare_records().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_at_which_runs_ended_is_not_fetched_and_holds_up_no_other() {
    let verified = few_accounts_with_offers().await;
    let verified = restart_after_ends(verified, &[0], "fetch", CONDEMNED_AFTER).await;
    for number in [0, 1] {
        verified.withhold(|network| network.write(number, &[D], &[B]));
        verified.tell(|network| network.write(number, &[POST], &[]));
    }
    verified
        .until("one is fetched and the other is set aside", async || {
            verified.resyncs(1).await.len() == 1 && verified.resyncs(0).await.len() == 1
        })
        .await;
    let refused = &verified.resyncs(0).await[0];
    assert_eq!(refused.host, None, "no host was asked");
    let error = refused.error.as_deref().unwrap_or_default();
    assert!(error.contains("ended without a word"), "{error}");
    // It stays set aside over a restart, whatever its account does.
    let verified = verified.restart(|_| {}).await;
    verified.tell(|network| network.write(0, &[E], &[]));
    verified.until_applied().await;
    verified.look_again().await;
    assert_eq!(verified.resyncs(0).await.len(), 1);
    let set_aside = "SELECT count(*) FROM suspected_jobs WHERE set_aside_until IS NOT NULL";
    assert_eq!(verified.count(set_aside).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_were_in_progress_when_a_run_ended_are_done_and_cleared() {
    let verified = few_accounts_with_offers().await;
    let verified = restart_after_ends(verified, &[0, 1], "fetch", 1).await;
    for number in [0, 1] {
        verified.withhold(|network| network.write(number, &[D], &[B]));
        verified.tell(|network| network.write(number, &[POST], &[]));
    }
    verified.until_settled().await;
    for number in [0, 1] {
        assert_eq!(verified.resyncs(number).await.len(), 1);
    }
    assert_eq!(verified.count(SUSPECTED).await, 0);
    assert_eq!(verified.count(IN_PROGRESS).await, 0);
    verified.compare().await;
}

/// Its host decides whether the job comes to what ends the process.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspected_job_that_fails_stays_suspected_until_it_has_done_its_work() {
    let verified = few_accounts_with_offers().await;
    for server in [&verified.http, &verified.mirror] {
        server.misbehave(Endpoint::GetRepo, Mishap::Status(500), u64::MAX);
    }
    let verified = restart_after_ends(verified, &[0], "fetch", 1).await;
    verified.withhold(|network| network.write(0, &[D], &[B]));
    verified.tell(|network| network.write(0, &[POST], &[]));
    verified
        .until("a fetch has failed", async || {
            !verified.resyncs(0).await.is_empty()
        })
        .await;
    verified
        .until("its end is noted", async || {
            verified.count(IN_PROGRESS).await == 0
        })
        .await;
    assert_eq!(verified.count(SUSPECTED).await, 1);
    for server in [&verified.http, &verified.mirror] {
        server.behave(Endpoint::GetRepo);
    }
    verified.until_settled().await;
    verified
        .until("it is cleared", async || {
            verified.count(SUSPECTED).await == 0
        })
        .await;
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_noted_while_it_is_in_progress() {
    let verified = few_accounts_with_offers().await;
    verified
        .http
        .misbehave(Endpoint::GetRepo, Mishap::Held, u64::MAX);
    verified.withhold(|network| network.write(0, &[D], &[B]));
    verified.tell(|network| network.write(0, &[POST], &[]));
    verified
        .until("a response is pending", async || verified.http.held() > 0)
        .await;
    let noted = "SELECT count(*) FROM jobs_in_progress WHERE job = 'fetch'";
    assert_eq!(verified.count(noted).await, 1);
    verified.http.behave(Endpoint::GetRepo);
    verified.http.release();
    verified.until_settled().await;
    verified
        .until("its end is noted", async || {
            verified.count(IN_PROGRESS).await == 0
        })
        .await;
    verified.compare().await;
}

const BOOKINGS: &str = "com.huddle.booking";
const OFFERS: &str = "com.huddle.slotOffer";

/// Restarts the worker with two searches, after `runs` runs that ended while a page of the first one
/// was in progress.
async fn restart_after_ends_at_a_page(verified: Verified, runs: u32) -> Verified {
    let searches = [BOOKINGS, OFFERS].map(|name| Search::parse(name).unwrap());
    let page = JobKey {
        did: BOOKINGS.to_owned(),
        job: "page".to_owned(),
    };
    let end_runs = async |store: &SqliteStore| {
        store.begin_discovery(&searches, true).await.unwrap();
        for _ in 0..runs {
            store
                .note_jobs(std::slice::from_ref(&page), &[], &[])
                .await
                .unwrap();
            store.begin_jobs().await.unwrap();
        }
    };
    verified.restart_after(end_runs, |_| {}).await
}

const OVER: &str = "SELECT count(*) FROM discoveries WHERE ended_at IS NOT NULL";

#[tokio::test(flavor = "multi_thread")]
async fn a_search_at_whose_page_runs_ended_is_set_aside_and_holds_up_no_other() {
    let verified = few_accounts_with_offers().await;
    let verified = restart_after_ends_at_a_page(verified, CONDEMNED_AFTER).await;
    let set_aside = "SELECT count(*) FROM suspected_jobs WHERE set_aside_until IS NOT NULL";
    verified
        .until("one is over and the other is set aside", async || {
            verified.count(OVER).await == 1 && verified.count(set_aside).await == 1
        })
        .await;
    let error = "SELECT count(*) FROM discoveries \
                 WHERE collection = 'com.huddle.booking' AND error LIKE '%ended without a word%'";
    assert_eq!(verified.count(error).await, 1);
    // Nothing waits for it, also after a restart.
    let verified = verified.restart(|_| {}).await;
    verified.until_settled().await;
    assert_eq!(verified.count(OVER).await, 1);
    assert_eq!(verified.count(set_aside).await, 1);
    assert_eq!(verified.http.requests(Endpoint::ListReposByCollection), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_was_in_progress_when_a_run_ended_is_read_and_cleared() {
    let verified = few_accounts_with_offers().await;
    let verified = restart_after_ends_at_a_page(verified, 1).await;
    verified
        .until(
            "both searches are over, and nothing is suspected",
            async || verified.count(OVER).await == 2 && verified.count(SUSPECTED).await == 0,
        )
        .await;
    assert_eq!(verified.http.requests(Endpoint::ListReposByCollection), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_noted_while_it_is_in_progress() {
    let verified = few_accounts_with_offers().await;
    verified
        .http
        .misbehave(Endpoint::ListReposByCollection, Mishap::Held, 1);
    let offers = Search::parse(OFFERS).unwrap();
    let begun = verified
        .store
        .begin_discovery(std::slice::from_ref(&offers), true)
        .await;
    begun.unwrap();
    verified
        .until("a response is pending", async || verified.http.held() > 0)
        .await;
    let noted = "SELECT count(*) FROM jobs_in_progress WHERE job = 'page'";
    assert_eq!(verified.count(noted).await, 1);
    verified.http.release();
    verified
        .until("its end is noted", async || {
            verified.count(OVER).await == 1 && verified.count(noted).await == 0
        })
        .await;
}
