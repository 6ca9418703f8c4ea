//! What keeps the promise that any actor may die anywhere: the byte budget, the ledger with its
//! leases, restart policy, and the tree itself.

pub mod address;
pub mod backoff;
pub mod budget;
pub mod intensity;
mod kill;
pub mod ledger;
pub mod progress;
pub mod role;
pub mod supervisor;
pub mod tree;
