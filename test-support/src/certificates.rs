//! Certificates of a test's own, made by the program `openssl`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::skipped::skip;

/// An authority, certificates that it signed for the host `localhost` and for a client, and an authority that
/// signed nothing.
pub struct Certificates {
    folder: TempDir,
}

impl Certificates {
    /// New ones. `None` without `openssl`: then the test is skipped, or fails where CI is set.
    pub fn new() -> Option<Self> {
        let folder = TempDir::new().unwrap();
        if Command::new("openssl").arg("version").output().is_err() {
            let reason = "the program openssl is not installed";
            assert!(std::env::var_os("CI").is_none(), "{reason}");
            skip(reason);
            return None;
        }
        let certificates = Self { folder };
        for authority in ["root", "other"] {
            let arguments = "req -x509 -days 2 -subj /CN=authority";
            certificates.openssl(
                &format!("{arguments} -keyout {authority}.key -out {authority}.pem"),
                true,
            );
        }
        certificates.sign("server", "localhost", 2);
        certificates.sign("client", "client.localhost", 3);
        // A server that runs as another user reads it.
        let mode = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(certificates.server_key(), mode).unwrap();
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(certificates.folder.path(), mode).unwrap();
        Some(certificates)
    }

    /// Makes the key and the certificate of `name`, which the authority signs.
    fn sign(&self, name: &str, host: &str, serial: u32) {
        let request = format!("req -subj /CN={host} -keyout {name}.key -out request");
        self.openssl(&request, true);
        let names = format!("subjectAltName=DNS:{host}\nbasicConstraints=CA:FALSE\n");
        std::fs::write(self.path("names"), names).unwrap();
        let sign = format!(
            "x509 -req -days 2 -in request -CA root.pem -CAkey root.key -set_serial {serial} \
             -extfile names -out {name}.crt"
        );
        self.openssl(&sign, false);
    }

    fn openssl(&self, arguments: &str, makes_key: bool) {
        let mut command = Command::new("openssl");
        command.current_dir(&self.folder);
        command.args(arguments.split_whitespace());
        if makes_key {
            command.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
            command.arg("-nodes");
        }
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {arguments}: {errors}");
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::join(self.folder.path(), name)
    }

    /// The authority's certificate.
    pub fn root(&self) -> PathBuf {
        self.path("root.pem")
    }

    /// The certificate of the authority that signed nothing.
    pub fn other_root(&self) -> PathBuf {
        self.path("other.pem")
    }

    pub fn server_certificate(&self) -> PathBuf {
        self.path("server.crt")
    }

    pub fn server_key(&self) -> PathBuf {
        self.path("server.key")
    }

    pub fn client_certificate(&self) -> PathBuf {
        self.path("client.crt")
    }

    pub fn client_key(&self) -> PathBuf {
        self.path("client.key")
    }
}
