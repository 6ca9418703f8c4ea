//! The views of lexicons in Postgres and D1 are those of the worker's database. Holds invariant 9.16.

use std::sync::Arc;
use std::time::Duration;

use huddle_firehose::delivery::budget::Budget;
use huddle_firehose::lexicon::{Schemas, TypedView};
use huddle_firehose::sink::{Follower, Parts, SinkOptions, TableOptions};
use huddle_firehose::store::change_feed::ChangeFeed;
use huddle_firehose::store::sqlite::SqliteStore;
use serde_json::{Value, json};
use sqlx::Executor;
use test_support::postgres::Schema;
use test_support::tables::Database;

use crate::d1::follow_well as follow_d1;
use crate::effects::*;
use crate::postgres::follow;

const EVENT: &str = "community.example.event";

fn views(properties: &Value) -> Vec<TypedView> {
    views_of(&[EVENT], properties)
}

/// A view for each collection, with the same columns.
fn views_of(collections: &[&str], properties: &Value) -> Vec<TypedView> {
    let strong_ref = json!({"lexicon": 1, "id": "com.atproto.repo.strongRef",
        "defs": {"main": {"type": "object", "properties": {}}}});
    let object = json!({"type": "object", "properties": properties});
    let main = json!({"type": "record", "key": "any", "record": object});
    let of_collection =
        |id: &&str| json!({"lexicon": 1, "id": id, "defs": {"main": main}}).to_string();
    let mut documents = vec![strong_ref.to_string()];
    documents.extend(collections.iter().map(of_collection));
    let schemas = Schemas::load(documents.iter().map(String::as_str)).unwrap();
    schemas.typed_views(|_| true).unwrap()
}

fn follower(url: &str, store: &Arc<SqliteStore>, name: &str, views: &[TypedView]) -> Follower {
    let options = SinkOptions::new(Some(name), url).unwrap();
    let feed: Arc<dyn ChangeFeed> = store.clone();
    let tables = TableOptions {
        request_days: 30,
        views: views.into(),
    };
    Follower::new(Parts {
        name: name.into(),
        sink: options.build(&tables, &feed),
        feed,
        share: Budget::with_sinks(64 << 20, 1).sink_share(),
        retries: 3,
    })
}

fn properties() -> Value {
    json!({
        "name": {"type": "string"},
        "startsAt": {"type": "string", "format": "datetime"},
        "seats": {"type": "integer"},
        "isOpen": {"type": "boolean"},
        "hash": {"type": "bytes"},
        "block": {"type": "cid-link"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "subject": {"type": "ref", "ref": "com.atproto.repo.strongRef"},
        "it's": {"type": "string"},
    })
}

/// Records whose values are of the type of their property, and of every other one.
fn records() -> Vec<Value> {
    let values = [
        json!("text"),
        json!("a\0b\\u0000"),
        json!(7),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(true),
        json!(false),
        json!(null),
        json!(["a", {"b": 1}]),
        json!({"uri": "at://did:plc:bob/a.b.c/d",
        "cid": "bafy"}),
        json!({"$bytes": "AQID"}),
        json!({"$link": "bafyrei"}),
        json!({"$link": 1}),
        json!({"uri": 1, "cid": []}),
        json!("2026-03-01T10:00:00Z"),
        json!("2026-03-01T00:30:00.1239+01:45"),
        json!("2026-12-31T23:59:59.9999999999-23:59"),
        json!("9999-12-31T23:59:59.999999999Z"),
        json!("0001-01-02T00:00:00Z"),
        json!("0000-01-01T00:00:00Z"),
        json!("now"),
        json!("infinity"),
        json!("2026-02-30T10:00:00Z"),
        json!("2026-03-01"),
        json!("2026-03-01T10:00:00"),
        json!(""),
    ];
    let properties = properties();
    let names: Vec<&String> = properties.as_object().unwrap().keys().collect();
    let record = |value: &Value| {
        let fields = names.iter().map(|name| ((*name).clone(), value.clone()));
        Value::Object(fields.collect())
    };
    values.iter().map(record).collect()
}

/// Every column as text, in the form of the worker's database.
const IN_THE_WORKER: &str = "SELECT uri || '|' || coalesce(name, '-') || '|' || coalesce(starts_at, '-') \
    || '|' || coalesce(seats, '-') || '|' || coalesce(is_open, '-') || '|' || coalesce(hash, '-') || '|' \
    || coalesce(block, '-') || '|' || coalesce(tags, '-') || '|' || coalesce(subject_uri, '-') || '|' \
    || coalesce(subject_cid, '-') || '|' || coalesce(it_s, '-') FROM community_example_event ORDER BY uri";
const IN_POSTGRES: &str = "SELECT uri || '|' || coalesce(name, '-') || '|' || coalesce(to_char(starts_at \
    AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), '-') || '|' || coalesce(seats::text, '-') \
    || '|' || coalesce(is_open::text, '-') || '|' || coalesce(hash, '-') || '|' || coalesce(block, '-') \
    || '|' || coalesce(replace(tags::text, ' ', ''), '-') || '|' || coalesce(subject_uri, '-') || '|' \
    || coalesce(subject_cid, '-') || '|' || coalesce(it_s, '-') FROM community_example_event ORDER BY uri";

/// A worker's database with these records, and with views of them.
async fn worker(views: &[TypedView]) -> (Database, Arc<SqliteStore>) {
    let database = Database::new();
    let store = Arc::new(database.store().await);
    store.make_views(views).await.unwrap();
    let effects: Vec<_> = (1..)
        .zip(records())
        .map(|(n, value)| record(ALICE, EVENT, &format!("r{n:02}"), n, &value))
        .collect();
    let last = effects.len() as u64;
    apply(&store, effects, last).await;
    (database, store)
}

#[tokio::test]
async fn whatever_a_record_says_a_column_has_the_same_value_in_both_engines() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let views = views(&properties());
    let (database, store) = worker(&views).await;
    follow(&mut follower(&schema.url(), &store, "postgres", &views)).await;
    let in_the_worker = database.rows(IN_THE_WORKER).await;
    // Postgres has no place for U+0000.
    let expected = in_the_worker
        .iter()
        .map(|row| row.replace('\0', "\u{fffd}"));
    let expected: Vec<String> = expected.collect();
    assert_eq!(schema.column(IN_POSTGRES).await, expected);
    assert_eq!(expected.len(), records().len());
}

