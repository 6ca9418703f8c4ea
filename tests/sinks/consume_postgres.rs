//! What a queue tells late, in Postgres. Holds invariant 10.9.

use huddle_firehose::sink::postgres::PostgresTarget;
use huddle_firehose::sink::target::TableTarget;
use huddle_firehose::sink::{SinkOptions, Target};
use test_support::postgres::Schema;

use crate::consuming::*;
use crate::postgres::tables;

/// The tables of `schema`, as a process that consumes has them.
pub(crate) fn target(schema: &Schema) -> PostgresTarget {
    match SinkOptions::new(None, &schema.url()).unwrap().target {
        Target::Postgres(options) => PostgresTarget::new(options, "consume".into(), tables()),
        other => panic!("{other:?}"),
    }
}

/// Two processes consume one queue, and one of them has read the feed's epochs before the other one.
#[tokio::test]
async fn a_consumer_that_lags_takes_back_neither_a_row_of_postgres_nor_what_is_known_of_a_feed() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let (mut late, mut early) = (target(&schema), target(&schema));
    let before = feeds(&[("e", 1)], 5);
    let since = feeds(&[("e", 1), ("g", 6)], 6);
    late.apply(&[&task("e", 5, HIGH)], &before).await.unwrap();
    early.apply(&[&task("g", 6, LOW)], &since).await.unwrap();
    let mut another = target(&schema);
    another
        .apply(&[&task("e", 5, HIGH)], &before)
        .await
        .unwrap();
    late.apply(&[&task("e", 4, HIGH)], &before).await.unwrap();
    let epochs = "SELECT epoch || ' ' || coalesce(through::text, '-') FROM sink_epochs ORDER BY 1";
    assert_eq!(schema.column(epochs).await, ["e 5", "g -"]);
    let stands = "SELECT change::text FROM records";
    assert_eq!(schema.column(stands).await, ["6"]);
}
