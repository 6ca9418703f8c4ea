//! The TLS client configuration, for `wss` sources and HTTPS requests.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use tokio_tungstenite::Connector;

/// A connector for WebSockets, which trusts as [`client_config`] does.
///
/// # Errors
/// Where the provider supports no TLS version that rustls does.
pub(crate) fn connector() -> Result<Connector, rustls::Error> {
    Ok(Connector::Rustls(Arc::new(client_config()?)))
}

/// Trusts the public web's root certificates.
///
/// The crypto provider is named here, by hand: left to rustls, the first dial panics as soon
/// as the dependencies bring none or two of them.
///
/// # Errors
/// Where the provider supports no TLS version that rustls does.
pub(crate) fn client_config() -> Result<ClientConfig, rustls::Error> {
    trusting(RootCertStore::from_iter(
        webpki_roots::TLS_SERVER_ROOTS.iter().cloned(),
    ))
}

fn trusting(roots: RootCertStore) -> Result<ClientConfig, rustls::Error> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}