const NAMES: &str = "SELECT name FROM lexicon_views ORDER BY name";
/// What the operator has under the name of a view.
const MINE: &str = "SELECT mine FROM community_example_event";

#[tokio::test]
async fn views_follow_their_lexicons_and_those_of_another_sink_stay() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let database = Database::new();
    let store = Arc::new(database.store().await);
    apply(
        &store,
        vec![record(ALICE, EVENT, "a", 1, &json!({"name": "x"}))],
        1,
    )
    .await;
    let first = views(&json!({"name": {"type": "string"}}));
    follow(&mut follower(&schema.url(), &store, "one", &first)).await;
    let names = "SELECT coalesce(name, '-') FROM community_example_event";
    assert_eq!(schema.column(names).await, ["x"]);

    follow(&mut follower(&schema.url(), &store, "other", &[])).await;
    assert_eq!(schema.column(NAMES).await, ["community_example_event"]);

    let changed = views(&json!({"title": {"type": "string"}}));
    follow(&mut follower(&schema.url(), &store, "one", &changed)).await;
    let titles = "SELECT coalesce(title, '-') FROM community_example_event";
    assert_eq!(schema.column(titles).await, ["-"]);

    // Something of the operator's reads the view, so it stays as it is, and the rows are delivered.
    schema
        .execute("CREATE VIEW mine AS SELECT title FROM community_example_event")
        .await;
    apply(&store, vec![record(ALICE, EVENT, "b", 2, &json!({}))], 2).await;
    follow(&mut follower(&schema.url(), &store, "one", &first)).await;
    assert_eq!(schema.column(titles).await.len(), 2);

    schema.execute("DROP VIEW mine").await;
    follow(&mut follower(&schema.url(), &store, "one", &[])).await;
    assert_eq!(schema.column(NAMES).await, Vec::<String>::new());
    let left = "SELECT coalesce(to_regclass('community_example_event')::text, '-')";
    assert_eq!(schema.column(left).await, ["-"]);
}

