//! The known schemas, by collection.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use super::data_model::DataValue;
use super::documents::{Definition, DefinitionSource, Document, SchemaError};
use super::fault::join;
use super::refs::{MissingRef, absolute};
use super::validate::{ValidationError, Validator};
use crate::atproto::syntax::Nsid;

/// The documents in `lexicons/`.
pub(super) const EMBEDDED: [&str; 4] = [
    include_str!("../../lexicons/com/atproto/repo/strongRef.json"),
    include_str!("../../lexicons/com/huddle/booking.json"),
    include_str!("../../lexicons/com/huddle/bookingRequest.json"),
    include_str!("../../lexicons/com/huddle/slotOffer.json"),
];

/// Parsed lexicon documents, used to validate every record. Copies share them.
#[derive(Clone, Debug)]
pub struct Schemas {
    /// The key is `nsid` for a document's main definition, otherwise `nsid#name`.
    definitions: Arc<BTreeMap<String, Definition>>,
    /// For each collection, the fingerprint of all definitions that decide on its records.
    fingerprints: Arc<HashMap<String, String>>,
}

/// The result of validating a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Validation {
    Invalid(ValidationError),
    /// The collection of the record has no schema here.
    NoSchema,
    Valid,
}

impl Schemas {
    /// The schemas of Huddle, which are part of the program.
    pub fn embedded() -> Result<Self, SchemaError> {
        Self::load(EMBEDDED)
    }

    /// Parses `documents`, each one lexicon document as JSON.
    ///
    /// # Errors
    /// If one is not a valid document, if one occurs twice, or if one refers to a definition that
    /// none of them contains. Open unions may refer to missing definitions.
    pub fn load<'a>(documents: impl IntoIterator<Item = &'a str>) -> Result<Self, SchemaError> {
        let documents: Result<Vec<_>, _> = documents.into_iter().map(Document::parse).collect();
        let schemas = Self::of(documents?)?;
        let missing = schemas.missing_refs().next();
        missing.map_or(Ok(schemas), Err)
    }

    /// The schemas of `documents`. Does not check that everything is there that they refer to.
    pub(super) fn of(documents: impl IntoIterator<Item = Document>) -> Result<Self, SchemaError> {
        let (mut definitions, mut sources) = (BTreeMap::new(), HashMap::new());
        for document in documents {
            let Document {
                id,
                defs,
                sources: sources_of,
            } = document;
            for (name, source) in sources_of {
                sources.insert(absolute(&id, &format!("#{name}")), source);
            }
            for (name, definition) in defs {
                let name = absolute(&id, &format!("#{name}"));
                if definitions.insert(name, definition).is_some() {
                    return Err(SchemaError::Duplicate(id.to_string()));
                }
            }
        }
        let mut schemas = Self {
            definitions: Arc::new(definitions),
            fingerprints: Arc::default(),
        };
        let collections = schemas.collections().into_iter();
        let fingerprints = collections.map(|collection| {
            let fingerprint = fingerprint(&sources, collection.as_str());
            (collection.to_string(), fingerprint)
        });
        schemas.fingerprints = Arc::new(fingerprints.collect());
        Ok(schemas)
    }

    /// Identifies the definitions that decide on records of `collection`. It differs if one of them
    /// does. It is empty if the collection has no schema.
    pub fn fingerprint(&self, collection: &str) -> &str {
        let known = self.fingerprints.get(collection);
        known.map_or("", String::as_str)
    }

    /// The collections with a schema, in order.
    pub fn collections(&self) -> Vec<Nsid> {
        let records = self
            .definitions
            .iter()
            .filter_map(|(name, definition)| match definition {
                Definition::Record(_) => Nsid::parse(name).ok(),
                _ => None,
            });
        let mut collections: Vec<Nsid> = records.collect();
        collections.sort_unstable();
        collections
    }

    /// Validates `record` against the schema of `collection`. The record's `$type` must be the
    /// collection. Unknown fields are ignored.
    pub fn validate<'v>(&self, collection: &str, record: impl DataValue<'v>) -> Validation {
        let Some(Definition::Record(schema)) = self.definitions.get(collection) else {
            return Validation::NoSchema;
        };
        match Validator::new(&self.definitions).record(collection, schema, record, 0) {
            Ok(()) => Validation::Valid,
            Err(error) => Validation::Invalid(error),
        }
    }

    /// The definition with this absolute name.
    pub(super) fn definition(&self, name: &str) -> Option<&Definition> {
        self.definitions.get(name)
    }

    /// The references to definitions that are not here.
    pub(super) fn missing_refs(&self) -> impl Iterator<Item = SchemaError> {
        let is_defined = |name: &str| {
            self.definition(name)
                .is_some_and(|definition| !matches!(definition, Definition::Endpoint))
        };
        self.definitions.iter().flat_map(move |(name, definition)| {
            let (document, definition_name) = name.split_once('#').unwrap_or((name, "main"));
            let missing = definition.missing_refs(&is_defined).into_iter();
            missing.map(move |MissingRef { path, name }| SchemaError::MissingRef {
                document: document.to_owned(),
                path: join(&join("defs", definition_name), &path),
                name,
            })
        })
    }
}

/// The SHA-256 of the definition `name` and of all that it refers to.
fn fingerprint(sources: &HashMap<String, DefinitionSource>, name: &str) -> String {
    let mut found = BTreeMap::new();
    let mut names = vec![name];
    while let Some(name) = names.pop() {
        if let Some(source) = sources.get(name)
            && found.insert(name, source.json.as_str()).is_none()
        {
            names.extend(source.refs.iter().map(String::as_str));
        }
    }
    let mut hash = Sha256::new();
    for (name, json) in found {
        hash.update(format!("{name} {json}\n"));
    }
    HEXLOWER.encode(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r##"{"lexicon": 1, "id": "com.huddle.body", "defs": {
        "part": {"type": "string", "maxLength": 5}, "other": {"type": "string"}}}"##;

    fn fingerprint_with(documents: [&str; 2]) -> String {
        let schemas = Schemas::load(documents).unwrap();
        schemas.fingerprint("com.huddle.note").to_owned()
    }

    #[test]
    fn the_fingerprint_of_a_schema_differs_if_a_definition_does_that_it_refers_to() {
        let note = r#"{"lexicon": 1, "id": "com.huddle.note", "defs": {"main": {"type": "record",
            "key": "tid", "record": {"type": "object", "properties": {"a":
            {"type": "ref", "ref": "com.huddle.body#part"}}}}}}"#;
        let before = fingerprint_with([note, BODY]);
        assert_eq!(fingerprint_with([note, &BODY.replace(' ', "  ")]), before);
        assert_ne!(fingerprint_with([note, &BODY.replace('5', "6")]), before);
        let elsewhere = BODY.replace(r#""string"}"#, r#""boolean"}"#);
        assert_eq!(fingerprint_with([note, &elsewhere]), before);
    }
}
