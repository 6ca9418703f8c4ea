//! `com.atproto.sync.subscribeRepos` over a WebSocket: dial, prefilter, decode.

pub mod decode;
mod dial;
pub mod prefilter;
#[cfg(test)]
mod tls_tests;
pub mod websocket;