/// A report of the operator reads some views for minutes, while the lexicons change.
#[tokio::test]
async fn views_that_are_being_read_are_replaced_later_and_hold_up_neither_rows_nor_other_views() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let database = Database::new();
    let store = Arc::new(database.store().await);
    let mut collections = vec![EVENT, "community.example.place", "community.example.tour"];
    let first = views_of(&collections, &json!({"name": {"type": "string"}}));
    apply(&store, vec![put(ALICE, "a", 1)], 1).await;
    follow(&mut follower(&schema.url(), &store, "one", &first)).await;

    let mut report = schema.connect().await;
    let read = "BEGIN; SELECT name FROM community_example_event; \
                SELECT name FROM community_example_place";
    report.execute(read).await.unwrap();
    collections.push("community.example.venue");
    let changed = views_of(&collections, &json!({"title": {"type": "string"}}));
    apply(&store, vec![put(ALICE, "b", 2)], 2).await;
    let mut sink = follower(&schema.url(), &store, "one", &changed);
    follow(&mut sink).await;
    let uris = schema.column("SELECT uri FROM records").await;
    assert_eq!(uris.len(), 2);
    let assert_new = async |names: &[&str]| {
        for name in names {
            let titles = format!("SELECT title FROM {}", name.replace('.', "_"));
            assert_eq!(schema.column(&titles).await, Vec::<String>::new());
        }
    };
    assert_new(&collections[2..]).await;

    report.execute("COMMIT").await.unwrap();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(60)).await;
    tokio::time::resume();
    sink.ask_for_upkeep();
    follow(&mut sink).await;
    assert_new(&collections).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn d1_has_the_same_views_and_they_follow_their_lexicons() {
    let Some(d1) = crate::d1::database().await else {
        return;
    };
    let all = views(&properties());
    let (database, store) = worker(&all).await;
    follow_d1(&mut follower(&d1.url(), &store, "one", &all)).await;
    let expected = database.rows(IN_THE_WORKER).await;
    assert_eq!(d1.column(IN_THE_WORKER).await, expected);

    follow_d1(&mut follower(&d1.url(), &store, "other", &[])).await;
    assert_eq!(d1.column(NAMES).await, ["community_example_event"]);

    let changed = views(&json!({"title": {"type": "string"}}));
    follow_d1(&mut follower(&d1.url(), &store, "one", &changed)).await;
    let titles = "SELECT coalesce(title, '-') FROM community_example_event";
    assert_eq!(d1.column(titles).await.len(), expected.len());

    follow_d1(&mut follower(&d1.url(), &store, "one", &[])).await;
    assert_eq!(d1.column(NAMES).await, Vec::<String>::new());
    // A table of the operator's has the name of the view.
    d1.execute(&["CREATE TABLE community_example_event (mine TEXT)"])
        .await;
    follow_d1(&mut follower(&d1.url(), &store, "one", &all)).await;
    let mine = "SELECT count(*) FROM community_example_event";
    assert_eq!(d1.column(mine).await, ["0"]);
}

/// To D1 a name is the same in any case.
#[tokio::test(flavor = "multi_thread")]
async fn a_view_of_the_operator_stays_in_d1_and_that_of_the_lexicon_is_made_when_it_is_gone() {
    let Some(d1) = crate::d1::database().await else {
        return;
    };
    let all = views(&properties());
    let (_database, store) = worker(&all).await;
    d1.execute(&["CREATE VIEW Community_Example_Event AS SELECT 'x' AS mine"])
        .await;
    follow_d1(&mut follower(&d1.url(), &store, "one", &all)).await;
    let rows = d1.column("SELECT uri FROM records").await;
    assert_eq!(rows.len(), records().len());
    assert_eq!(d1.column(MINE).await, ["x"]);
    assert_eq!(d1.column(NAMES).await, Vec::<String>::new());

    d1.execute(&["DROP VIEW Community_Example_Event"]).await;
    follow_d1(&mut follower(&d1.url(), &store, "one", &all)).await;
    assert_eq!(d1.column(NAMES).await, ["community_example_event"]);
}

/// A table is in the place of a view, and the next start wants other views.
async fn with_a_table_in_the_place_of_a_view(wanted: &[TypedView]) {
    let Some(d1) = crate::d1::database().await else {
        return;
    };
    let first = views(&properties());
    let (_database, store) = worker(&first).await;
    follow_d1(&mut follower(&d1.url(), &store, "one", &first)).await;
    d1.execute(&[
        "DROP VIEW community_example_event",
        "CREATE TABLE Community_Example_Event AS SELECT 'y' AS mine",
    ])
    .await;
    apply(&store, vec![put(ALICE, "later", 100)], 100).await;
    follow_d1(&mut follower(&d1.url(), &store, "one", wanted)).await;
    let later = d1.column("SELECT uri FROM records WHERE rkey = 'later'");
    assert_eq!(later.await.len(), 1);
    assert_eq!(d1.column(MINE).await, ["y"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_cannot_be_made_anew_stops_no_delivery_to_d1() {
    let changed = views(&json!({"title": {"type": "string"}}));
    with_a_table_in_the_place_of_a_view(&changed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_cannot_be_dropped_stops_no_delivery_to_d1() {
    with_a_table_in_the_place_of_a_view(&[]).await;
}
