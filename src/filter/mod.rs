//! What is kept and what becomes of it: pure rules from events to effects.

pub mod interest;
pub mod rules;
pub mod sequence;
pub mod sieve;
pub mod tracked;
