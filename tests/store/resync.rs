//! Which repositories are due for a fetch, and how a fetch changes their state. Holds invariant
//! 11.6.

use huddle_firehose::model::Resynced;
use huddle_firehose::store::plan::ResyncCause;
use huddle_firehose::store::repo_store::{RepoStore, Resync};

use crate::commits::*;
use crate::fixture::*;

const OUTCOMES: &str = "SELECT json_array(did, cause, host, rev, created, updated, deleted, unchanged, \
     bytes, error, started_at <= ended_at) FROM resyncs ORDER BY id";
const TRIES: &str = "SELECT attempts || ' ' || coalesce(retry_at, 'at once') FROM repos";

#[tokio::test]
async fn a_fetched_repository_gets_the_fetched_head() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database.break_chain(ALICE).await;
    database.begin_resync(ALICE).await;
    let mut fetched = resynced(ALICE, 12);
    if let Ok(done) = &mut fetched.outcome {
        *done = Resynced {
            created: 1,
            updated: 2,
            deleted: 3,
            unchanged: 4,
            bytes: 5,
            ..done.clone()
        };
    }
    database.end_resync(&fetched).await;

    let expected = [head(ALICE, 12, "synchronized parked")];
    assert_eq!(database.column(HEADS).await, expected);
    let row = "SELECT data || ' ' || is_whole || ' ' || coalesce(seq, '-') || ' ' || time \
               || ' ' || source FROM repos";
    let expected = format!("{} 1 - {:.3} https://host.example/", tree(12), second(12));
    assert_eq!(database.column(row).await, [expected]);
    let expected = format!(
        r#"["{ALICE}","prev_data","https://host.example/","{}",1,2,3,4,5,null,1]"#,
        rev(12)
    );
    assert_eq!(database.column(OUTCOMES).await, [expected]);
}

#[tokio::test]
async fn the_stream_continues_from_the_fetched_head() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database.request_resync(ALICE, ResyncCause::Operator).await;
    database.resync(ALICE, 12).await;
    assert!(database.due(1_000_000).await.is_empty());
    let written = database
        .apply(&[
            commit(ALICE, 11, 10),
            put_by(ALICE, "b", 11),
            commit(ALICE, 13, 12),
            put_by(ALICE, "c", 13),
        ])
        .await;
    assert_eq!(written.parked, 0);
    assert_eq!(database.column(ROWS).await, ["a 1", "c 13"]);
}

#[tokio::test]
async fn a_repository_that_breaks_during_its_fetch_is_fetched_once_more() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database.break_chain(ALICE).await;
    database.begin_resync(ALICE).await;
    database.request_resync(ALICE, ResyncCause::Operator).await;
    let fetched = resynced(ALICE, 12);
    database.end_resync(&fetched).await;
    assert_eq!(database.due(0).await, [ALICE]);
    let states = database.column("SELECT state FROM repos").await;
    assert_eq!(states, ["desynchronized"]);
    assert_eq!(database.number("SELECT count(*) FROM resyncs").await, 1);

    database.resync(ALICE, 12).await;
    let states = database.column("SELECT state FROM repos").await;
    assert_eq!(states, ["synchronized"]);
}

#[tokio::test]
async fn a_fetched_repository_without_kept_records_is_not_tracked() {
    let database = Database::new().await;
    database.request_resync(ALICE, ResyncCause::Backfill).await;
    assert_eq!(database.store.tracked().await.unwrap(), [ALICE]);
    database.resync(ALICE, 12).await;
    assert!(database.store.tracked().await.unwrap().is_empty());
    // The fetch is recorded all the same.
    assert_eq!(database.column(OUTCOMES).await.len(), 1);
}

