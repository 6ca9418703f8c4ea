//! The service as its own process, as an operator runs it.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::{database, usage};

pub(crate) struct Process {
    child: Child,
    status_url: String,
}

impl Process {
    /// Starts `run` on the database at `path`, with additional `options`. It verifies at level `none`,
    /// since the frames of most rows are not signed.
    pub(crate) fn run(source_url: &str, path: &Path, options: &[&str]) -> Self {
        Self::run_at("none", source_url, path, options)
    }

    /// The same at another level.
    pub(crate) fn run_at(level: &str, source_url: &str, path: &Path, options: &[&str]) -> Self {
        let listen = free_address();
        let child = Command::new(env!("CARGO_BIN_EXE_huddle-firehose"))
            .args(["run", "--source-url", source_url, "--listen", &listen])
            .args(["--verify", level])
            .args(["--database-url", &database::url(path)])
            .args(options)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            child,
            status_url: format!("http://{listen}/status"),
        }
    }

    /// The seq up to which everything is applied, as soon as the service reports one.
    pub(crate) async fn applied(&self) -> Option<u64> {
        let response = reqwest::get(&self.status_url).await.ok()?;
        let status: serde_json::Value = response.json().await.ok()?;
        let sources = status["sources"].as_object()?;
        sources.values().next()?["applied"]["seq"].as_u64()
    }

    /// The current and the largest resident set, in bytes.
    pub(crate) fn resident(&self) -> (u64, u64) {
        usage::memory_of(&self.child.id().to_string())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// An address that was free a moment ago. It may be taken before it is used.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}
