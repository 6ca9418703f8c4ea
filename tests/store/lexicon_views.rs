//! The views that are made from lexicons.

use cid::Cid;
use huddle_firehose::atproto::datetime;
use huddle_firehose::atproto::json::json_length;
use huddle_firehose::lexicon::{Schemas, TypedView, is_own_name};
use huddle_firehose::model::Validity;
use huddle_firehose::store::StoreError;
use huddle_firehose::store::plan::effect::{Effect, RecordChange, RecordUpsert};
use huddle_firehose::store::sqlite::ViewChanges;
use ipld_core::ipld::Ipld;
use serde_json::{Value, json};

use crate::fixture::*;

const EVENT: &str = "community.example.event";
const VIEW: &str = "community_example_event";

/// A document of [`EVENT`] with these properties.
fn document(properties: &Value) -> String {
    let object = json!({"type": "object", "properties": properties});
    let main = json!({"type": "record", "key": "any", "record": object});
    json!({"lexicon": 1, "id": EVENT, "defs": {"main": main}}).to_string()
}

fn views(properties: &Value) -> Vec<TypedView> {
    let strong_ref = json!({"lexicon": 1, "id": "com.atproto.repo.strongRef",
        "defs": {"main": {"type": "object", "properties": {}}}});
    let documents = [document(properties), strong_ref.to_string()];
    let schemas = Schemas::load(documents.iter().map(String::as_str)).unwrap();
    schemas.typed_views(|_| true).unwrap()
}

fn starts_at() -> Value {
    json!({"startsAt": {"type": "string", "format": "datetime"}})
}

fn event_with(rkey: &str, n: u64, record: &Value, validity: Validity) -> Effect {
    let ipld: Ipld = serde_json::from_value(record.clone()).unwrap();
    let cbor = serde_ipld_dagcbor::to_vec(&ipld).unwrap();
    Effect::records(vec![RecordChange::Upsert(Box::new(RecordUpsert {
        cid: Cid::default(),
        json_bytes: json_length(&cbor).unwrap(),
        cbor: cbor.into(),
        validity,
        judgement: judgement(),
        version: version(ALICE, EVENT, rkey, n),
        projection: None,
    }))])
}

fn event(rkey: &str, n: u64, record: &Value) -> Effect {
    event_with(rkey, n, record, Validity::Valid)
}

/// The names of the view's columns.
async fn columns(database: &Database) -> Vec<String> {
    database
        .column("SELECT name FROM pragma_table_info('community_example_event')")
        .await
}

