//! The operator's endpoints over HTTP: read-only ones, and the interface that takes commands.

pub mod api;
pub mod api_actor;
pub mod control;
pub mod http;
pub mod http_actor;
pub mod tokens;
