//! The known schemas, by collection.

use std::collections::HashMap;

use serde_json::Value;

use super::documents::{Definition, Document, SchemaError, absolute};
use super::validate::{ValidationError, Validator};
use crate::atproto::syntax::Nsid;

/// The documents in `lexicons/`.
const EMBEDDED: [&str; 4] = [
    include_str!("../../lexicons/com/atproto/repo/strongRef.json"),
    include_str!("../../lexicons/com/huddle/booking.json"),
    include_str!("../../lexicons/com/huddle/bookingRequest.json"),
    include_str!("../../lexicons/com/huddle/slotOffer.json"),
];

/// Parsed lexicon documents, used to validate every record.
#[derive(Debug)]
pub struct Schemas {
    /// The key is `nsid` for a document's main definition, otherwise `nsid#name`.
    definitions: HashMap<String, Definition>,
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
        let mut definitions = HashMap::new();
        for json in documents {
            let Document { id, defs, .. } = Document::parse(json)?;
            for (name, definition) in defs {
                let name = absolute(&id, &format!("#{name}"));
                if definitions.insert(name, definition).is_some() {
                    return Err(SchemaError::Duplicate(id.to_string()));
                }
            }
        }
        let schemas = Self { definitions };
        schemas.check_refs()?;
        Ok(schemas)
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

    /// Validates `record`, in the protocol's JSON form, against the schema of `collection`. The
    /// record's `$type` must be the collection. Unknown fields are ignored.
    pub fn validate(&self, collection: &str, record: &Value) -> Validation {
        let Some(Definition::Record(schema)) = self.definitions.get(collection) else {
            return Validation::NoSchema;
        };
        match Validator::new(&self.definitions).record(collection, schema, record, 0) {
            Ok(()) => Validation::Valid,
            Err(error) => Validation::Invalid(error),
        }
    }

    fn check_refs(&self) -> Result<(), SchemaError> {
        let is_defined = |name: &str| {
            self.definitions
                .get(name)
                .is_some_and(|definition| !matches!(definition, Definition::Endpoint))
        };
        for (name, definition) in &self.definitions {
            if let Some(missing) = definition.missing_ref(&is_defined) {
                let (document, definition) = name.split_once('#').unwrap_or((name, "main"));
                return Err(SchemaError::Definition {
                    document: document.to_owned(),
                    definition: definition.to_owned(),
                    reason: format!("refers to {missing}, which no document defines"),
                });
            }
        }
        Ok(())
    }
}