#[tokio::test]
async fn a_view_has_a_column_for_each_property_in_the_form_of_its_type() {
    let database = Database::new().await;
    let properties = json!({
        "name": {"type": "string"},
        "startsAt": {"type": "string", "format": "datetime"},
        "seats": {"type": "integer"},
        "isOpen": {"type": "boolean"},
        "hash": {"type": "bytes"},
        "block": {"type": "cid-link"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "subject": {"type": "ref", "ref": "com.atproto.repo.strongRef"},
        "uri": {"type": "string"},
        "order": {"type": "integer"},
        "it's": {"type": "string"},
    });
    database
        .store
        .make_views(&views(&properties))
        .await
        .unwrap();
    let record = json!({
        "$type": EVENT,
        "name": "Café",
        "startsAt": "2026-03-01T10:00:00.1239+01:45",
        "seats": i64::MIN,
        "isOpen": false,
        "hash": {"$bytes": "AQIDBA"},
        "block": {"$link": "bafyrei"},
        "tags": ["a", {"b": 1}],
        "subject": {"uri": "at://did:plc:bob/a.b.c/d", "cid": "bafy"},
        "uri": "https://example.com",
        "order": 3,
        "it's": "quoted",
        "unknown": 1,
    });
    database.apply(&[event("one", 1, &record)]).await;
    assert_eq!(
        columns(&database).await,
        [
            "uri",
            "did",
            "rkey",
            "cid",
            "rev",
            "indexed_at",
            "block",
            "hash",
            "is_open",
            "it_s",
            "name",
            "record_order",
            "record_uri",
            "seats",
            "starts_at",
            "subject_cid",
            "subject_uri",
            "tags",
        ]
    );
    let row = database
        .column(
            "SELECT json_array(uri, did, rkey, block, hash, is_open, it_s, name, record_order, \
             record_uri, seats, starts_at, subject_cid, subject_uri, tags) \
             FROM community_example_event",
        )
        .await;
    let expected = json!([
        "at://did:plc:alice/community.example.event/one",
        ALICE,
        "one",
        "bafyrei",
        "AQIDBA",
        0,
        "quoted",
        "Café",
        3,
        "https://example.com",
        i64::MIN,
        "2026-03-01T08:15:00.123Z",
        "bafy",
        "at://did:plc:bob/a.b.c/d",
        "[\"a\",{\"b\":1}]",
    ]);
    let row: Value = serde_json::from_str(&row[0]).unwrap();
    assert_eq!(row, expected);
}

#[tokio::test]
async fn a_datetime_is_the_same_moment_as_in_the_tables_that_code_makes() {
    let database = Database::new().await;
    database
        .store
        .make_views(&views(&starts_at()))
        .await
        .unwrap();
    let texts = [
        "2026-03-01T10:00:00Z",
        "2026-03-01T10:00:00+00:00",
        "2026-03-01T00:30:00+01:45",
        "2024-02-28T20:00:00-07:00",
        "2026-12-31T23:59:59.9999-00:30",
        "2026-12-31T23:59:59.5Z",
        "2026-12-31T23:59:59.05+23:59",
        "9999-12-31T23:59:59.999999999Z",
        "0001-01-02T00:00:00Z",
        "2026-03-01T10:00:00.1239999999999-05:30",
        // None of these is a datetime.
        "now",
        "nowZ",
        "",
        "2460000.5",
        "tomorrow",
        "2026-02-29T10:00:00Z!",
        "2026-02-29T10:00:00Z",
        "2026-04-31T10:00:00Z",
        "2026-03-01T10:00:00",
        "0000-01-01T00:00:00Z",
    ];
    let effects: Vec<Effect> = texts
        .iter()
        .enumerate()
        .map(|(n, text)| event(&format!("{n:02}"), n as u64 + 1, &json!({"startsAt": text})))
        .collect();
    database.apply(&effects).await;
    let found: Vec<Option<String>> =
        sqlx::query_scalar("SELECT starts_at FROM community_example_event ORDER BY rkey")
            .fetch_all(database.store.reader())
            .await
            .unwrap();
    for (text, found) in texts.iter().zip(&found) {
        let expected = datetime::parse_utc(text).and_then(datetime::to_sortable_text);
        assert_eq!(*found, expected, "{text}");
    }
}

#[tokio::test]
async fn what_is_invalid_deleted_stale_or_of_a_hidden_account_is_left_out() {
    let database = Database::new().await;
    database
        .store
        .make_views(&views(&starts_at()))
        .await
        .unwrap();
    let invalid = Validity::Invalid {
        reason: "it is".to_owned(),
    };
    let nothing = json!({});
    database
        .apply(&[
            event("valid", 1, &nothing),
            event_with("invalid", 2, &nothing, invalid),
            event_with("unvalidated", 3, &nothing, Validity::Unvalidated),
            event("deleted", 4, &nothing),
            event("stale", 5, &nothing),
        ])
        .await;
    database.apply(&[delete(ALICE, EVENT, "deleted", 6)]).await;
    database
        .execute("INSERT INTO stale_records SELECT uri, did, 0 FROM records WHERE rkey = 'stale'")
        .await;
    let rows = "SELECT rkey FROM community_example_event ORDER BY rkey";
    assert_eq!(database.column(rows).await, ["unvalidated", "valid"]);
    database
        .apply(&[account(ALICE, Some("takendown"), 7)])
        .await;
    assert!(database.column(rows).await.is_empty());
}

#[tokio::test]
async fn a_value_of_another_type_is_null() {
    let database = Database::new().await;
    let properties = json!({
        "a": {"type": "string"}, "b": {"type": "integer"}, "c": {"type": "boolean"},
        "d": {"type": "array", "items": {"type": "string"}}, "e": {"type": "cid-link"},
        "f": {"type": "string", "format": "datetime"},
        "g": {"type": "ref", "ref": "com.atproto.repo.strongRef"},
    });
    database
        .store
        .make_views(&views(&properties))
        .await
        .unwrap();
    let unvalidated = |rkey, n, record: Value| event_with(rkey, n, &record, Validity::Unvalidated);
    database
        .apply(&[
            unvalidated(
                "1",
                1,
                json!({"a": 1, "b": "1", "c": 1, "d": "[]", "e": "x", "f": 5, "g": "h"}),
            ),
            unvalidated(
                "2",
                2,
                json!({"a": null, "b": null, "d": null, "e": {"$link": 1}}),
            ),
            unvalidated("3", 3, json!({"g": {"uri": 1, "cid": []}})),
        ])
        .await;
    let known = "SELECT count(coalesce(a, b, c, d, e, f, g_uri, g_cid)) \
                 FROM community_example_event";
    assert_eq!(database.number(known).await, 0);
}

#[tokio::test]
async fn a_view_follows_its_schema_and_goes_with_it() {
    let database = Database::new().await;
    let name = json!({"name": {"type": "string"}});
    let made = |changes: &ViewChanges| changes.made.clone();
    let first = database.store.make_views(&views(&name)).await.unwrap();
    assert_eq!(made(&first), [VIEW]);
    let again = database.store.make_views(&views(&name)).await.unwrap();
    assert_eq!(again, ViewChanges::default());
    let changed = database
        .store
        .make_views(&views(&starts_at()))
        .await
        .unwrap();
    assert_eq!(made(&changed), [VIEW]);
    assert_eq!(columns(&database).await.last().unwrap(), "starts_at");

    // One that a hand has dropped is made again.
    database.execute("DROP VIEW community_example_event").await;
    let again = database
        .store
        .make_views(&views(&starts_at()))
        .await
        .unwrap();
    assert_eq!(made(&again), [VIEW]);

    let gone = database.store.make_views(&[]).await.unwrap();
    assert_eq!(gone.dropped, [VIEW]);
    assert!(columns(&database).await.is_empty());
    assert_eq!(
        database.number("SELECT count(*) FROM lexicon_views").await,
        0
    );
}

#[tokio::test]
async fn a_name_that_something_else_has_is_refused_and_nothing_is_changed() {
    let database = Database::new().await;
    database
        .execute("CREATE TABLE Community_Example_Event (a)")
        .await;
    let error = database
        .store
        .make_views(&views(&starts_at()))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, StoreError::NameTaken { name, .. } if name == VIEW),
        "{error}"
    );
    assert_eq!(columns(&database).await, ["a"]);
}

