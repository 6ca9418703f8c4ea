//! What a run knows of the jobs at which earlier runs ended. Holds invariant 5.8.

use huddle_firehose::store::repo_store::{JobKey, RepoStore, SuspectedJob};
use jiff::{SignedDuration, Timestamp};

use crate::fixture::*;

fn job(did: &str) -> JobKey {
    JobKey {
        did: did.to_owned(),
        job: "fetch".to_owned(),
    }
}

async fn begin(database: &Database) -> Vec<(String, u32)> {
    let jobs = database.store.begin_jobs().await.unwrap();
    let of = |job: SuspectedJob| (job.key.did, job.runs);
    jobs.into_iter().map(of).collect()
}

async fn start(database: &Database, jobs: &[JobKey]) {
    database.store.note_jobs(jobs, &[], &[]).await.unwrap();
}

async fn end(database: &Database, jobs: &[JobKey], cleared: &[JobKey]) {
    database.store.note_jobs(&[], jobs, cleared).await.unwrap();
}

#[tokio::test]
async fn a_job_in_progress_is_suspected_at_each_end_of_a_run_until_it_has_done_its_work() {
    let database = Database::new().await;
    assert_eq!(begin(&database).await, []);
    start(&database, &[job(ALICE), job(BOB)]).await;
    end(&database, &[job(BOB)], &[job(BOB)]).await;
    assert_eq!(begin(&database).await, [(ALICE.to_owned(), 1)]);
    start(&database, &[job(ALICE)]).await;
    assert_eq!(begin(&database).await, [(ALICE.to_owned(), 2)]);
    // It ended without having done its work, and another run ends while it is not in progress.
    start(&database, &[job(ALICE)]).await;
    end(&database, &[job(ALICE)], &[]).await;
    assert_eq!(begin(&database).await, [(ALICE.to_owned(), 2)]);
    start(&database, &[job(ALICE)]).await;
    end(&database, &[job(ALICE)], &[job(ALICE)]).await;
    assert_eq!(begin(&database).await, []);
}

#[tokio::test]
async fn a_run_that_ends_well_leaves_no_suspect() {
    let database = Database::new().await;
    start(&database, &[job(ALICE)]).await;
    database.store.end_jobs().await.unwrap();
    assert_eq!(begin(&database).await, []);
}

#[tokio::test]
async fn a_job_that_was_set_aside_stays_so_in_later_runs() {
    let database = Database::new().await;
    start(&database, &[job(ALICE)]).await;
    begin(&database).await;
    let until = Timestamp::now() + SignedDuration::from_hours(24);
    database.store.set_aside(&job(ALICE), until).await.unwrap();
    let jobs = database.store.begin_jobs().await.unwrap();
    assert!(jobs[0].set_aside_until.is_some());
    // Another run that ends at it is counted.
    start(&database, &[job(ALICE)]).await;
    let jobs = database.store.begin_jobs().await.unwrap();
    assert_eq!((jobs[0].runs, jobs[0].set_aside_until), (2, None));
}
