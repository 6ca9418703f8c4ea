//! The Postgres of the tests: the one that `HUDDLE_TEST_POSTGRES` names, or one that answers at its usual
//! port and trusts its own machine, or one of Debian's packages, started in a folder of its own. And a server
//! of one test's own.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio::time::{sleep, timeout};

use crate::certificates::Certificates;
use crate::skipped::skip;

const VARIABLE: &str = "HUDDLE_TEST_POSTGRES";
const USUAL: &str = "postgres://postgres@127.0.0.1:5432/test";
const PACKAGES: &str = "/usr/lib/postgresql";

/// The URL of a server, without parameters. `None` if there is none, and none can be started.
pub(super) async fn url() -> Option<String> {
    static URL: OnceCell<Option<String>> = OnceCell::const_new();
    URL.get_or_init(find).await.clone()
}

async fn find() -> Option<String> {
    if let Ok(url) = std::env::var(VARIABLE) {
        return Some(url);
    }
    if answers(USUAL).await {
        return Some(USUAL.to_owned());
    }
    let (url, shell) = start(&programs()?, None).await?;
    // It ends with this process.
    std::mem::forget(shell.stdin);
    Some(url)
}

async fn answers(url: &str) -> bool {
    let options = PgConnectOptions::from_str(url).unwrap();
    let connected = timeout(Duration::from_secs(5), options.connect()).await;
    match connected {
        Ok(Ok(connection)) => {
            let _closed = connection.close().await;
            true
        }
        _ => false,
    }
}

/// The folder of the newest version's programs.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir(PACKAGES).ok()?;
    let programs = versions.filter_map(|version| Some(version.ok()?.path().join("bin")));
    programs
        .filter(|programs| programs.join("initdb").exists())
        .max()
}

/// A server of one test's own, which ends with the value.
pub struct OwnServer {
    pub url: String,
    shell: Child,
}

impl OwnServer {
    /// Starts a server that knows TLS if it has `certificates`. `None` without Debian's packages: then the test
    /// is skipped, or fails where CI is set.
    pub async fn start(certificates: Option<&Certificates>) -> Option<Self> {
        let Some(programs) = programs() else {
            let reason = "none of Debian's packages of Postgres is installed";
            assert!(std::env::var_os("CI").is_none(), "{reason}");
            skip(reason);
            return None;
        };
        let started = start(&programs, certificates).await;
        let (url, shell) = started.expect("Postgres does not start");
        Some(Self { url, shell })
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ended = self.shell.wait();
    }
}

/// Starts a server that ends with the standard input of the shell.
async fn start(programs: &Path, certificates: Option<&Certificates>) -> Option<(String, Child)> {
    let folder = TempDir::new().ok()?;
    let port = TcpListener::bind("127.0.0.1:0")
        .ok()?
        .local_addr()
        .ok()?
        .port();
    let data = folder.path().join("data");
    let data = data.display();
    // Postgres refuses a key that is another user's, or that others may read.
    let (copy, tls) = match certificates {
        Some(certificates) => {
            let copy = format!(
                "$as cp {} {} {data}; $as chmod 600 {data}/server.key;",
                certificates.server_certificate().display(),
                certificates.server_key().display(),
            );
            (copy, "-c ssl=on")
        }
        None => (String::new(), ""),
    };
    // Postgres does not run as root. It owns its folder, which it finds below one that it may enter.
    let script = format!(
        "set -e; \
         if [ \"$(id -u)\" = 0 ]; then chmod 755 {folder}; mkdir {data}; chown postgres {data}; \
         as='setpriv --reuid=postgres --regid=postgres --clear-groups'; fi; \
         $as {programs}/initdb --no-sync -A trust -U postgres -D {data} >/dev/null; {copy} \
         $as {programs}/postgres -D {data} -h 127.0.0.1 -p {port} -c fsync=off {tls} \
         -c unix_socket_directories= >{folder}/log 2>&1 & \
         server=$!; cat >/dev/null; kill -QUIT $server; wait; rm -rf {folder}",
        folder = folder.path().display(),
        programs = programs.display(),
    );
    // The script reads its standard input until this process has ended, however that happens.
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).stdin(Stdio::piped());
    let mut shell = shell.spawn().ok()?;
    let _kept_for_the_script = folder.keep();
    let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
    for _ in 0..600 {
        if answers(&url).await {
            return Some((url, shell));
        }
        sleep(Duration::from_millis(50)).await;
    }
    drop(shell.stdin.take());
    None
}
