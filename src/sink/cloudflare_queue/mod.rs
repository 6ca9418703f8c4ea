//! A queue of Cloudflare: each change is a message, which a consumer on any machine takes, such as
//! `consume`.
//!
//! A queue keeps no order and may hand out a message twice. A task has what a consumer needs to put that
//! right: `(feed, epoch, change)` and `rev`.

mod claim;
mod letter;
mod message;
mod options;
mod sink;
mod source;

pub use self::claim::Outside;
pub use self::options::QueueOptions;
pub use self::sink::QueueSink;
pub use self::source::CloudflareQueue;

/// What a queue takes as one message.
const MOST_MESSAGE: usize = 128_000;
/// What it adds to a message and counts.
const METADATA: usize = 100;
