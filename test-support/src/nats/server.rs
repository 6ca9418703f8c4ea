//! The NATS server of the tests: the one that `HUDDLE_TEST_NATS` names, or one that answers at its usual
//! port, or Debian's, started in a folder of its own.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::{Client, ConnectError, ConnectOptions};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio::time::{sleep, timeout};
use url::Url;

use super::Accounts;
use crate::certificates::Certificates;

const VARIABLE: &str = "HUDDLE_TEST_NATS";
const USUAL: &str = "nats://127.0.0.1:4222";
const PROGRAMS: [&str; 3] = [
    "/usr/sbin/nats-server",
    "/usr/bin/nats-server",
    "/usr/local/bin/nats-server",
];

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
    start_for_all().await
}

/// Connects to a server. The login in the URL is as a sink has it: `TOKEN@`, `USER:PASSWORD@`, or the parameter
/// `creds_file`. Its certificates are in parameters too.
pub(super) async fn connect(url: &str) -> Result<Client, ConnectError> {
    let url = Url::parse(url).unwrap();
    let address = format!(
        "{}://{}:{}",
        url.scheme(),
        url.host_str().unwrap(),
        url.port().unwrap_or(4222)
    );
    let user = url.username().to_owned();
    let parameter = |name| url.query_pairs().find(|(found, _)| found == name);
    let file = |name| parameter(name).map(|(_, file)| PathBuf::from(&*file));
    let mut options = match (file("creds_file"), url.password()) {
        (Some(file), _) => {
            let credentials = std::fs::read_to_string(file).unwrap();
            ConnectOptions::with_credentials(&credentials).unwrap()
        }
        (None, Some(password)) => ConnectOptions::with_user_and_password(user, password.to_owned()),
        (None, None) if user.is_empty() => ConnectOptions::new(),
        (None, None) => ConnectOptions::with_token(user),
    };
    if let Some(roots) = file("ca_file") {
        options = options.add_root_certificates(roots);
    }
    if let (Some(certificate), Some(key)) = (file("cert_file"), file("key_file")) {
        options = options.add_client_certificate(certificate, key);
    }
    options.connect(address).await
}

async fn answers(url: &str) -> bool {
    let connected = timeout(Duration::from_secs(5), connect(url)).await;
    let Ok(Ok(client)) = connected else {
        return false;
    };
    // A server without JetStream, or one that has not begun yet, says nothing of streams.
    let jetstream = async_nats::jetstream::new(client);
    let found = jetstream.get_stream("HUDDLE_TEST_NONE").await;
    let error = found.err().map(|error| error.kind());
    matches!(error, Some(GetStreamErrorKind::JetStream(error)) if error.code() == 404)
}

fn program() -> Option<PathBuf> {
    let programs = PROGRAMS.iter().map(PathBuf::from);
    programs.into_iter().find(|program| program.exists())
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Starts a server that ends with this process.
async fn start_for_all() -> Option<String> {
    let program = program()?;
    let folder = TempDir::new().ok()?;
    let port = free_port();
    let script = format!(
        "{program} -a 127.0.0.1 -p {port} -js -sd {folder} >/dev/null 2>&1 & \
         server=$!; cat >/dev/null; kill -KILL $server; wait; rm -rf {folder}",
        program = program.display(),
        folder = folder.path().display(),
    );
    // The script reads its standard input until this process has ended, however that happens.
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).stdin(Stdio::piped());
    let child = shell.spawn().ok()?;
    std::mem::forget(child.stdin);
    let _kept_for_the_script = folder.keep();
    let url = format!("nats://127.0.0.1:{port}");
    until_it_answers(&url).await.then_some(url)
}

async fn until_it_answers(url: &str) -> bool {
    for _ in 0..400 {
        if answers(url).await {
            return true;
        }
        sleep(Duration::from_millis(50)).await;
    }
    false
}

/// The user of [`Login::User`].
pub const USER: &str = "worker";
/// The token or password of a server that wants one.
pub const SECRET: &str = "s3cr3t";

/// What a server wants of its clients.
#[derive(Clone, Copy, PartialEq)]
pub enum Login {
    None,
    Token,
    User,
    Credentials,
    /// A certificate. It has one itself, for the host `localhost`.
    Certificate,
}

