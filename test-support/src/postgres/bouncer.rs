//! A pgbouncer of one test's own, in transaction mode.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;
use tokio::time::sleep;
use url::Url;

use super::Schema;
use crate::skipped::skip;

const PROGRAMS: [&str; 2] = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"];

/// How many connections to the server all clients share.
pub const POOL_SIZE: usize = 2;

/// The pool hands out its connections in turn, so each transaction gets another one than the last.
const SETTINGS: &str = "auth_type = any\n\
     pool_mode = transaction\n\
     server_round_robin = 1\n\
     unix_socket_dir =\n";

/// A pgbouncer before the server of a [`Schema`]. It ends with the value.
pub struct Bouncer {
    folder: TempDir,
    port: u16,
    database: String,
    child: Option<Child>,
}

impl Bouncer {
    /// Starts one. `None` if there is no program: then the test is skipped, or fails where CI is set.
    pub async fn before(schema: &Schema) -> Option<Self> {
        if program().is_none() {
            let reason = "Debian's package pgbouncer is not installed";
            assert!(std::env::var_os("CI").is_none(), "{reason}");
            skip(reason);
            return None;
        }
        let server = Url::parse(&schema.server).unwrap();
        let database = server.path().trim_start_matches('/').to_owned();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let folder = TempDir::new().unwrap();
        // It runs as another user where the tests are root's.
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), mode).unwrap();
        let password = server
            .password()
            .map(|password| format!(" password={password}"));
        let settings = format!(
            "[databases]\n{database} = host={} port={} user={}{} pool_size={POOL_SIZE}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n{SETTINGS}",
            server.host_str().unwrap(),
            server.port().unwrap_or(5432),
            server.username(),
            password.unwrap_or_default(),
        );
        std::fs::write(file(&folder), settings).unwrap();
        let mut bouncer = Self {
            folder,
            port,
            database,
            child: None,
        };
        bouncer.start_again().await;
        Some(bouncer)
    }

    /// The URL of the database behind it, without parameters.
    pub fn url(&self) -> String {
        format!("postgres://any@127.0.0.1:{}/{}", self.port, self.database)
    }

    /// A connection of another program.
    pub async fn connect(&self) -> PgConnection {
        let options = PgConnectOptions::from_str(&self.url()).unwrap();
        // pgbouncer refuses a client that names it.
        let options = options.extra_float_digits(None).statement_cache_capacity(0);
        options.connect().await.unwrap()
    }

    /// Starts it after [`Self::kill`].
    pub async fn start_again(&mut self) {
        let mut command = Command::new(program().unwrap());
        command.arg("-q");
        if is_root() {
            command.args(["-u", "nobody"]);
        }
        command
            .arg(file(&self.folder))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap());
        for _ in 0..400 {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                self.connect().await.close().await.unwrap();
                return;
            }
            sleep(Duration::from_millis(25)).await;
        }
        panic!("pgbouncer does not start");
    }

    /// Kills it. The connections of both sides break.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn program() -> Option<PathBuf> {
    let programs = PROGRAMS.iter().map(PathBuf::from);
    programs.into_iter().find(|program| program.exists())
}

fn file(folder: &TempDir) -> PathBuf {
    Path::join(folder.path(), "pgbouncer.ini")
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;

    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
