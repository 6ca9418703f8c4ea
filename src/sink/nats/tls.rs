//! Whom a connection to NATS trusts, and what it shows of itself.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::net::tls;

/// Certificates, if they are not those of the public web.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct TlsFiles {
    /// Those of the authorities that may have signed the server's.
    pub(super) roots: Option<PathBuf>,
    /// That of the client, and its key.
    pub(super) certificate: Option<(PathBuf, PathBuf)>,
}

impl TlsFiles {
    /// The configuration of TLS.
    ///
    /// # Errors
    /// If a file cannot be read, has no certificate or no key, or the two do not belong together.
    pub(super) fn client_config(&self) -> Result<ClientConfig, String> {
        let builder = tls::trusting(self.roots()?).map_err(|error| error.to_string())?;
        let Some((certificate, key)) = &self.certificate else {
            return Ok(builder.with_no_client_auth());
        };
        let chain = certificates(certificate)?;
        let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, error))?;
        let config = builder.with_client_auth_cert(chain, secret);
        config.map_err(|error| unusable(key, error))
    }

    fn roots(&self) -> Result<RootCertStore, String> {
        let Some(path) = &self.roots else {
            return Ok(tls::public_roots());
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(path)? {
            let added = roots.add(certificate);
            added.map_err(|error| unusable(path, error))?;
        }
        Ok(roots)
    }
}

/// The certificates of a file in PEM, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates: Vec<CertificateDer<'static>> = read.map_err(|error| unusable(path, error))?;
    match certificates.is_empty() {
        true => Err(unusable(path, "it has no certificate")),
        false => Ok(certificates),
    }
}

/// Why a file cannot be used. What is in it is not told.
fn unusable(path: &Path, why: impl Display) -> String {
    format!("{} cannot be used: {why}", path.display())
}
