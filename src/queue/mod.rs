//! What is to be done to the tables: effects, the index tasks among them, and dead letters.

pub mod accumulator;
pub mod effect;
pub mod reorder;
pub mod task;
