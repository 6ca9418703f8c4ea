//! What makes any death harmless: the ledger with its leases, the byte budget, reordering, the
//! detection of gaps, backoff. Pure: nothing here knows an actor, a socket or a database.

pub mod backoff;
pub mod budget;
pub mod ledger;
pub mod reorder;
pub mod segment;
pub mod sequence;
