//! Each actor of the pipeline by itself: real messages go in, and its neighbours' mailboxes and the
//! store show what comes out. Time is paused, and store and source follow a script.
//!
//! Each test names the rule of the design that it holds:
//!
//! | | rule |
//! |---|---|
//! | 1 | the cursor never leads |
//! | 2 | effects are idempotent and monotone |
//! | 3 | any actor may die anywhere |
//! | 4 | memory is bounded by bytes |
//! | 5 | bad input never stops the stream |
//! | 6 | no silent gap |
//! | 7 | order per repository is kept |
//! | 8 | nothing waits forever |

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod connection;
mod cursor;
mod decoder;
mod filter;
mod indexer;
mod pipeline_parts;
