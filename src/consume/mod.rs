//! `consume`: applies the index tasks of a queue to tables elsewhere. A supervised tree with one consumer
//! for each partition, which several processes share.

mod actor;
mod consumer;
mod lasting_failure;
mod options;
mod presence;
mod running;
mod upkeep;

pub use self::consumer::{Consumer, Pace, Parts, SharedTarget};
pub use self::options::{ConsumeOptions, InvalidEnd, QueueOptions, TargetOptions};
pub use self::running::{RunningConsumer, start};
