//! How a single setting is read and written.
//!
//! Functions and modules carry the names that serde's `with` and `deserialize_with` want.

pub(super) mod bytes;
mod duration;
mod list;
mod url;
pub(super) mod validation;

pub(super) use duration::{hours, millis, optional_seconds};
pub(super) use list::list;
pub(super) use url::{database_url, directory_url, plc_url, source_url};
