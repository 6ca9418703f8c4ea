//! Lexicon documents as types.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::fault::{Fault, read_definition};
use super::format::Format;
use super::refs::absolute;
use crate::atproto::syntax::Nsid;

/// A document that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// `path` is the place in the document, such as `defs.main.record.properties.title`.
    #[error("lexicon {document}, {path}: {reason}")]
    Definition {
        document: String,
        path: String,
        reason: String,
    },

    #[error("lexicon {0} occurs twice")]
    Duplicate(String),

    #[error("not a lexicon document: {0}")]
    Malformed(#[from] serde_json::Error),

    /// It is an array, whose elements serde would take for the fields of a document.
    #[error("not a lexicon document: it is no JSON object")]
    NoObject,

    /// The definition that it refers to is in no document.
    #[error("lexicon {document}, {path}: refers to {name}, which no document defines")]
    MissingRef {
        document: String,
        path: String,
        name: String,
    },

    #[error("lexicon {document} is written in version {version} of the language, not 1")]
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
    pub(super) key: String,
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
        if json.trim_start().starts_with('[') {
            return Err(SchemaError::NoObject);
        }
        let Envelope { lexicon, id, defs } = serde_json::from_str(json)?;
        if lexicon != 1 {
            return Err(SchemaError::Version {
                document: id.to_string(),
                version: lexicon,
            });
        }
        let (mut definitions, mut sources) = (BTreeMap::new(), BTreeMap::new());
        for (name, json) in defs {
            let mut definition = Definition::read(&name, &json).map_err(|fault| {
                let Fault { path, reason } = fault.within(&name).within("defs");
                SchemaError::Definition {
                    document: id.to_string(),
                    path,
                    reason,
                }
            })?;
            let mut refs = Vec::new();
            definition.visit_refs(&mut |reference| {
                *reference = absolute(&id, reference);
                refs.push(reference.clone());
            });
            let json = json.to_string();
            sources.insert(name.clone(), DefinitionSource { json, refs });
            definitions.insert(name, definition);
        }
        Ok(Self {
            id,
            defs: definitions,
            sources,
        })
    }
}

impl Definition {
    fn read(name: &str, json: &Value) -> Result<Self, Fault> {
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_name {
            return Err(Fault::new("not a name"));
        }
        match json.get("type").and_then(Value::as_str) {
            Some("permission-set" | "procedure" | "query" | "record" | "subscription")
                if name != "main" =>
            {
                let reason = "a definition of this type has to be called main";
                Err(Fault::new(reason))
            }
            Some("permission-set" | "procedure" | "query" | "subscription") => Ok(Self::Endpoint),
            Some("record") => {
                let record: RecordSchema = read_definition(json)?;
                record.check()?;
                Ok(Self::Record(record))
            }
            Some("token") => Ok(Self::Token),
            Some(kind @ ("ref" | "union" | "unknown")) => {
                Err(Fault::new(format!("type {kind} cannot be defined by name")))
            }
            _ => {
                let schema: Schema = read_definition(json)?;
                schema.check()?;
                Ok(Self::Value(schema))
            }
        }
    }
}
