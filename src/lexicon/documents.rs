//! Lexicon documents as types, and the checks that a document is consistent.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::format::Format;
use crate::atproto::syntax::Nsid;

/// A document that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("lexicon document {document}, definition {definition}: {reason}")]
    Definition {
        document: String,
        definition: String,
        reason: String,
    },

    #[error("lexicon document {0} occurs twice")]
    Duplicate(String),

    #[error("not a lexicon document: {0}")]
    Malformed(#[from] serde_json::Error),

    #[error("lexicon document {document} is written in version {version} of the language, not 1")]
    Version { document: String, version: u64 },
}

/// One document: the definitions of one NSID.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) id: Nsid,
    pub(super) defs: BTreeMap<String, Definition>,
    /// What was read as each definition.
    pub(super) sources: BTreeMap<String, DefinitionSource>,
}

/// The text of a definition.
#[derive(Debug)]
pub(super) struct DefinitionSource {
    /// As JSON, with sorted keys and without white space.
    pub(super) json: String,
    /// The names of the definitions that it refers to.
    pub(super) refs: Vec<String>,
}

/// A document with unparsed definitions.
#[derive(Deserialize)]
struct Envelope {
    lexicon: u64,
    id: Nsid,
    defs: BTreeMap<String, Value>,
}

/// A named definition of a document.
#[derive(Debug)]
pub(super) enum Definition {
    /// A query, procedure, subscription or permission set. Records cannot contain one, so its
    /// content is not read.
    Endpoint,
    Record(RecordSchema),
    Token,
    Value(Schema),
}

#[derive(Debug, Deserialize)]
pub(super) struct RecordSchema {
    key: String,
    pub(super) record: RecordBody,
}

/// A record is always an object.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(super) enum RecordBody {
    Object(ObjectSchema),
}

/// The requirements for a value. Descriptions, defaults and known values require nothing and are
/// not read.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(super) enum Schema {
    Array(ArraySchema),
    Blob(BlobSchema),
    Boolean(BooleanSchema),
    Bytes(Length),
    CidLink,
    Integer(IntegerSchema),
    Object(ObjectSchema),
    Ref(RefSchema),
    String(StringSchema),
    Union(UnionSchema),
    Unknown,
}

