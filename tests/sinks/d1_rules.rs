//! What a D1 sink takes and refuses. Holds invariants 10.3, 10.5 and 10.6.

use std::path::Path;
use std::sync::Arc;

use huddle_firehose::sink::Follower;
use huddle_firehose::store::sqlite::SqliteStore;
use serde_json::json;
use test_support::d1::{D1, assert_follows};

use crate::d1::{database, follow_well, follower};
use crate::effects::*;
use crate::table_rules::{self, Tables, test_rules};
use crate::worker::Worker;

impl Tables for D1 {
    fn follower(&self, store: &Arc<SqliteStore>, name: &str) -> Follower {
        follower(&self.url(), store, name)
    }

    async fn follow(&self, sink: &mut Follower) {
        follow_well(sink).await;
    }

    async fn column(&self, query: &str) -> Vec<String> {
        D1::column(self, query).await
    }

    async fn assert_follow(&self, file: &Path) {
        assert_follows(self, file).await;
    }
}

test_rules!(
    database().await;
    a_process_that_was_replaced_writes_nothing_more,
    a_removal_and_a_row_without_a_time_are_taken,
    a_row_whose_change_was_lost_is_written_again_at_the_same_rev_and_time,
    of_two_workers_the_one_that_is_behind_takes_nothing_back,
    records_that_survive_a_removal_are_there_in_the_end,
    the_projection_of_a_record_that_was_refused_stays_that_of_the_row,
    what_one_worker_has_removed_the_other_does_not_bring_back,
);

async fn count(d1: &D1, table: &str) -> u64 {
    let count = d1
        .column(&format!("SELECT count(*) AS n FROM {table}"))
        .await;
    count[0].parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_large_removed_account_had_written_is_hidden_at_once_and_deleted_in_pieces() {
    let Some(d1) = database().await else {
        return;
    };
    let (worker, mut sink) = table_rules::amid_a_large_removal(&d1).await;
    // What comes late does not end the removal before its time.
    let last = d1.proxy.count() - 1;
    worker.finish_removals().await;
    follow_well(&mut sink).await;
    d1.proxy.repeat(last).await;
    assert_follows(&d1, &worker.database.path()).await;
    assert_eq!(count(&d1, "account_removals").await, 0);
    assert_eq!(count(&d1, "records").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_sink_refuses_is_a_dead_letter_and_the_others_go_on() {
    let Some(d1) = database().await else {
        return;
    };
    let refusal = "CREATE TRIGGER refusal BEFORE INSERT ON records WHEN NEW.rkey IN ('r30', 'r31') \
                   BEGIN SELECT RAISE(ABORT, 'constraint failed: by its key'); END";
    let refuse = async { d1.execute(&[refusal]).await };
    table_rules::a_row_that_the_sink_refuses_is_a_dead_letter_and_the_others_go_on(&d1, refuse)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hidden_records_are_in_no_view_and_ended_requests_go_by_age() {
    let Some(d1) = database().await else {
        return;
    };
    let long_ago = "UPDATE booking_requests SET indexed_at = '2020-01-01T00:00:00.000Z'";
    let age = async { d1.execute(&[long_ago]).await };
    table_rules::hidden_records_are_in_no_view_and_ended_requests_go_by_age(&d1, age).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_of_any_pace_make_the_tables_of_either() {
    if let Some(d1) = database().await {
        table_rules::two_workers_of_any_pace_make_the_tables_of_either(&d1, 1).await;
    }
}

/// A row of D1 has 2 MB, and text has no U+0000 there.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_large_is_omitted_and_its_row_is_there() {
    let Some(d1) = database().await else {
        return;
    };
    let worker = Worker::new().await;
    let large = json!({ "$type": PROFILE, "text": "x".repeat(1_600_000) });
    let odd = json!({ "$type": PROFILE, "text": "a\u{0}b\\u0000 \u{10ffff}\"", "n": 9007199254740993_i64 });
    let effects = vec![
        record(ALICE, PROFILE, "large", 1, &large),
        record(ALICE, PROFILE, "odd", 2, &odd),
        put(ALICE, "small", 3),
    ];
    worker.apply(effects, 3).await;
    let mut sink = follower(&d1.url(), &worker.store, "d1");
    follow_well(&mut sink).await;
    let rows = "SELECT rkey || ' ' || omitted || ' ' || deleted || ' ' || (record IS NULL) AS row \
                FROM visible_records ORDER BY uri";
    let rows = rows.replace("deleted", "validity");
    assert_eq!(
        d1.column(&rows).await,
        ["large 1 valid 1", "odd 0 valid 0", "small 0 valid 0"]
    );
    let odd = "SELECT record FROM records WHERE rkey = 'odd'";
    assert_eq!(d1.column(odd).await, worker.database.rows(odd).await);
    // It becomes small, and then it goes.
    worker.apply(vec![put(ALICE, "large", 4)], 4).await;
    follow_well(&mut sink).await;
    assert_follows(&d1, &worker.database.path()).await;
    worker.apply(vec![delete(ALICE, "large", 5)], 5).await;
    follow_well(&mut sink).await;
    assert_follows(&d1, &worker.database.path()).await;
}

/// The token and the address of the API.
#[tokio::test(flavor = "multi_thread")]
async fn the_api_is_asked_at_its_path_and_without_the_token_nothing_is_taken() {
    let Some(d1) = database().await else {
        return;
    };
    let worker = Worker::new().await;
    worker.apply(vec![put(ALICE, "a", 1)], 1).await;
    follow_well(&mut follower(&d1.api_url(), &worker.store, "d1")).await;
    assert_follows(&d1, &worker.database.path()).await;
    for path in d1.proxy.paths() {
        assert_eq!(path, "/client/v4/accounts/acc/d1/database/data-base/query");
    }
    let wrong = worker.database.folder().join("wrong");
    std::fs::write(&wrong, "another\n").unwrap();
    let url = format!("{}&token_file={}", d1.api_url(), wrong.display());
    let refused = follower(&url, &worker.store, "d1")
        .step()
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("401"), "{refused}");
}
