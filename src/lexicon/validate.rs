//! Validates values against their schemas: <https://atproto.com/specs/lexicon>,
//! <https://atproto.com/specs/data-model>.

use std::collections::BTreeMap;
use std::fmt;

use unicode_segmentation::UnicodeSegmentation;

use super::data_model::{Blob, DataValue};
use super::documents::{
    ArraySchema, BlobSchema, BooleanSchema, Definition, IntegerSchema, Length, ObjectSchema,
    RecordBody, RecordSchema, Schema, StringSchema, UnionSchema,
};

/// The deepest nesting of a value that is validated. Recursive schemas are as deep as the value;
/// the data model recommends 32.
const MAX_DEPTH: usize = 64;

/// The first violation of the schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ValidationError {
    /// The location, such as `subject.uri` or `tags[3]`; empty for the record itself.
    pub path: String,
    /// The violation, in words. Never contains the value itself.
    pub reason: String,
}

impl fmt::Display for ValidationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.reason),
            path => write!(f, "{path}: {}", self.reason),
        }
    }
}

impl ValidationError {
    fn new(reason: impl Into<String>) -> Self {
        Self {
            path: String::new(),
            reason: reason.into(),
        }
    }

    /// Adds the location of the value in its parent: a name or `[index]`.
    fn within(mut self, segment: impl fmt::Display) -> Self {
        let separator = match self.path.as_bytes().first() {
            None | Some(b'[') => "",
            Some(_) => ".",
        };
        self.path = format!("{segment}{separator}{}", self.path);
        self
    }
}

type Outcome = Result<(), ValidationError>;

/// Validates values against schemas that may refer to `definitions`.
pub(super) struct Validator<'a> {
    definitions: &'a BTreeMap<String, Definition>,
}

impl<'a> Validator<'a> {
    pub(super) fn new(definitions: &'a BTreeMap<String, Definition>) -> Self {
        Self { definitions }
    }

    pub(super) fn record<'v>(
        &self,
        collection: &str,
        schema: &RecordSchema,
        record: impl DataValue<'v>,
        depth: usize,
    ) -> Outcome {
        if record.get("$type").and_then(DataValue::as_str) != Some(collection) {
            return Err(ValidationError::new("is not the collection").within("$type"));
        }
        let RecordBody::Object(object) = &schema.record;
        self.object(object, record, depth)
    }

    fn value<'v>(&self, schema: &Schema, value: impl DataValue<'v>, depth: usize) -> Outcome {
        if depth > MAX_DEPTH {
            return Err(ValidationError::new("is nested too deeply"));
        }
        match schema {
            Schema::Array(array) => self.array(array, value, depth),
            Schema::Blob(blob) => validate_blob(blob, value),
            Schema::Boolean(boolean) => validate_boolean(boolean, value),
            Schema::Bytes(length) => validate_bytes(length, value),
            Schema::CidLink if value.is_link() => Ok(()),
            Schema::CidLink => Err(ValidationError::new("is not a link")),
            Schema::Integer(integer) => validate_integer(integer, value),
            Schema::Object(object) => self.object(object, value, depth),
            Schema::Ref(reference) => self.definition(&reference.r#ref, value, depth),
            Schema::String(string) => validate_string(string, value),
            Schema::Union(union) => self.union(union, value, depth),
            Schema::Unknown => expect_object(value),
        }
    }

    fn object<'v>(
        &self,
        schema: &ObjectSchema,
        object: impl DataValue<'v>,
        depth: usize,
    ) -> Outcome {
        expect_object(object)?;
        if let Some(missing) = schema
            .required
            .iter()
            .find(|name| object.get(name).is_none())
        {
            return Err(ValidationError::new("is missing").within(missing));
        }
        for (name, property) in &schema.properties {
            let outcome = match object.get(name) {
                None => Ok(()),
                Some(value) if value.is_null() && schema.nullable.contains(name) => Ok(()),
                Some(value) => self.value(property, value, depth + 1),
            };
            outcome.map_err(|error| error.within(name))?;
        }
        Ok(())
    }

    fn array<'v>(&self, schema: &ArraySchema, value: impl DataValue<'v>, depth: usize) -> Outcome {
        let Some(elements) = value.elements() else {
            return Err(ValidationError::new("is not an array"));
        };
        schema.length.validate(elements.len(), "elements")?;
        for (index, element) in elements.enumerate() {
            self.value(&schema.items, element, depth + 1)
                .map_err(|error| error.within(format_args!("[{index}]")))?;
        }
        Ok(())
    }

    fn union<'v>(&self, schema: &UnionSchema, value: impl DataValue<'v>, depth: usize) -> Outcome {
        expect_object(value)?;
        let Some(name) = value.get("$type").and_then(DataValue::as_str) else {
            return Err(ValidationError::new("has no $type, which a union asks for"));
        };
        let name = name.strip_suffix("#main").unwrap_or(name);
        if schema.refs.iter().any(|reference| reference == name) {
            self.definition(name, value, depth)
        } else if schema.closed {
            Err(ValidationError::new(
                "has a $type outside of the closed union",
            ))
        } else {
            Ok(())
        }
    }

    /// A missing definition is an unknown variant of an open union: see `Schemas::missing_refs`.
    fn definition<'v>(&self, name: &str, value: impl DataValue<'v>, depth: usize) -> Outcome {
        match self.definitions.get(name) {
            None | Some(Definition::Endpoint) => Ok(()),
            Some(Definition::Record(schema)) => self.record(name, schema, value, depth),
            Some(Definition::Token) if value.as_str() == Some(name) => Ok(()),
            Some(Definition::Token) => Err(ValidationError::new(format!("is not {name}"))),
            Some(Definition::Value(schema)) => self.value(schema, value, depth),
        }
    }
}

