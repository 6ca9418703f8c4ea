//! The checks that a definition is consistent.

use super::documents::{Length, ObjectSchema, RecordBody, RecordSchema, Schema};
use super::fault::{Fault, join};
use super::format::Format;

impl RecordSchema {
    pub(super) fn check(&self) -> Result<(), Fault> {
        let is_key = matches!(self.key.as_str(), "any" | "nsid" | "tid")
            || self
                .key
                .strip_prefix("literal:")
                .is_some_and(|literal| Format::RecordKey.accepts(literal));
        if !is_key {
            let reason = format!("{:?} is not a type of record key", self.key);
            return Err(Fault::new(reason).within("key"));
        }
        let RecordBody::Object(object) = &self.record;
        object.check().map_err(|fault| fault.within("record"))
    }
}

impl ObjectSchema {
    fn check(&self) -> Result<(), Fault> {
        for name in self.required.iter().chain(&self.nullable) {
            if !self.properties.contains_key(name) {
                let reason = format!("{name} is required or nullable, but no property");
                return Err(Fault::new(reason));
            }
        }
        for (name, schema) in &self.properties {
            let checked = schema.check();
            checked.map_err(|fault| fault.within(&join("properties", name)))?;
        }
        Ok(())
    }
}

impl Schema {
    pub(super) fn check(&self) -> Result<(), Fault> {
        match self {
            Self::Array(array) => {
                array.length.check()?;
                array.items.check().map_err(|fault| fault.within("items"))
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
                Err(Fault::new("a closed union of nothing"))
            }
            Self::Union(union) => union.refs.iter().try_for_each(|name| check_ref(name)),
        }
    }
}

impl Length {
    fn check(&self) -> Result<(), Fault> {
        check_range("minLength", self.min, self.max)
    }
}

fn check_range<T: PartialOrd>(name: &str, min: Option<T>, max: Option<T>) -> Result<(), Fault> {
    match (min, max) {
        (Some(min), Some(max)) if min > max => {
            Err(Fault::new(format!("{name} lies above its maximum")))
        }
        _ => Ok(()),
    }
}

fn check_ref(reference: &str) -> Result<(), Fault> {
    let (id, name) = reference.split_once('#').unwrap_or((reference, "main"));
    if (id.is_empty() || Format::Nsid.accepts(id)) && !name.is_empty() {
        Ok(())
    } else {
        Err(Fault::new(format!("{reference:?} is not a reference")))
    }
}
