//! Identities as they survive a restart.

use jiff::Timestamp;

use super::document::Identity;
use crate::atproto::syntax::Did;

/// An identity, and when it was looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredIdentity {
    pub identity: Identity,
    pub looked_up_at: Timestamp,
}

/// What a look-up changes in the stored identities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityChange {
    /// The account has no identity, or none that is valid.
    Delete(Did),
    Store(StoredIdentity),
}