#[tokio::test]
async fn a_failed_fetch_is_retried_and_recorded() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database.break_chain(ALICE).await;
    for attempts in 1..=2 {
        let retry_at = 100 * attempts;
        database.begin_resync(ALICE).await;
        let failed = failed(ALICE, retry_at);
        database.end_resync(&failed).await;
        let expected = [head(ALICE, 1, "desynchronized parked")];
        assert_eq!(database.column(HEADS).await, expected);
        let tries = format!("{attempts} {:.3}", second(retry_at));
        assert_eq!(database.column(TRIES).await, [tries]);
        assert!(database.due(retry_at - 1).await.is_empty());
        let due = database.due_repos(retry_at).await;
        assert_eq!(u64::from(due[0].attempts), attempts);
    }
    let expected = format!(
        r#"["{ALICE}","prev_data","https://host.example/",null,0,0,0,0,0,"the host is on fire",1]"#
    );
    assert_eq!(database.column(OUTCOMES).await, vec![expected; 2]);
    // A later commit is parked, and does not make the retry earlier.
    database.apply(&[commit(ALICE, 10, 9)]).await;
    assert!(database.due(199).await.is_empty());

    database.resync(ALICE, 9).await;
    assert_eq!(database.due(0).await, [ALICE], "a commit is parked");
}

#[tokio::test]
async fn a_repository_whose_host_is_cooling_down_is_throttled() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database.request_resync(ALICE, ResyncCause::Operator).await;
    database.begin_resync(ALICE).await;
    let mut throttled = failed(ALICE, 100);
    if let Err(failure) = &mut throttled.outcome {
        failure.is_throttled = true;
    }
    database.end_resync(&throttled).await;
    let expected = [head(ALICE, 1, "throttled")];
    assert_eq!(database.column(HEADS).await, expected);
    assert!(database.due(99).await.is_empty());
    assert_eq!(database.due(100).await, [ALICE]);
    let written = database.apply(&[commit(ALICE, 2, 1)]).await;
    assert_eq!(written.parked, 1);
}

fn missing(name: &str) -> Resync {
    let mut missing = failed(name, 100);
    if let Err(failure) = &mut missing.outcome {
        failure.is_gone = true;
    }
    missing
}

/// A temporary failure of a server must not lose data.
#[tokio::test]
async fn a_missing_repository_with_kept_data_is_kept() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database.apply(&[without_key(BOB, 2)]).await;
    let ids = [did(ALICE), did(BOB), did(CAROL)];
    for (id, cause) in ids.iter().zip([
        ResyncCause::Backfill,
        ResyncCause::Backfill,
        ResyncCause::Returned,
    ]) {
        database.request_resync(id.as_str(), cause).await;
    }
    for _ in 0..20 {
        for id in &ids {
            database.begin_resync(id.as_str()).await;
            database.end_resync(&missing(id.as_str())).await;
        }
    }
    assert_eq!(database.due(100).await.len(), 3);
}

#[tokio::test]
async fn a_missing_repository_without_kept_data_is_forgotten_in_the_end() {
    let database = Database::new().await;
    database.request_resync(ALICE, ResyncCause::Backfill).await;
    for _ in 0..20 {
        database.begin_resync(ALICE).await;
        database.end_resync(&missing(ALICE)).await;
    }
    assert!(database.store.tracked().await.unwrap().is_empty());
}

#[tokio::test]
async fn more_tracked_repositories_than_a_page_has_are_all_read() {
    let database = Database::new().await;
    database
        .execute(
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers \
             WHERE n < 20001) \
             INSERT INTO repos (did, state, updated_at) \
             SELECT printf('did:plc:%05d', n), 'synchronized', '2026' FROM numbers",
        )
        .await;
    let expected: Vec<_> = (1..=20_001).map(|n| format!("did:plc:{n:05}")).collect();
    assert_eq!(database.store.tracked().await.unwrap(), expected);
}

#[tokio::test]
async fn a_fetch_that_a_crash_interrupted_is_due_again() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database.break_chain(ALICE).await;
    database.begin_resync(ALICE).await;
    let database = database.reopen().await;
    assert_eq!(database.due(0).await, [ALICE]);
}

#[tokio::test]
async fn work_from_the_stream_comes_before_a_backfill() {
    let database = Database::new().await;
    database.track(&[BOB]).await;
    database.request_resync(ALICE, ResyncCause::Backfill).await;
    database.break_chain(BOB).await;
    database.request_resync(CAROL, ResyncCause::Gap).await;
    database.retry_later(CAROL, second(50)).await;
    assert_eq!(database.due(60).await, [BOB, CAROL, ALICE]);
    assert_eq!(database.due(40).await, [BOB, ALICE]);
}