#[derive(Debug, Deserialize)]
pub(super) struct ArraySchema {
    pub(super) items: Box<Schema>,
    #[serde(flatten)]
    pub(super) length: Length,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BlobSchema {
    /// Media types, such as `image/png`, `image/*` or `*/*`.
    pub(super) accept: Option<Vec<String>>,
    /// In bytes.
    pub(super) max_size: Option<u64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct BooleanSchema {
    pub(super) r#const: Option<bool>,
}

#[derive(Debug, Deserialize)]
pub(super) struct IntegerSchema {
    pub(super) minimum: Option<i64>,
    pub(super) maximum: Option<i64>,
    pub(super) r#enum: Option<Vec<i64>>,
    pub(super) r#const: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ObjectSchema {
    pub(super) properties: BTreeMap<String, Schema>,
    pub(super) required: Vec<String>,
    pub(super) nullable: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RefSchema {
    pub(super) r#ref: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StringSchema {
    pub(super) format: Option<Format>,
    /// In bytes of UTF-8.
    #[serde(flatten)]
    pub(super) length: Length,
    pub(super) min_graphemes: Option<usize>,
    pub(super) max_graphemes: Option<usize>,
    pub(super) r#enum: Option<Vec<String>>,
    pub(super) r#const: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct UnionSchema {
    pub(super) refs: Vec<String>,
    #[serde(default)]
    pub(super) closed: bool,
}

/// The limits of an array's elements, or of a number of bytes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Length {
    #[serde(rename = "minLength")]
    pub(super) min: Option<usize>,
    #[serde(rename = "maxLength")]
    pub(super) max: Option<usize>,
}

impl Document {
    /// Parses and checks one document. References in it are made absolute.
    pub(super) fn parse(json: &str) -> Result<Self, SchemaError> {
        let Envelope { lexicon, id, defs } = serde_json::from_str(json)?;
        if lexicon != 1 {
            return Err(SchemaError::Version {
                document: id.to_string(),
                version: lexicon,
            });
        }
        let (mut definitions, mut sources) = (BTreeMap::new(), BTreeMap::new());
        for (name, json) in defs {
            let text = json.to_string();
            let mut definition =
                Definition::read(&name, json).map_err(|reason| SchemaError::Definition {
                    document: id.to_string(),
                    definition: name.clone(),
                    reason,
                })?;
            let mut refs = Vec::new();
            definition.visit_refs(&mut |reference| {
                *reference = absolute(&id, reference);
                refs.push(reference.clone());
            });
            sources.insert(name.clone(), DefinitionSource { json: text, refs });
            definitions.insert(name, definition);
        }
        Ok(Self {
            id,
            defs: definitions,
            sources,
        })
    }
}

/// `nsid#name`; for the main definition only `nsid`, which is also the form of `$type`.
pub(super) fn absolute(id: &Nsid, reference: &str) -> String {
    let full = if reference.starts_with('#') {
        format!("{id}{reference}")
    } else {
        reference.to_owned()
    };
    match full.strip_suffix("#main") {
        Some(main) => main.to_owned(),
        None => full,
    }
}

impl Definition {
    fn read(name: &str, json: Value) -> Result<Self, String> {
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_name {
            return Err("not a name".to_owned());
        }
        match json.get("type").and_then(Value::as_str) {
            Some("permission-set" | "procedure" | "query" | "record" | "subscription")
                if name != "main" =>
            {
                Err("a definition of this type has to be called main".to_owned())
            }
            Some("permission-set" | "procedure" | "query" | "subscription") => Ok(Self::Endpoint),
            Some("record") => {
                let record: RecordSchema = from_json(json)?;
                record.check()?;
                Ok(Self::Record(record))
            }
            Some("token") => Ok(Self::Token),
            Some(kind @ ("ref" | "union" | "unknown")) => {
                Err(format!("type {kind} cannot be defined by name"))
            }
            _ => {
                let schema: Schema = from_json(json)?;
                schema.check()?;
                Ok(Self::Value(schema))
            }
        }
    }

    /// Calls `visit` with every reference in the definition.
    fn visit_refs(&mut self, visit: &mut dyn FnMut(&mut String)) {
        match self {
            Self::Endpoint | Self::Token => {}
            Self::Record(RecordSchema {
                record: RecordBody::Object(object),
                ..
            }) => object.visit_refs(visit),
            Self::Value(schema) => schema.visit_refs(visit),
        }
    }

    /// A name that this definition requires and that no document defines.
    pub(super) fn missing_ref(&self, is_defined: &dyn Fn(&str) -> bool) -> Option<&str> {
        match self {
            Self::Endpoint | Self::Token => None,
            Self::Record(RecordSchema {
                record: RecordBody::Object(object),
                ..
            }) => object.missing_ref(is_defined),
            Self::Value(schema) => schema.missing_ref(is_defined),
        }
    }
}

impl RecordSchema {
    fn check(&self) -> Result<(), String> {
        let is_key = matches!(self.key.as_str(), "any" | "nsid" | "tid")
            || self
                .key
                .strip_prefix("literal:")
                .is_some_and(|literal| Format::RecordKey.accepts(literal));
        if !is_key {
            return Err(format!("{:?} is not a type of record key", self.key));
        }
        let RecordBody::Object(object) = &self.record;
        object.check()
    }
}

impl ObjectSchema {
    fn check(&self) -> Result<(), String> {
        for name in self.required.iter().chain(&self.nullable) {
            if !self.properties.contains_key(name) {
                return Err(format!("{name} is required or nullable, but no property"));
            }
        }
        for (name, schema) in &self.properties {
            schema
                .check()
                .map_err(|reason| format!("{name}: {reason}"))?;
        }
        Ok(())
    }

    fn visit_refs(&mut self, visit: &mut dyn FnMut(&mut String)) {
        for schema in self.properties.values_mut() {
            schema.visit_refs(visit);
        }
    }

    fn missing_ref(&self, is_defined: &dyn Fn(&str) -> bool) -> Option<&str> {
        self.properties
            .values()
            .find_map(|schema| schema.missing_ref(is_defined))
    }
}

impl Schema {
    fn check(&self) -> Result<(), String> {
        match self {
            Self::Array(array) => {
                array.length.check()?;
                array.items.check()
            }
            Self::Blob(_) | Self::Boolean(_) | Self::CidLink | Self::Unknown => Ok(()),
            Self::Bytes(length) => length.check(),
            Self::Integer(integer) => check_range("minimum", integer.minimum, integer.maximum),
            Self::Object(object) => object.check(),
            Self::Ref(reference) => check_ref(&reference.r#ref),
            Self::String(string) => {
                string.length.check()?;
                check_range("minGraphemes", string.min_graphemes, string.max_graphemes)
            }
            Self::Union(union) if union.closed && union.refs.is_empty() => {
                Err("a closed union of nothing".into())
            }
            Self::Union(union) => union.refs.iter().try_for_each(|name| check_ref(name)),
        }
    }

    fn visit_refs(&mut self, visit: &mut dyn FnMut(&mut String)) {
        match self {
            Self::Array(array) => array.items.visit_refs(visit),
            Self::Object(object) => object.visit_refs(visit),
            Self::Ref(reference) => visit(&mut reference.r#ref),
            Self::Union(union) => union.refs.iter_mut().for_each(visit),
            _ => {}
        }
    }

    fn missing_ref(&self, is_defined: &dyn Fn(&str) -> bool) -> Option<&str> {
        let refs = match self {
            Self::Array(array) => return array.items.missing_ref(is_defined),
            Self::Object(object) => return object.missing_ref(is_defined),
            Self::Ref(reference) => std::slice::from_ref(&reference.r#ref),
            // An open union also accepts types that no document here defines.
            Self::Union(union) if union.closed => &union.refs,
            _ => return None,
        };
        refs.iter()
            .map(String::as_str)
            .find(|name| !is_defined(name))
    }
}

impl Length {
    fn check(&self) -> Result<(), String> {
        check_range("minLength", self.min, self.max)
    }
}

fn from_json<T: DeserializeOwned>(json: Value) -> Result<T, String> {
    serde_json::from_value(json).map_err(|error| error.to_string())
}

fn check_range<T: PartialOrd>(name: &str, min: Option<T>, max: Option<T>) -> Result<(), String> {
    match (min, max) {
        (Some(min), Some(max)) if min > max => Err(format!("{name} lies above its maximum")),
        _ => Ok(()),
    }
}

fn check_ref(reference: &str) -> Result<(), String> {
    let (id, name) = reference.split_once('#').unwrap_or((reference, "main"));
    if (id.is_empty() || Format::Nsid.accepts(id)) && !name.is_empty() {
        Ok(())
    } else {
        Err(format!("{reference:?} is not a reference"))
    }
}
