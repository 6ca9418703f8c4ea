//! The engine of D1, as npm has it, in a process of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command as TokioCommand};

use crate::waiting::soon;

/// The folder of this crate's scripts for Node.
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/sinks/d1");
const GATEWAY: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../deploy/cloudflare/gateway.js"
);

/// The token of every gateway.
pub(super) const TOKEN: &str = "the-token-of-the-tests-has-32-characters";

/// A running engine. It ends with the value, or with this process.
pub(super) struct Engine {
    node: Child,
    /// The process that holds the database.
    workerd: String,
    pub(super) url: String,
}

impl Engine {
    /// Starts an engine whose database is in `data`.
    pub(super) async fn start(modules: &Path, data: &Path) -> Self {
        let mut command = TokioCommand::new("node");
        command
            .arg(Path::new(SCRIPTS).join("engine.mjs"))
            .args([modules, Path::new(GATEWAY), data])
            .arg(TOKEN)
            // Its folder for files of its own would be in the home of the user.
            .env("XDG_CONFIG_HOME", data)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut node = command.spawn().unwrap();
        let mut lines = BufReader::new(node.stdout.take().unwrap()).lines();
        let line = soon(lines.next_line()).await.unwrap().unwrap();
        let (url, workerd) = line.split_once(' ').unwrap();
        Self {
            url: url.to_owned(),
            workerd: workerd.to_owned(),
            node,
        }
    }

    /// Ends it as a crash would, amid whatever it does.
    pub(super) async fn kill(mut self) {
        let killed = TokioCommand::new("kill")
            .args(["-KILL", &self.workerd])
            .status();
        assert!(killed.await.unwrap().success());
        self.node.kill().await.unwrap();
    }
}

/// The folder with the packages, below `target`. They are installed once, for all test runs.
///
/// # Errors
/// The reason why they are not there.
pub(super) fn modules(target: &Path) -> Result<PathBuf, String> {
    static MODULES: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    MODULES.get_or_init(|| install(target)).clone()
}

fn install(target: &Path) -> Result<PathBuf, String> {
    let lock = std::fs::read(Path::new(SCRIPTS).join("package-lock.json"));
    let lock = lock.map_err(|error| error.to_string())?;
    // Other versions are another folder.
    let version = lock.iter().fold(5381_u64, |hash, byte| {
        hash.wrapping_mul(33).wrapping_add(u64::from(*byte))
    });
    let folder = target.join(format!("d1-engine-{version:x}"));
    if folder.exists() {
        return Ok(folder);
    }
    let unfinished = target.join(format!("d1-engine-{}", std::process::id()));
    let told = |error: std::io::Error| error.to_string();
    std::fs::create_dir_all(&unfinished).map_err(told)?;
    for file in ["package.json", "package-lock.json"] {
        std::fs::copy(Path::new(SCRIPTS).join(file), unfinished.join(file)).map_err(told)?;
    }
    let installed = Command::new("npm")
        .args([
            "ci",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--prefer-offline",
        ])
        .arg("--loglevel=error")
        .current_dir(&unfinished)
        .stdin(Stdio::null())
        .output();
    let installed = installed.map_err(|error| format!("npm does not start: {error}"))?;
    if !installed.status.success() {
        let words = String::from_utf8_lossy(&installed.stderr).into_owned();
        std::fs::remove_dir_all(&unfinished).map_err(told)?;
        return Err(format!("npm cannot install miniflare: {words}"));
    }
    // Another process may have been faster.
    if std::fs::rename(&unfinished, &folder).is_err() {
        std::fs::remove_dir_all(&unfinished).map_err(told)?;
    }
    Ok(folder)
}