/// A server of one test's own, which can be killed and put back to a copy.
pub struct OwnServer {
    folder: TempDir,
    port: u16,
    login: Login,
    accounts: Accounts,
    /// For [`Login::Certificate`].
    certificates: Option<Certificates>,
    /// Its configuration, and a file of credentials.
    settings: TempDir,
    child: Option<Child>,
}

impl OwnServer {
    /// Starts a server. `None` if there is no program.
    pub async fn start() -> Option<Self> {
        Self::start_with(Login::None).await
    }

    /// Starts a server that wants a login.
    pub async fn start_with(login: Login) -> Option<Self> {
        program()?;
        let (accounts, settings) = (Accounts::generate(), TempDir::new().unwrap());
        let certificates = match login {
            Login::Certificate => Some(Certificates::new()?),
            _ => None,
        };
        let configuration = certificates.as_ref().map(tls_configuration);
        let configuration = configuration.unwrap_or(accounts.configuration.clone());
        std::fs::write(settings.path().join("conf"), configuration).unwrap();
        std::fs::write(settings.path().join("creds"), &accounts.credentials).unwrap();
        let mut server = Self {
            folder: TempDir::new().unwrap(),
            port: free_port(),
            login,
            accounts,
            certificates,
            settings,
            child: None,
        };
        server.start_again().await;
        Some(server)
    }

    /// The URL, without parameters and without a login.
    pub fn url(&self) -> String {
        match self.login {
            Login::Certificate => format!("tls://localhost:{}", self.port),
            _ => format!("nats://127.0.0.1:{}", self.port),
        }
    }

    /// The certificates of [`Login::Certificate`].
    pub fn certificates(&self) -> &Certificates {
        self.certificates.as_ref().unwrap()
    }

    /// The URL with what a sink needs to log in.
    pub fn url_with_login(&self) -> String {
        let (url, file) = (self.url(), self.settings.path().join("creds"));
        match self.login {
            Login::None => url,
            Login::Token => url.replace("nats://", &format!("nats://{SECRET}@")),
            Login::User => url.replace("nats://", &format!("nats://{USER}:{SECRET}@")),
            Login::Credentials => format!("{url}?creds_file={}", file.display()),
            Login::Certificate => {
                let files = self.certificates();
                let (root, certificate) = (files.root(), files.client_certificate());
                format!(
                    "{url}?ca_file={}&cert_file={}&key_file={}",
                    root.display(),
                    certificate.display(),
                    files.client_key().display()
                )
            }
        }
    }

    /// What a file for the login has in it.
    pub fn secret(&self) -> &str {
        match self.login {
            Login::Credentials => &self.accounts.credentials,
            _ => SECRET,
        }
    }

    /// Starts it after [`Self::kill`].
    pub async fn start_again(&mut self) {
        let mut command = Command::new(program().unwrap());
        command
            .args([
                "-a",
                "127.0.0.1",
                "-p",
                &self.port.to_string(),
                "-js",
                "-sd",
            ])
            .arg(self.folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        match self.login {
            Login::None => {}
            Login::Token => _ = command.args(["--auth", SECRET]),
            Login::User => _ = command.args(["--user", USER, "--pass", SECRET]),
            Login::Credentials | Login::Certificate => {
                _ = command.arg("-c").arg(self.settings.path().join("conf"))
            }
        }
        self.child = Some(command.spawn().unwrap());
        assert!(
            until_it_answers(&self.url_with_login()).await,
            "nats-server does not start"
        );
    }

    /// Kills it as a loss of power would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// A copy of what it has. It must not run.
    pub fn copy(&self) -> TempDir {
        let copy = TempDir::new().unwrap();
        copy_into(self.folder.path(), copy.path());
        copy
    }

    /// Puts it back to a copy. It must not run.
    pub fn put_back(&self, copy: &TempDir) {
        for entry in self.folder.path().read_dir().unwrap() {
            std::fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
        copy_into(copy.path(), self.folder.path());
    }
}

/// The configuration of a server that shows a certificate, and wants one of its clients.
fn tls_configuration(files: &Certificates) -> String {
    format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}\n",
        files.server_certificate(),
        files.server_key(),
        files.root()
    )
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn copy_into(from: &Path, to: &Path) {
    let copied = Command::new("cp")
        .arg("-a")
        .arg(from.join("."))
        .arg(to)
        .status();
    assert!(copied.unwrap().success());
}
