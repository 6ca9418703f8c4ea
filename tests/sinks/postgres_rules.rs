//! What a Postgres sink takes and refuses. Holds invariants 10.3, 10.5 and 10.6.

use std::path::Path;
use std::sync::Arc;

use huddle_firehose::sink::Follower;
use huddle_firehose::store::sqlite::SqliteStore;
use serde_json::json;
use test_support::postgres::{Schema, assert_follows};

use crate::effects::*;
use crate::postgres::{follow, follower};
use crate::table_rules::{self, Tables, test_rules};
use crate::worker::Worker;

impl Tables for Schema {
    fn follower(&self, store: &Arc<SqliteStore>, name: &str) -> Follower {
        follower(self, store, name)
    }

    async fn follow(&self, sink: &mut Follower) {
        follow(sink).await;
    }

    async fn column(&self, query: &str) -> Vec<String> {
        Schema::column(self, query).await
    }

    async fn assert_follow(&self, file: &Path) {
        assert_follows(self, file).await;
    }
}

test_rules!(
    Schema::new().await;
    a_process_that_was_replaced_writes_nothing_more,
    a_removal_and_a_row_without_a_time_are_taken,
    a_row_whose_change_was_lost_is_written_again_at_the_same_rev_and_time,
    of_two_workers_the_one_that_is_behind_takes_nothing_back,
    records_that_survive_a_removal_are_there_in_the_end,
    the_projection_of_a_record_that_was_refused_stays_that_of_the_row,
    what_one_worker_has_removed_the_other_does_not_bring_back,
);

#[tokio::test]
async fn what_a_large_removed_account_had_written_is_hidden_at_once_and_deleted_in_pieces() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let (worker, mut sink) = table_rules::amid_a_large_removal(&schema).await;
    worker.finish_removals().await;
    follow(&mut sink).await;
    assert_follows(&schema, &worker.database.path()).await;
    let markers = "SELECT count(*)::text FROM account_removals";
    assert_eq!(schema.column(markers).await, ["0"]);
}

#[tokio::test]
async fn a_row_that_the_sink_refuses_is_a_dead_letter_and_the_others_go_on() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let refuse = schema.execute("ALTER TABLE records ADD CHECK (rkey <> 'r30' AND rkey <> 'r31')");
    table_rules::a_row_that_the_sink_refuses_is_a_dead_letter_and_the_others_go_on(&schema, refuse)
        .await;
}

#[tokio::test]
async fn hidden_records_are_in_no_view_and_ended_requests_go_by_age() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let age = schema.execute("UPDATE booking_requests SET indexed_at = now() - interval '31 days'");
    table_rules::hidden_records_are_in_no_view_and_ended_requests_go_by_age(&schema, age).await;
}

#[tokio::test]
async fn two_workers_of_any_pace_make_the_tables_of_either() {
    for seed in 0..3 {
        let Some(schema) = Schema::new().await else {
            return;
        };
        table_rules::two_workers_of_any_pace_make_the_tables_of_either(&schema, seed).await;
    }
}

#[tokio::test]
async fn text_that_postgres_has_no_place_for_is_replaced() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let worker = Worker::new().await;
    let odd = json!({ "$type": PROFILE, "text": "a\u{0}b\\u0000 \u{10ffff}", "n": 7 });
    worker
        .apply(vec![record(ALICE, PROFILE, "a", 1, &odd)], 1)
        .await;
    follow(&mut follower(&schema, &worker.store, "postgres")).await;
    let text = schema.column("SELECT record ->> 'text' FROM records").await;
    assert_eq!(text, ["a\u{fffd}b\\u0000 \u{10ffff}"]);
    assert_follows(&schema, &worker.database.path()).await;
}
