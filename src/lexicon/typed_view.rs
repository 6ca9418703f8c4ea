//! From a schema to the columns of a view of its records. Which engine makes the view, and how, is not
//! known here.

use std::collections::BTreeMap;

use super::documents::{Definition, RecordBody, RecordSchema, Schema};
use super::format::Format;
use super::names::{column_name, is_own_name, view_name};
use super::schemas::Schemas;
use crate::atproto::syntax::Nsid;

/// The most columns of a view. SQLite and Postgres have limits of 2000 and 1600.
const MAX_COLUMNS: usize = 1000;

/// A reference to one version of a record.
const STRONG_REF: &str = "com.atproto.repo.strongRef";

/// A view of the valid records of one collection: [`super::FIXED_COLUMNS`], then one column for each
/// property of its schema, in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypedView {
    pub collection: Nsid,
    /// In lower case, with at most 63 bytes: it needs no quotation marks in any engine.
    pub name: String,
    pub columns: Vec<Column>,
}

/// A column of a [`TypedView`]. It is NULL where the record has no such value of its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// As the name of the view.
    pub name: String,
    /// The property of the record. It has no quotation mark, backslash or control character.
    pub property: String,
    pub kind: ColumnKind,
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    Boolean,
    /// Base64.
    Bytes,
    /// A moment: in UTC, cut to milliseconds.
    Datetime,
    /// 64 bits with a sign.
    Integer,
    /// An array or an object, as JSON.
    Json,
    /// A CID, of a link.
    Link,
    /// The CID of a reference to a record.
    RefCid,
    /// The URI of a reference to a record.
    RefUri,
    Text,
}

/// Why a schema has no view.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    #[error(
        "lexicon {collection}, defs.main.record.properties: {one} and {other} would both be the \
         column {column}"
    )]
    Columns {
        collection: Nsid,
        column: String,
        one: String,
        other: String,
    },

    #[error(
        "the collection {collection} would have the view {name}, a name that the program has for \
         something of its own; leave the lexicon out"
    )]
    OwnName { collection: Nsid, name: String },

    #[error(
        "lexicon {collection}, defs.main.record.properties: {property:?} cannot be a column, \
         because of a quotation mark, a backslash or a control character"
    )]
    Property { collection: Nsid, property: String },

    #[error(
        "lexicon {collection}, defs.main.record.properties: a view of them would have {columns} \
         columns, more than {MAX_COLUMNS}"
    )]
    TooManyColumns { collection: Nsid, columns: usize },

    #[error("the collections {one} and {other} would both have the view {name}")]
    Views {
        one: Nsid,
        other: Nsid,
        name: String,
    },
}

impl ViewError {
    /// The collections whose documents it is about.
    pub(super) fn collections(&self) -> Vec<&Nsid> {
        match self {
            Self::Columns { collection, .. }
            | Self::OwnName { collection, .. }
            | Self::Property { collection, .. }
            | Self::TooManyColumns { collection, .. } => vec![collection],
            Self::Views { one, other, .. } => vec![one, other],
        }
    }
}

impl ColumnKind {
    /// The name of the value within that of the property, where it is not that itself.
    pub fn part(self) -> Option<&'static str> {
        match self {
            Self::Bytes => Some("$bytes"),
            Self::Link => Some("$link"),
            Self::RefCid => Some("cid"),
            Self::RefUri => Some("uri"),
            Self::Boolean | Self::Datetime | Self::Integer | Self::Json | Self::Text => None,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Bytes => "bytes as base64",
            Self::Datetime => "datetime",
            Self::Integer => "integer",
            Self::Json => "JSON",
            Self::Link | Self::RefCid => "CID",
            Self::RefUri => "at-uri",
            Self::Text => "text",
        }
    }
}

