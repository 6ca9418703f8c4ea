//! The delivery guarantees: the ledger with its leases, the byte budget, reordering, gap detection,
//! backoff. With them, no data is lost when an actor fails. Pure: no code here depends on actors,
//! sockets or databases.

pub mod backoff;
pub mod budget;
pub mod ledger;
pub mod reorder;
pub mod segment;
pub mod sequence;