#[tokio::test]
async fn a_failed_job_is_not_due_before_its_retry_time() {
    let database = Database::new().await;
    database.track(&[ALICE, BOB, CAROL]).await;
    for (name, until) in [(ALICE, 30), (BOB, 20), (CAROL, 10)] {
        database.break_chain(name).await;
        let until = second(until);
        database.retry_later(name, until).await;
    }
    assert!(database.due(9).await.is_empty());
    assert_eq!(database.due(20).await, [CAROL, BOB]);
    assert_eq!(database.due(30).await, [CAROL, BOB, ALICE]);
    // A request by an operator is due at once.
    database.request_resync(ALICE, ResyncCause::Operator).await;
    assert_eq!(database.due(9).await, [ALICE]);
}

#[tokio::test]
async fn an_operator_may_request_any_repository() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database.apply(&[put(BOB, "a", 1)]).await;
    for name in [ALICE, BOB, CAROL] {
        let id = did(name);
        database
            .request_resync(id.as_str(), ResyncCause::Operator)
            .await;
    }
    assert_eq!(database.due(0).await.len(), 3);
    assert_eq!(database.column(CAUSE).await, ["operator"; 3]);
    // The known head stays.
    let revs = "SELECT rev FROM repos WHERE rev IS NOT NULL";
    assert_eq!(database.column(revs).await.len(), 2);
}

#[tokio::test]
async fn a_due_repository_comes_with_its_head_and_status() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database
        .apply(&[unconfirmed_status(ALICE, Some("suspended"), 4)])
        .await;
    database.apply(&[unconfirmed_status(ALICE, None, 5)]).await;
    database.request_resync(BOB, ResyncCause::Gap).await;
    let due = database.due_repos(0).await;
    let found: Vec<_> = due
        .iter()
        .map(|repo| (repo.did.as_str(), repo.rev.clone(), repo.status_as_of))
        .collect();
    let alice = (ALICE, Some(rev(1).to_string()), Some(second(5)));
    assert!(found.contains(&alice), "{found:?}");
    assert!(found.contains(&(BOB, None, None)), "{found:?}");
}

/// The clock of the machine was years ahead for a while.
#[tokio::test]
async fn a_retry_time_from_the_future_is_not_waited_for() {
    const YEARS: u64 = 5 * 365 * 24 * 3600;
    let database = Database::new().await;
    database.track(&[ALICE, BOB]).await;
    database.break_chain(ALICE).await;
    for (seconds, expected) in [(3600, 0), (YEARS, 1)] {
        database.retry_later(ALICE, second(seconds)).await;
        assert_eq!(database.due(0).await.len(), expected, "{seconds} s");
    }
    database
        .apply(&[unconfirmed_status(BOB, Some("deactivated"), 4)])
        .await;
    // An hour, and five years.
    for (statement, expected) in [
        (
            "UPDATE accounts SET retry_at = '2023-11-14T23:13:20.000Z'",
            0,
        ),
        (
            "UPDATE accounts SET retry_at = '2028-11-12T22:13:20.000Z'",
            1,
        ),
    ] {
        database.execute(statement).await;
        let due = database.store.unconfirmed(second(0), 9).await.unwrap();
        assert_eq!(due.len(), expected, "{statement}");
    }
}

#[tokio::test]
async fn fetches_from_the_future_do_not_count_as_recent() {
    let database = Database::new().await;
    database
        .execute(
            "INSERT INTO resyncs (did, cause, started_at, ended_at) VALUES \
             ('did:plc:alice', 'gap', '2999-01-01T00:00:00.000Z', '2999-01-01T00:00:01.000Z')",
        )
        .await;
    let alice = did(ALICE);
    let recent = database.store.resyncs_since(&alice, second(0)).await;
    assert_eq!(recent.unwrap().last_ended_at, None);
}
