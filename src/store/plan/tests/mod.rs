//! Tests of the plan without a database: against a simulated network with a known state, and
//! against invariants for arbitrary input.

mod follower;
mod invariants;
mod lost_stretch;
mod oracle;
mod tables;
