//! The plan without a database: held against a simulated network whose host_status is known, and against
//! rules that hold whatever comes.

mod follower;
mod invariants;
mod oracle;
mod tables;