impl Schemas {
    /// The views of the collections that `has_view` names, in the order of their collections.
    ///
    /// # Errors
    /// All reasons why one of them cannot be made.
    pub fn typed_views(
        &self,
        has_view: impl Fn(&Nsid) -> bool,
    ) -> Result<Vec<TypedView>, Vec<ViewError>> {
        let mut views: Vec<TypedView> = Vec::new();
        let mut errors = Vec::new();
        let mut by_name: BTreeMap<String, Nsid> = BTreeMap::new();
        for collection in self.collections().into_iter().filter(has_view) {
            let name = view_name(collection.as_str());
            if is_own_name(&name) {
                errors.push(ViewError::OwnName {
                    collection: collection.clone(),
                    name: name.clone(),
                });
            }
            if let Some(one) = by_name.insert(name.clone(), collection.clone()) {
                let other = collection.clone();
                errors.push(ViewError::Views {
                    one,
                    other,
                    name: name.clone(),
                });
            }
            match self.columns(&collection) {
                Ok(columns) => views.push(TypedView {
                    collection,
                    name,
                    columns,
                }),
                Err(error) => errors.push(error),
            }
        }
        match errors.is_empty() {
            true => Ok(views),
            false => Err(errors),
        }
    }

    fn columns(&self, collection: &Nsid) -> Result<Vec<Column>, ViewError> {
        let Some(Definition::Record(RecordSchema {
            record: RecordBody::Object(object),
            ..
        })) = self.definition(collection.as_str())
        else {
            return Ok(Vec::new());
        };
        let mut columns: BTreeMap<String, Column> = BTreeMap::new();
        for (property, schema) in &object.properties {
            if property.contains(|c: char| matches!(c, '"' | '\\') || c.is_control()) {
                return Err(ViewError::Property {
                    collection: collection.clone(),
                    property: property.clone(),
                });
            }
            for (suffix, kind) in self.kinds_of(schema) {
                let name = column_name(property, suffix);
                let column = Column {
                    name: name.clone(),
                    property: property.clone(),
                    kind: *kind,
                };
                if let Some(one) = columns.insert(name.clone(), column) {
                    return Err(ViewError::Columns {
                        collection: collection.clone(),
                        column: name,
                        one: one.property,
                        other: property.clone(),
                    });
                }
            }
        }
        match columns.len() {
            0..=MAX_COLUMNS => Ok(columns.into_values().collect()),
            columns => Err(ViewError::TooManyColumns {
                collection: collection.clone(),
                columns,
            }),
        }
    }

