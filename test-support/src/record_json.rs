//! Reads a record as a tree of JSON values, to compare it with others.

use huddle_firehose::atproto::cbor::CborError;
use huddle_firehose::atproto::json;
use serde_json::Value;

/// The value of the JSON that the program writes for `cbor`.
///
/// # Errors
/// If the program refuses `cbor`.
pub fn dag_cbor_to_json(cbor: &[u8]) -> Result<Value, CborError> {
    let text = json::dag_cbor_to_json(cbor)?;
    Ok(serde_json::from_str(&text).expect("what the program writes is JSON"))
}
