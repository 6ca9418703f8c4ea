//! Tests what the vectors do not cover: the embedded schemas, paths of errors, references, unions,
//! depth. Holds invariant 9.2.

use huddle_firehose::lexicon::{SchemaError, Schemas, Validation, ValidationError};
use proptest::prelude::*;
use serde_json::{Value, json};

const CID: &str = "bafyreiclp443lavogvhj3d2ob2cxbfuscni2k5jk7bebjzg7khl3esabwq";

fn slot_offer() -> Value {
    json!({
        "$type": "com.huddle.slotOffer",
        "title": "chess lesson",
        "description": "word ".repeat(3000),
        "startsAt": "2026-03-01T10:00:00+01:00",
        "endsAt": "2026-03-01T10:30:00Z",
        "timezone": "Europe/Berlin",
        "durationMinutes": 30,
        "capacity": 0,
        "location": "東京・渋谷",
        "tags": ["chess", "yoga"],
        "status": "unheard-of",
        "price": {"amount": 3},
        "createdAt": "2026-01-05T08:00:00.123Z",
    })
}

fn verdict(record: &Value) -> Validation {
    let collection = record["$type"].as_str().unwrap();
    Schemas::embedded().unwrap().validate(collection, record)
}

/// Schemas of one document `com.example.test` with these definitions.
fn schemas(defs: &Value) -> Result<Schemas, SchemaError> {
    let document = json!({"lexicon": 1, "id": "com.example.test", "defs": defs});
    Schemas::load([document.to_string().as_str()])
}

/// Schemas of a record `com.example.test` with the one field `field`.
fn with_field(field: &Value, defs: &Value) -> Result<Schemas, SchemaError> {
    let mut defs = defs.clone();
    defs["main"] = json!({
        "type": "record", "key": "any",
        "record": {"type": "object", "properties": {"field": field}},
    });
    schemas(&defs)
}

/// Why `value` is refused. `None` if it is not.
fn refusal(schemas: &Schemas, value: &Value) -> Option<String> {
    let record = json!({"$type": "com.example.test", "field": value});
    match schemas.validate("com.example.test", &record) {
        Validation::Invalid(error) => Some(error.to_string()),
        _ => None,
    }
}

#[test]
fn an_ordinary_record_is_valid_with_unknown_fields_and_values() {
    assert_eq!(verdict(&slot_offer()), Validation::Valid);
}

#[test]
fn every_huddle_collection_has_a_schema() {
    for collection in [
        "com.huddle.booking",
        "com.huddle.bookingRequest",
        "com.huddle.slotOffer",
    ] {
        assert_eq!(
            verdict(&json!({ "$type": collection })),
            Validation::Invalid(ValidationError {
                path: match collection {
                    "com.huddle.booking" => "offer",
                    "com.huddle.bookingRequest" => "subject",
                    _ => "title",
                }
                .into(),
                reason: "is missing".into(),
            })
        );
    }
}

#[test]
fn a_collection_without_a_record_schema_is_not_validated() {
    for collection in ["com.huddle.profile", "com.atproto.repo.strongRef"] {
        assert_eq!(
            verdict(&json!({ "$type": collection })),
            Validation::NoSchema
        );
    }
}

#[test]
fn an_error_names_the_path_that_breaks_the_schema() {
    for (field, value, error) in [
        (
            "$type",
            json!("com.huddle.booking"),
            "$type: is not the collection",
        ),
        (
            "title",
            json!("x".repeat(60_000)),
            "title: has 60000 bytes, more than 3000",
        ),
        (
            "title",
            json!("🎉".repeat(301)),
            "title: has more than 300 graphemes",
        ),
        (
            "startsAt",
            json!("tomorrow"),
            "startsAt: is not a valid datetime",
        ),
        ("capacity", json!(-1), "capacity: may not be -1"),
        (
            "capacity",
            json!(1.0),
            "capacity: is not an integer of 64 bits",
        ),
        (
            "capacity",
            json!(u64::MAX),
            "capacity: is not an integer of 64 bits",
        ),
        ("tags", json!(["a", null]), "tags[1]: is not a string"),
        ("description", json!(null), "description: is not a string"),
    ] {
        let mut record = slot_offer();
        record[field] = value;

        let verdict = Schemas::embedded()
            .unwrap()
            .validate("com.huddle.slotOffer", &record);

        assert!(
            matches!(&verdict, Validation::Invalid(found) if found.to_string() == error),
            "{verdict:?}, not {error}"
        );
    }

    let booking = json!({
        "$type": "com.huddle.booking",
        "offer": {"uri": "nonsense", "cid": CID},
        "startsAt": "2026-03-01T10:00:00Z", "endsAt": "2026-03-01T10:30:00Z",
        "status": "confirmed", "createdAt": "2026-01-05T08:00:00Z",
    });
    let Validation::Invalid(error) = verdict(&booking) else {
        panic!("valid");
    };
    assert_eq!(error.to_string(), "offer.uri: is not a valid at-uri");
}