fn expect_object<'v>(value: impl DataValue<'v>) -> Outcome {
    match value.is_plain_map() {
        true => Ok(()),
        false => Err(ValidationError::new("is not an object")),
    }
}

fn validate_blob<'v>(schema: &BlobSchema, value: impl DataValue<'v>) -> Outcome {
    let Some(blob) = Blob::read(value) else {
        return Err(ValidationError::new("is not a blob"));
    };
    let is_accepted = |pattern: &String| match pattern.strip_suffix('*') {
        Some("*/") => true,
        Some(prefix) => blob.mime_type.starts_with(prefix),
        None => pattern == blob.mime_type,
    };
    if let Some(accept) = &schema.accept
        && !accept.iter().any(is_accepted)
    {
        return Err(ValidationError::new(
            "is a blob of a media type that is not accepted",
        ));
    }
    match (schema.max_size, blob.size) {
        (Some(max), Some(size)) if size > max => Err(ValidationError::new(format!(
            "is a blob of {size} bytes, more than {max}"
        ))),
        _ => Ok(()),
    }
}

fn validate_boolean<'v>(schema: &BooleanSchema, value: impl DataValue<'v>) -> Outcome {
    let Some(boolean) = value.as_bool() else {
        return Err(ValidationError::new("is not a boolean"));
    };
    match schema.r#const {
        Some(constant) if constant != boolean => {
            Err(ValidationError::new(format!("is not {constant}")))
        }
        _ => Ok(()),
    }
}

fn validate_bytes<'v>(length: &Length, value: impl DataValue<'v>) -> Outcome {
    let Some(bytes) = value.byte_length() else {
        return Err(ValidationError::new("is not a byte string"));
    };
    length.validate(bytes, "bytes")
}

fn validate_integer<'v>(schema: &IntegerSchema, value: impl DataValue<'v>) -> Outcome {
    let Some(integer) = value.as_i64() else {
        return Err(ValidationError::new("is not an integer of 64 bits"));
    };
    if schema.minimum.is_some_and(|minimum| integer < minimum)
        || schema.maximum.is_some_and(|maximum| integer > maximum)
        || schema.r#const.is_some_and(|constant| integer != constant)
        || schema
            .r#enum
            .as_ref()
            .is_some_and(|values| !values.contains(&integer))
    {
        return Err(ValidationError::new(format!("may not be {integer}")));
    }
    Ok(())
}

fn validate_string<'v>(schema: &StringSchema, value: impl DataValue<'v>) -> Outcome {
    let Some(text) = value.as_str() else {
        return Err(ValidationError::new("is not a string"));
    };
    schema.length.validate(text.len(), "bytes")?;
    validate_graphemes(schema, text)?;
    if schema
        .r#const
        .as_ref()
        .is_some_and(|constant| constant != text)
        || schema
            .r#enum
            .as_ref()
            .is_some_and(|values| !values.iter().any(|value| value == text))
    {
        return Err(ValidationError::new("is not one of the allowed values"));
    }
    match schema.format {
        Some(format) if !format.accepts(text) => Err(ValidationError::new(format!(
            "is not a valid {}",
            format.as_str()
        ))),
        _ => Ok(()),
    }
}

/// Stops counting early: a text has at most as many graphemes as bytes.
fn validate_graphemes(schema: &StringSchema, text: &str) -> Outcome {
    let has_more_than =
        |count: usize| text.len() > count && text.graphemes(true).nth(count).is_some();
    match (schema.min_graphemes, schema.max_graphemes) {
        (_, Some(max)) if has_more_than(max) => Err(ValidationError::new(format!(
            "has more than {max} graphemes"
        ))),
        (Some(min), _) if min > 0 && !has_more_than(min - 1) => Err(ValidationError::new(format!(
            "has fewer than {min} graphemes"
        ))),
        _ => Ok(()),
    }
}

impl Length {
    fn validate(&self, length: usize, unit: &str) -> Outcome {
        if let Some(max) = self.max.filter(|max| length > *max) {
            return Err(ValidationError::new(format!(
                "has {length} {unit}, more than {max}"
            )));
        }
        if let Some(min) = self.min.filter(|min| length < *min) {
            return Err(ValidationError::new(format!(
                "has {length} {unit}, fewer than {min}"
            )));
        }
        Ok(())
    }
}
