//! Finds the signing key and the host of a DID.
//!
//! Other rooms use [`Identities`]: a bounded cache in front of a [`Resolve`] such as [`Resolver`],
//! which looks up the DID document over HTTP. If a look-up gives no answer, the identity is
//! *unknown* ([`ResolveError::is_unknown`]), which says nothing about the account. The same holds for
//! an answer that a directory gives which does not work, see `breaker.rs`.

mod allowance;
mod breaker;
pub mod cache;
mod directory;
pub mod document;
pub mod export;
mod handle;
pub mod import;
pub mod locate;
mod overdue;
mod persistence;
pub mod resolve;
mod stored;

pub use breaker::DirectoryFault;
pub use cache::{Identities, Known, Limits};
pub use document::Identity;
pub use handle::{HandleResolver, Resolution};
pub use resolve::{Resolve, ResolveError, Resolver};
pub use stored::{IdentityChange, StoredIdentity};