#[test]
fn the_path_of_an_error_leads_through_arrays_and_objects() {
    let object = json!({"type": "object", "properties": {"a": {"type": "boolean", "const": true}}});
    let rows = json!({"type": "array", "items": {"type": "array", "items": object}});
    let schemas = with_field(&rows, &json!({})).unwrap();

    let refusal = refusal(&schemas, &json!([[], [{}, {"a": false}]]));

    assert_eq!(refusal.as_deref(), Some("field[1][1].a: is not true"));
}

#[test]
fn tokens_and_records_can_be_referred_to() {
    let defs = json!({"flag": {"type": "token"}});
    let token = with_field(&json!({"type": "ref", "ref": "#flag"}), &defs).unwrap();
    let record = with_field(&json!({"type": "ref", "ref": "#main"}), &defs).unwrap();

    assert_eq!(refusal(&token, &json!("com.example.test#flag")), None);
    assert!(refusal(&token, &json!("com.example.test#other")).is_some());
    assert_eq!(
        refusal(&record, &json!({"$type": "com.example.test"})),
        None
    );
    assert!(refusal(&record, &json!({})).is_some());
}

#[test]
fn a_union_names_its_variants_with_or_without_main() {
    let defs = json!({"a": {"type": "object", "required": ["x"], "properties": {"x": {"type": "integer"}}}});
    let open = json!({"type": "union", "refs": ["#a", "com.example.test#main", "com.other.thing"]});
    let schemas = with_field(&open, &defs).unwrap();

    assert_eq!(
        refusal(&schemas, &json!({"$type": "com.example.test#a", "x": 1})),
        None
    );
    assert!(refusal(&schemas, &json!({"$type": "com.example.test#a"})).is_some());
    assert_eq!(
        refusal(&schemas, &json!({"$type": "com.other.thing"})),
        None
    );
    assert_eq!(refusal(&schemas, &json!({"$type": "com.unheard.of"})), None);
    let inner = json!({"$type": "com.example.test#main", "field": 1});
    assert!(refusal(&schemas, &inner).is_some());
}

#[test]
fn both_forms_of_a_blob_are_accepted() {
    let schema = json!({"type": "blob", "accept": ["image/*"], "maxSize": 10});
    let schemas = with_field(&schema, &json!({})).unwrap();
    let typed = |mime: &str, size: i64| json!({"$type": "blob", "ref": {"$link": CID}, "mimeType": mime, "size": size});

    assert_eq!(refusal(&schemas, &typed("image/png", 10)), None);
    assert_eq!(
        refusal(&schemas, &json!({"cid": CID, "mimeType": "image/png"})),
        None
    );
    for value in [
        typed("image/png", 11),
        typed("image/png", -1),
        typed("imagery/png", 1),
        json!({"cid": CID, "mimeType": "text/plain"}),
        json!({"cid": "?", "mimeType": "image/png"}),
        json!({"cid": CID, "mimeType": "image/png", "size": 1}),
    ] {
        assert!(refusal(&schemas, &value).is_some(), "{value}");
    }
}

#[test]
fn links_bytes_and_blobs_are_not_objects() {
    let schemas = with_field(&json!({"type": "object", "properties": {}}), &json!({})).unwrap();

    assert_eq!(refusal(&schemas, &json!({})), None);
    for value in [
        json!({ "$link": CID }),
        json!({"$bytes": "AQID"}),
        json!({"$type": "blob"}),
    ] {
        assert!(refusal(&schemas, &value).is_some(), "{value}");
    }
}

#[test]
fn an_unknown_value_must_be_an_object() {
    let schemas = with_field(&json!({"type": "unknown"}), &json!({})).unwrap();

    assert_eq!(
        refusal(&schemas, &json!({"$type": "com.unheard.of", "a": [1.5]})),
        None
    );
    for value in [
        json!(false),
        json!("text"),
        json!([]),
        json!({"$bytes": "123"}),
    ] {
        assert!(refusal(&schemas, &value).is_some(), "{value}");
    }
}

