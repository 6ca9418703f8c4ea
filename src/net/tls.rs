//! The TLS client configuration for `wss` sources and HTTPS requests.

use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::crypto::ring;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use tokio_tungstenite::Connector;

/// A connector for WebSockets with the trust of [`client_config`].
///
/// # Errors
/// If the crypto provider supports no TLS version that rustls supports.
pub(crate) fn connector() -> Result<Connector, rustls::Error> {
    Ok(Connector::Rustls(Arc::new(client_config()?)))
}

/// A configuration that trusts the root certificates of the public web.
///
/// # Errors
/// If the crypto provider supports no TLS version that rustls supports.
pub(crate) fn client_config() -> Result<ClientConfig, rustls::Error> {
    Ok(trusting(public_roots())?.with_no_client_auth())
}

/// The root certificates of the public web.
pub(crate) fn public_roots() -> RootCertStore {
    webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect()
}

/// The beginning of a configuration that trusts `roots`.
///
/// It names the crypto provider explicitly. Without this, rustls panics at the first dial if the
/// dependencies contain no provider or two of them.
///
/// # Errors
/// If the crypto provider supports no TLS version that rustls supports.
pub(crate) fn trusting(
    roots: RootCertStore,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    Ok(builder)
}
