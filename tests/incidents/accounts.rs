//! Incidents 8, 14, 18 and 19: what is said of accounts, late, twice, or about nobody we know.

use huddle_firehose::atproto::skim::splice_seq;
use simulated_network::frame;
use test_support::tables::Database;

use crate::scribe::{ANN, BOB, Scribe};
use crate::{dead_letters, index, index_both_ways, numbers};

const NOTE: &str = "com.huddle.note/1";

async fn accounts(database: &Database) -> Vec<String> {
    let sql = "SELECT did || ' ' || coalesce(handle, '?') || ' ' || \
               iif(active, 'active', status) FROM accounts ORDER BY did";
    database.rows(sql).await
}

// === Incident 8 ===

#[tokio::test]
async fn incident_08_a_deletion_that_is_told_again_does_not_erase_what_came_after_it() {
    let mut scribe = Scribe::new();
    scribe.put(ANN, NOTE, 1);
    scribe.account(ANN, Some("deleted"));
    let deleted = scribe.log[1].clone();
    scribe.account(ANN, None);
    scribe.put(ANN, NOTE, 2);
    // Relays number anew what they pass on, but keep its time.
    scribe.emit(|stamp| splice_seq(&deleted, stamp.seq).unwrap().into());
    for database in index_both_ways(&scribe.log).await {
        assert_eq!(numbers(&database).await, [format!("ann/{NOTE} 2")]);
        assert_eq!(accounts(&database).await, [format!("{ANN} ? active")]);
    }
}

#[tokio::test]
async fn incident_08_an_account_that_is_hidden_and_comes_back_has_all_its_records() {
    let mut scribe = Scribe::new();
    scribe.put(ANN, NOTE, 1);
    scribe.account(ANN, Some("deactivated"));
    let visible = "SELECT uri FROM visible_records";
    let hidden = index(scribe.log.clone()).await;
    assert_eq!(hidden.rows(visible).await, [""; 0]);
    scribe.account(ANN, None);
    let shown = index(scribe.log).await;
    assert_eq!(shown.rows(visible).await, [format!("at://{ANN}/{NOTE}")]);
}

// === Incident 14 ===

#[tokio::test]
async fn incident_14_an_identity_of_nobody_known_is_kept_and_records_need_none() {
    let mut scribe = Scribe::new();
    scribe.identity(ANN, "ann.example");
    scribe.put(BOB, NOTE, 1);
    scribe.account(ANN, Some("suspended"));
    let database = index(scribe.log).await;
    let expected = format!("{ANN} ann.example suspended");
    assert_eq!(accounts(&database).await, [expected]);
    assert_eq!(numbers(&database).await, [format!("bob/{NOTE} 1")]);
}

// === Incidents 18 and 19 ===

#[tokio::test]
async fn incident_18_a_sync_breaks_neither_the_stream_nor_the_next_commit() {
    let mut scribe = Scribe::new();
    scribe.put(ANN, NOTE, 1);
    // An import: the contents change, and no commit tells.
    scribe.apply(ANN, vec![("com.huddle.note/2", Some(vec![0xa0]))]);
    let (_, blocks) = scribe.repository(ANN).sync_frame().unwrap();
    // The event's rev is not the one that is signed in the block.
    scribe.emit(|stamp| frame::sync(stamp, ANN, "3mptbypluud2a", blocks));
    scribe.put(ANN, "com.huddle.note/3", 3);
    let database = index(scribe.log).await;
    assert_eq!(dead_letters(&database).await, [""; 0]);
    let expected = [
        format!("ann/{NOTE} 1"),
        "ann/com.huddle.note/3 3".to_owned(),
    ];
    assert_eq!(numbers(&database).await, expected);
}

#[tokio::test]
async fn incident_19_a_new_key_costs_no_commit_of_either_key() {
    let mut scribe = Scribe::new();
    scribe.put(ANN, NOTE, 1);
    let by_the_old_key = scribe.log[0].clone();
    scribe.rotate_key(ANN);
    scribe.identity(ANN, "ann.example");
    scribe.sync(ANN);
    scribe.put(ANN, "com.huddle.note/2", 2);
    scribe.emit(|stamp| splice_seq(&by_the_old_key, stamp.seq).unwrap().into());
    let database = index(scribe.log).await;
    assert_eq!(dead_letters(&database).await, [""; 0]);
    assert_eq!(numbers(&database).await.len(), 2);
}
