//! `com.atproto.sync.subscribeRepos` over a WebSocket: dial, prefilter, decode.

pub mod decode;
pub(crate) mod dial;
pub mod prefilter;
pub mod websocket;
