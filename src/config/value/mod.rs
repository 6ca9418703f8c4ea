//! Reading and writing of single settings.
//!
//! The functions and modules have the names that serde's `with` and `deserialize_with` expect.

pub(super) mod bytes;
mod duration;
mod list;
mod listen;
pub(super) mod sinks;
mod url;
pub(super) mod validation;

pub(super) use duration::{hours, millis, optional_seconds};
pub(super) use list::list;
pub use listen::ListenAddress;
pub(super) use listen::is_host_name;
pub(super) use url::{database_url, directory_url, plc_url, source_url};