    /// The columns of a property, each with the end of its name.
    fn kinds_of(&self, schema: &Schema) -> &'static [(&'static str, ColumnKind)] {
        match schema {
            Schema::Boolean(_) => &[("", ColumnKind::Boolean)],
            Schema::Bytes(_) => &[("", ColumnKind::Bytes)],
            Schema::CidLink => &[("", ColumnKind::Link)],
            Schema::Integer(_) => &[("", ColumnKind::Integer)],
            Schema::String(string) if string.format == Some(Format::Datetime) => {
                &[("", ColumnKind::Datetime)]
            }
            Schema::String(_) => &[("", ColumnKind::Text)],
            Schema::Ref(reference) if reference.r#ref == STRONG_REF => {
                &[("_uri", ColumnKind::RefUri), ("_cid", ColumnKind::RefCid)]
            }
            Schema::Ref(reference) => match self.definition(&reference.r#ref) {
                // A definition is never a reference itself.
                Some(Definition::Value(schema)) => self.kinds_of(schema),
                Some(Definition::Token) => &[("", ColumnKind::Text)],
                Some(Definition::Record(_) | Definition::Endpoint) | None => {
                    &[("", ColumnKind::Json)]
                }
            },
            Schema::Array(_)
            | Schema::Blob(_)
            | Schema::Object(_)
            | Schema::Union(_)
            | Schema::Unknown => &[("", ColumnKind::Json)],
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const REF: &str = r#"{"lexicon": 1, "id": "com.atproto.repo.strongRef", "defs": {"main":
        {"type": "object", "properties": {"uri": {"type": "string"}}}}}"#;

    fn record(id: &str, properties: &Value) -> String {
        let object = json!({"type": "object", "properties": properties});
        let defs = json!({
            "main": {"type": "record", "key": "any", "record": object},
            "mode": {"type": "string"}, "off": {"type": "token"}, "list": {"type": "array", "items": {"type": "integer"}},
        });
        json!({"lexicon": 1, "id": id, "defs": defs}).to_string()
    }

    fn views(documents: &[String]) -> Result<Vec<TypedView>, Vec<ViewError>> {
        let documents = documents.iter().map(String::as_str).chain([REF]);
        Schemas::load(documents).unwrap().typed_views(|_| true)
    }

    fn errors(documents: &[String]) -> Vec<String> {
        let errors = views(documents).unwrap_err();
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_property_has_a_column_of_its_type_and_a_reference_has_two() {
        let document = record(
            "com.example.note",
            &json!({
                "startsAt": {"type": "string", "format": "datetime"},
                "name": {"type": "string"},
                "seats": {"type": "integer"},
                "isOpen": {"type": "boolean"},
                "hash": {"type": "bytes"},
                "block": {"type": "cid-link"},
                "picture": {"type": "blob"},
                "tags": {"type": "array", "items": {"type": "string"}},
                "place": {"type": "union", "refs": ["com.example.other"]},
                "subject": {"type": "ref", "ref": "com.atproto.repo.strongRef"},
                "mode": {"type": "ref", "ref": "#mode"},
                "list": {"type": "ref", "ref": "#list"},
                "off": {"type": "ref", "ref": "#off"},
                "parent": {"type": "ref", "ref": "com.example.note"},
                "uri": {"type": "string", "format": "uri"},
            }),
        );
        let views = views(&[document]).unwrap();
        assert_eq!(views.len(), 1);
        assert_eq!(views[0].name, "com_example_note");
        let columns: Vec<String> = views[0]
            .columns
            .iter()
            .map(|column| format!("{} {} {:?}", column.name, column.property, column.kind))
            .collect();
        assert_eq!(
            columns,
            [
                "block block Link",
                "hash hash Bytes",
                "is_open isOpen Boolean",
                "list list Json",
                "mode mode Text",
                "name name Text",
                "off off Text",
                "parent parent Json",
                "picture picture Json",
                "place place Json",
                "record_uri uri Text",
                "seats seats Integer",
                "starts_at startsAt Datetime",
                "subject_cid subject RefCid",
                "subject_uri subject RefUri",
                "tags tags Json",
            ]
        );
    }

    #[test]
    fn two_properties_with_one_column_are_refused() {
        let text = json!({"type": "string"});
        for (one, other, column) in [
            ("startsAt", "starts-at", "starts_at"),
            ("recordUri", "uri", "record_uri"),
        ] {
            let document = record("com.example.note", &json!({one: text, other: text}));
            let found = errors(&[document]);
            assert_eq!(found.len(), 1);
            for part in ["lexicon com.example.note", one, other, column] {
                assert!(found[0].contains(part), "{found:?}");
            }
        }
    }

    #[test]
    fn two_collections_with_one_view_are_refused() {
        let none = json!({});
        let found = errors(&[
            record("com.example.bookingRequest", &none),
            record("com.example.booking.request", &none),
        ]);
        assert_eq!(
            found,
            [
                "the collections com.example.booking.request and com.example.bookingRequest would both \
              have the view com_example_booking_request"
            ]
        );
    }

    #[test]
    fn a_property_that_sql_cannot_name_is_refused_and_so_are_too_many() {
        let document = record("com.example.note", &json!({"a\"b": {"type": "string"}}));
        assert!(errors(&[document])[0].contains(r#""a\"b" cannot be a column"#));
        let many = (0..=MAX_COLUMNS).map(|n| (format!("p{n}"), json!({"type": "string"})));
        let document = record("com.example.note", &Value::Object(many.collect()));
        assert!(errors(&[document])[0].ends_with("have 1001 columns, more than 1000"));
    }
}
