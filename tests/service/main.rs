//! Tests the program as its operator uses it: commands, endpoints, log.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod admin_http;
mod changes;
mod command_line;
mod handles;
mod identities;
mod log_calls;
mod operator_http;
mod panic_log;
