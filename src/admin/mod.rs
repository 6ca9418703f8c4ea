//! The operator's endpoints over HTTP.

pub mod http;
pub mod http_actor;
