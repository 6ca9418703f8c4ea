//! What is wrong with a definition, and where in its document.

use serde::Deserialize;
use serde_json::Value;

use super::documents::Schema;

/// What is wrong with a part of a document.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// The names on the way to the part, separated by dots. Empty for the whole.
    pub(super) path: String,
    pub(super) reason: String,
}

impl Fault {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self {
            path: String::new(),
            reason: reason.into(),
        }
    }

    /// Adds the name of the part in what it is a part of.
    pub(super) fn within(mut self, name: &str) -> Self {
        self.path = join(name, &self.path);
        self
    }
}

/// A path, and what follows it.
pub(super) fn join(path: &str, rest: &str) -> String {
    match (path, rest) {
        (path, "") => path.to_owned(),
        ("", rest) => rest.to_owned(),
        (path, rest) => format!("{path}.{rest}"),
    }
}

/// Reads a definition. An error names the smallest part that cannot be read, because serde does not
/// say where it was.
pub(super) fn read_definition<'a, T: Deserialize<'a>>(json: &'a Value) -> Result<T, Fault> {
    check_objects(json)?;
    T::deserialize(json).map_err(|error| smallest(json, &error))
}

/// Refuses arrays, whose elements serde would take for the fields of a schema.
fn check_objects(json: &Value) -> Result<(), Fault> {
    if json.is_array() {
        return Err(Fault::new("it is no JSON object"));
    }
    for (path, part) in parts(json) {
        check_objects(part).map_err(|fault| fault.within(&path))?;
    }
    Ok(())
}

fn smallest(json: &Value, error: &serde_json::Error) -> Fault {
    for (path, part) in parts(json) {
        if let Err(error) = Schema::deserialize(part) {
            return smallest(part, &error).within(&path);
        }
    }
    Fault::new(error.to_string())
}

/// The schemas that a definition consists of, each with its path.
fn parts(json: &Value) -> impl Iterator<Item = (String, &Value)> {
    let properties = json.get("properties").and_then(Value::as_object);
    let properties = properties.into_iter().flatten();
    let properties = properties.map(|(name, part)| (join("properties", name), part));
    let others = ["items", "record"].into_iter();
    let others = others.filter_map(|name| Some((name.to_owned(), json.get(name)?)));
    properties.chain(others)
}