#[test]
fn a_recursive_schema_has_a_depth_limit() {
    let node = json!({"node": {"type": "object", "properties": {
        "next": {"type": "array", "items": {"type": "ref", "ref": "#node"}},
    }}});
    let in_node = |inner| json!({ "next": [inner] });
    let in_record = |inner| json!({"$type": "com.example.test", "field": inner});
    for (field, nest) in [
        (
            json!({"type": "ref", "ref": "#node"}),
            &in_node as &dyn Fn(Value) -> Value,
        ),
        (json!({"type": "ref", "ref": "#main"}), &in_record),
        (json!({"type": "union", "refs": ["#main"]}), &in_record),
    ] {
        let schemas = with_field(&field, &node).unwrap();
        let nested = |depth| (0..depth).fold(nest(json!({})), |inner, _| nest(inner));

        let refusal = refusal(&schemas, &nested(200)).unwrap();

        assert!(refusal.ends_with("is nested too deeply"), "{refusal}");
    }
}

#[test]
fn an_invalid_document_is_refused_with_the_reason() {
    for (field, reason) in [
        (
            json!({"type": "ref", "ref": "#nowhere"}),
            "refers to com.example.test#nowhere",
        ),
        (
            json!({"type": "union", "closed": true, "refs": ["com.other.thing"]}),
            "refers to com.other.thing",
        ),
        (
            json!({"type": "ref", "ref": "not a ref"}),
            "is not a reference",
        ),
        (
            json!({"type": "string", "format": "emoji"}),
            "unknown variant `emoji`",
        ),
        (
            json!({"type": "string", "minLength": 3, "maxLength": 2}),
            "above its maximum",
        ),
        (json!({"type": "string", "maxLength": "2"}), "invalid type"),
        (
            json!({"type": "integer", "minimum": 3, "maximum": 2}),
            "above its maximum",
        ),
        (json!({"type": "array"}), "missing field `items`"),
        (json!({"type": "record"}), "unknown variant `record`"),
        (json!({"type": "token"}), "unknown variant `token`"),
        (json!({}), "missing field `type`"),
        (
            json!({"type": "object", "required": ["a"]}),
            "a is required or nullable, but no",
        ),
        (
            json!({"type": "union", "refs": [], "closed": true}),
            "a closed union of nothing",
        ),
    ] {
        let error = with_field(&field, &json!({})).unwrap_err().to_string();
        assert!(error.contains(reason), "{error:?} does not say {reason:?}");
    }
    let object = json!({"type": "object"});
    for (defs, reason) in [
        (json!({"a-b": {"type": "token"}}), "not a name"),
        (
            json!({"main": {"type": "record", "key": "literal:?", "record": object}}),
            "not a type of record key",
        ),
        (json!({"other": {"type": "query"}}), "has to be called main"),
    ] {
        let error = schemas(&defs).unwrap_err().to_string();
        assert!(error.contains(reason), "{error:?} does not say {reason:?}");
    }
}

#[test]
fn a_document_cannot_be_loaded_twice() {
    let document =
        r#"{"lexicon": 1, "id": "com.example.test", "defs": {"main": {"type": "token"}}}"#;

    let error = Schemas::load([document, document]).unwrap_err();

    assert!(matches!(error, SchemaError::Duplicate(id) if id == "com.example.test"));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,20}".prop_map(Value::from),
        Just(json!({ "$link": CID })),
        Just(json!("2026-03-01T10:00:00Z")),
        Just(json!("at://did:plc:a/com.huddle.slotOffer/1")),
    ];
    let key = prop_oneof![
        "[a-z$]{0,5}",
        prop::sample::select(vec![
            "$type", "$link", "$bytes", "uri", "cid", "title", "startsAt", "endsAt", "tags",
        ])
        .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_value_in_any_field_makes_validation_or_projection_panic(
        values in prop::collection::vec(any_json(), 8),
        collection in prop::sample::select(vec![
            "com.huddle.slotOffer", "com.huddle.bookingRequest", "com.huddle.booking",
        ]),
    ) {
        let fields = [
            "title", "startsAt", "endsAt", "tags", "offer", "subject", "status", "createdAt",
        ];
        let mut record = json!({"$type": collection});
        for (field, value) in fields.iter().zip(values) {
            record[*field] = value;
        }
        let _ = Schemas::embedded().unwrap().validate(collection, &record);
        let _ = huddle_firehose::huddle::project(collection, &record);
    }

    #[test]
    fn no_json_makes_validation_or_projection_panic(value in any_json()) {
        let _ = Schemas::embedded().unwrap().validate("com.huddle.slotOffer", &value);
        let _ = huddle_firehose::huddle::project("com.huddle.booking", &value);
        let _ = schemas(&value);
    }
}
