//! What every network request needs: addresses, redirects, TLS, the HTTP client, limits.

pub mod address;
pub mod dns;
pub mod host_clocks;
pub mod http_client;
pub mod http_poster;
pub(crate) mod pace;
mod pause;
pub mod redirect;
pub(crate) mod registrable;
pub mod request_limiter;
pub mod retry_after;
pub(crate) mod slots;
pub(crate) mod tls;