#[tokio::test]
async fn an_index_is_used_by_the_view_and_follows_its_column() {
    let database = Database::new().await;
    let first = views(&starts_at());
    database.store.make_views(&first).await.unwrap();
    let (view, column) = (&first[0], &first[0].columns[0]);
    let made = database.store.make_index(view, column).await.unwrap();
    assert_eq!(made.as_deref(), Some("community_example_event__starts_at"));
    assert_eq!(database.store.make_index(view, column).await.unwrap(), None);

    // A datetime that SQLite would take for the current time does not stop the writer.
    let records = ["now", "2026-03-01T10:00:00Z", ""].map(|text| json!({"startsAt": text}));
    let effects: Vec<Effect> = records
        .iter()
        .enumerate()
        .map(|(n, record)| event(&n.to_string(), n as u64 + 1, record))
        .collect();
    assert_eq!(database.apply(&effects).await.records, 3);
    let query =
        "SELECT rkey FROM community_example_event WHERE starts_at > '2026-02' ORDER BY starts_at";
    assert_eq!(database.column(query).await, ["1"]);
    let plan = database.plan(query).await;
    assert!(
        plan.contains("USING INDEX community_example_event__starts_at"),
        "{plan}"
    );
    assert!(!plan.contains("TEMP B-TREE"), "{plan}");

    let with_text = views(&json!({"startsAt": {"type": "string"}}));
    let changes = database.store.make_views(&with_text).await.unwrap();
    assert_eq!(changes.made_indexes, ["community_example_event__starts_at"]);
    let plan = database.plan(query).await;
    assert!(
        plan.contains("USING INDEX community_example_event__starts_at"),
        "{plan}"
    );
    let without = views(&json!({"name": {"type": "string"}}));
    let changes = database.store.make_views(&without).await.unwrap();
    assert_eq!(
        changes.dropped_indexes,
        ["community_example_event__starts_at"]
    );
    let indexes =
        "SELECT count(*) FROM sqlite_master WHERE name LIKE '%\\_\\_starts\\_at' ESCAPE '\\'";
    assert_eq!(database.number(indexes).await, 0);
}

#[tokio::test]
async fn an_index_is_dropped_on_request() {
    let database = Database::new().await;
    let views = views(&starts_at());
    database.store.make_views(&views).await.unwrap();
    let (view, column) = (&views[0], &views[0].columns[0]);
    database.store.make_index(view, column).await.unwrap();
    assert_eq!(
        database.store.indexed_columns(EVENT).await.unwrap(),
        ["starts_at"]
    );
    assert!(database.store.drop_index(view, column).await.unwrap());
    assert!(!database.store.drop_index(view, column).await.unwrap());
}

/// A migration may drop what the views read.
#[tokio::test]
async fn views_are_dropped_before_a_migration_and_made_again_after_it() {
    let database = Database::new().await;
    database
        .store
        .make_views(&views(&starts_at()))
        .await
        .unwrap();
    database
        .execute(
            "DROP INDEX records_by_did;
             DELETE FROM _sqlx_migrations WHERE version = 31",
        )
        .await;
    let database = database.reopen().await;
    assert!(columns(&database).await.is_empty());
    let changes = database
        .store
        .make_views(&views(&starts_at()))
        .await
        .unwrap();
    assert_eq!(changes.made, [VIEW]);
}

/// What `lexicon check` refuses, so that a worker need not.
#[tokio::test]
async fn every_name_of_the_program_that_a_view_could_have_is_known_to_the_lexicons() {
    let database = Database::new().await;
    let names = "SELECT lower(name) FROM sqlite_master WHERE name LIKE '%\\_%\\_%' ESCAPE '\\' \
                 AND name NOT LIKE '\\_%' ESCAPE '\\'";
    let names = database.column(names).await;
    assert!(!names.is_empty());
    for name in names {
        assert!(is_own_name(&name), "{name}");
    }
}
