//! Incidents 8, 14, 18 and 19: events of accounts that come late, twice, or for an unknown account.
//! Holds invariants 2.5 and 2.6.

use huddle_firehose::atproto::skim::splice_seq;
use simulated_network::frame;
use test_support::tables::Database;

use crate::log_builder::{ANN, BOB, LogBuilder};
use crate::{dead_letters, index, index_both_ways, numbers};

const NOTE: &str = "com.huddle.note/1";

async fn accounts(database: &Database) -> Vec<String> {
    let sql = "SELECT did || ' ' || coalesce(handle, '?') || ' ' || \
               iif(active, 'active', status) FROM accounts ORDER BY did";
    database.rows(sql).await
}

// === Incident 8 ===

#[tokio::test]
async fn incident_08_a_repeated_deletion_does_not_erase_what_came_after_it() {
    let mut log_builder = LogBuilder::new();
    log_builder.put(ANN, NOTE, 1);
    log_builder.account(ANN, Some("deleted"));
    let deleted = log_builder.log[1].clone();
    log_builder.account(ANN, None);
    log_builder.put(ANN, NOTE, 2);
    // Relays give events new seqs, but keep their times.
    log_builder.emit(|stamp| splice_seq(&deleted, stamp.seq).unwrap().into());
    for database in index_both_ways(&log_builder.log).await {
        assert_eq!(numbers(&database).await, [format!("ann/{NOTE} 2")]);
        assert_eq!(accounts(&database).await, [format!("{ANN} ? active")]);
    }
}

/// Some clocks have steps of a second or more, and some servers give all their events one time.
#[tokio::test]
async fn incident_08_a_second_deletion_at_the_time_of_the_first_one_counts() {
    let mut log_builder = LogBuilder::new();
    log_builder.put(ANN, NOTE, 1);
    let deleted_at = log_builder.clock;
    for status in [Some("deleted"), None] {
        log_builder.clock = deleted_at;
        log_builder.account(ANN, status);
    }
    log_builder.clock = deleted_at;
    log_builder.put(ANN, NOTE, 2);
    log_builder.clock = deleted_at;
    log_builder.account(ANN, Some("deleted"));
    for database in index_both_ways(&log_builder.log).await {
        assert_eq!(numbers(&database).await, [""; 0]);
        assert_eq!(accounts(&database).await, [format!("{ANN} ? deleted")]);
    }
}

#[tokio::test]
async fn incident_08_an_account_that_is_hidden_and_comes_back_has_all_its_records() {
    let mut log_builder = LogBuilder::new();
    log_builder.put(ANN, NOTE, 1);
    log_builder.account(ANN, Some("deactivated"));
    let visible = "SELECT uri FROM visible_records";
    let hidden = index(log_builder.log.clone()).await;
    assert_eq!(hidden.rows(visible).await, [""; 0]);
    log_builder.account(ANN, None);
    let shown = index(log_builder.log).await;
    assert_eq!(shown.rows(visible).await, [format!("at://{ANN}/{NOTE}")]);
}

// === Incident 14 ===

#[tokio::test]
async fn incident_14_an_identity_of_an_unknown_account_is_kept_and_records_need_none() {
    let mut log_builder = LogBuilder::new();
    log_builder.identity(ANN, "ann.example");
    log_builder.put(BOB, NOTE, 1);
    log_builder.account(ANN, Some("suspended"));
    let database = index(log_builder.log).await;
    let expected = format!("{ANN} ann.example suspended");
    assert_eq!(accounts(&database).await, [expected]);
    assert_eq!(numbers(&database).await, [format!("bob/{NOTE} 1")]);
}

// === Incidents 18 and 19 ===

#[tokio::test]
async fn incident_18_a_sync_breaks_neither_the_stream_nor_the_next_commit() {
    let mut log_builder = LogBuilder::new();
    log_builder.put(ANN, NOTE, 1);
    // An import changes the contents without a commit.
    log_builder.apply(ANN, vec![("com.huddle.note/2", Some(vec![0xa0]))]);
    let (_, blocks) = log_builder.repository(ANN).sync_frame().unwrap();
    // The rev of the event differs from the one in the signed block.
    log_builder.emit(|stamp| frame::sync(stamp, ANN, "3mptbypluud2a", blocks));
    log_builder.put(ANN, "com.huddle.note/3", 3);
    let database = index(log_builder.log).await;
    assert_eq!(dead_letters(&database).await, [""; 0]);
    let expected = [
        format!("ann/{NOTE} 1"),
        "ann/com.huddle.note/3 3".to_owned(),
    ];
    assert_eq!(numbers(&database).await, expected);
}

#[tokio::test]
async fn incident_19_a_new_key_costs_no_commit_of_either_key() {
    let mut log_builder = LogBuilder::new();
    log_builder.put(ANN, NOTE, 1);
    let by_the_old_key = log_builder.log[0].clone();
    log_builder.rotate_key(ANN);
    log_builder.identity(ANN, "ann.example");
    log_builder.sync(ANN);
    log_builder.put(ANN, "com.huddle.note/2", 2);
    log_builder.emit(|stamp| splice_seq(&by_the_old_key, stamp.seq).unwrap().into());
    let database = index(log_builder.log).await;
    assert_eq!(dead_letters(&database).await, [""; 0]);
    assert_eq!(numbers(&database).await.len(), 2);
}
