//! References of a document to definitions, of its own or of others.

use super::documents::{Definition, ObjectSchema, RecordBody, RecordSchema, Schema};
use super::fault::join;
use crate::atproto::syntax::Nsid;

/// A reference to a definition that no document contains.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MissingRef {
    /// Its place in the definition that refers.
    pub(super) path: String,
    /// The absolute name that it refers to.
    pub(super) name: String,
}

/// Says whether there is a definition of this absolute name.
type IsDefined<'a> = &'a dyn Fn(&str) -> bool;

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
    /// Calls `visit` with every reference in the definition.
    pub(super) fn visit_refs(&mut self, visit: &mut dyn FnMut(&mut String)) {
        match self {
            Self::Endpoint | Self::Token => {}
            Self::Record(RecordSchema {
                record: RecordBody::Object(object),
                ..
            }) => object.visit_refs(visit),
            Self::Value(schema) => schema.visit_refs(visit),
        }
    }

    /// The definitions that this one requires and that no document contains.
    pub(super) fn missing_refs(&self, is_defined: IsDefined<'_>) -> Vec<MissingRef> {
        let mut missing = Vec::new();
        match self {
            Self::Endpoint | Self::Token => {}
            Self::Record(RecordSchema {
                record: RecordBody::Object(object),
                ..
            }) => object.add_missing("record", is_defined, &mut missing),
            Self::Value(schema) => schema.add_missing("", is_defined, &mut missing),
        }
        missing
    }
}

impl ObjectSchema {
    fn visit_refs(&mut self, visit: &mut dyn FnMut(&mut String)) {
        for schema in self.properties.values_mut() {
            schema.visit_refs(visit);
        }
    }

    fn add_missing(&self, path: &str, is_defined: IsDefined<'_>, missing: &mut Vec<MissingRef>) {
        let path = join(path, "properties");
        for (name, schema) in &self.properties {
            schema.add_missing(&join(&path, name), is_defined, missing);
        }
    }
}

impl Schema {
    fn visit_refs(&mut self, visit: &mut dyn FnMut(&mut String)) {
        match self {
            Self::Array(array) => array.items.visit_refs(visit),
            Self::Object(object) => object.visit_refs(visit),
            Self::Ref(reference) => visit(&mut reference.r#ref),
            Self::Union(union) => union.refs.iter_mut().for_each(visit),
            _ => {}
        }
    }

    fn add_missing(&self, path: &str, is_defined: IsDefined<'_>, missing: &mut Vec<MissingRef>) {
        let refs = match self {
            Self::Array(array) => {
                return array
                    .items
                    .add_missing(&join(path, "items"), is_defined, missing);
            }
            Self::Object(object) => return object.add_missing(path, is_defined, missing),
            Self::Ref(reference) => std::slice::from_ref(&reference.r#ref),
            // An open union also accepts types that no document here defines.
            Self::Union(union) if union.closed => &union.refs,
            _ => return,
        };
        let undefined = refs.iter().filter(|name| !is_defined(name));
        missing.extend(undefined.map(|name| MissingRef {
            path: path.to_owned(),
            name: name.clone(),
        }));
    }
}
