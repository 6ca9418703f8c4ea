//! How many trips to the database transactions take.

use serde::Serialize;

/// The transactions that write, since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Trips {
    pub transactions: u64,
    /// How often a transaction sent something to the database's thread and waited for the answer.
    pub trips: u64,
}
