//! What the recording makes of the tables without any failure.

use std::collections::BTreeSet;

use huddle_firehose::model::SourceId;
use huddle_firehose::testing::mock_relay::MockRelay;
use test_support::observed_source;
use test_support::running_worker::undisturbed;
use test_support::tables::{Database, assert_same};

/// Asserts that a worker before `relay` has made the right tables. The fingerprints of dead letters are
/// those of their source, so they are not compared.
pub(crate) async fn assert_is_true(database: &Database, relay: &MockRelay) {
    let source = SourceId::of(&relay.url().parse().unwrap()).to_string();
    let found = database.tables().await;
    let expected = undisturbed().await;
    for (table, expected) in expected
        .iter()
        .filter(|(table, _)| **table != "dead_letters")
    {
        let renamed = found[table]
            .iter()
            .map(|row| row.replace(&source, observed_source::id().as_str()));
        assert_same(table, &BTreeSet::from_iter(renamed), expected);
    }
}
