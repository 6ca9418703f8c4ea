//! What an event asks of the tables.

pub mod effect;
pub mod index_task;
