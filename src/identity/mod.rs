//! From a DID to the key that signs and the host where the account lives.
//!
//! [`Identities`] is what others ask: a cache with bounds, in front of a [`Resolve`] such as
//! [`Resolver`], which looks a DID's document up over HTTP. What it cannot find out is *unknown*
//! ([`ResolveError::is_unknown`]), which says nothing against the account.

pub mod cache;
pub mod document;
pub mod locate;
pub mod resolve;

pub use cache::{Identities, Known, Limits};
pub use document::Identity;
pub use resolve::{Resolve, ResolveError, Resolver};
