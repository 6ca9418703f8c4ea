//! A D1 database for each test: the real engine, with a gateway before it and a network that fails.

mod engine;
mod tables;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Mutex;

use self::engine::{Engine, TOKEN};
pub use self::tables::assert_follows;
use crate::http_proxy::{self, Proxy};
use crate::skipped::skip;

/// A database of its own. It is gone with the value.
pub struct D1 {
    folder: TempDir,
    modules: PathBuf,
    engine: Mutex<Option<Engine>>,
    /// The network between the sink and the gateway.
    pub proxy: Proxy,
}

/// What a database was.
pub struct Copy(TempDir);

impl D1 {
    /// An empty database. The packages are below `target`. `None` if they are not there and cannot be
    /// installed: then the test is skipped, or fails where CI is set.
    pub async fn new(target: &Path) -> Option<Self> {
        let target = target.to_owned();
        let modules = tokio::task::spawn_blocking(move || engine::modules(&target)).await;
        let modules = match modules.unwrap() {
            Ok(modules) => modules,
            Err(reason) => {
                assert!(std::env::var_os("CI").is_none(), "no D1: {reason}");
                skip(&format!("no D1: {reason}"));
                return None;
            }
        };
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), TOKEN).unwrap();
        std::fs::create_dir(folder.path().join("data")).unwrap();
        let engine = Engine::start(&modules, &folder.path().join("data")).await;
        Some(Self {
            proxy: Proxy::start(&engine.url).await,
            engine: Mutex::new(Some(engine)),
            folder,
            modules,
        })
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn parameters(&self) -> String {
        let token = self.folder.path().join("token");
        format!("token_file={}&request_interval_ms=0", token.display())
    }

    /// The URL of a sink, by the gateway.
    pub fn url(&self) -> String {
        format!("d1+http://{}/?{}", self.proxy.address, self.parameters())
    }

    /// The URL of a sink, by the API.
    pub fn api_url(&self) -> String {
        let parameters = self.parameters();
        format!(
            "d1://acc/data-base?api=http://{}&{parameters}",
            self.proxy.address
        )
    }

    /// Ends the engine amid whatever it does, and starts it again.
    pub async fn restart(&self) {
        self.restart_with(|_| {}).await;
    }

    /// Replaces the database by an empty one.
    pub async fn empty(&self) {
        self.restart_with(|data| {
            std::fs::remove_dir_all(data).unwrap();
            std::fs::create_dir(data).unwrap();
        })
        .await;
    }

    /// What the database is now. The engine restarts.
    pub async fn copy(&self) -> Copy {
        let copy = tempfile::tempdir().unwrap();
        self.restart_with(|data| copy_folder(data, copy.path()))
            .await;
        Copy(copy)
    }

    /// Puts the database back to what it was.
    pub async fn put_back(&self, copy: &Copy) {
        self.restart_with(|data| {
            std::fs::remove_dir_all(data).unwrap();
            std::fs::create_dir(data).unwrap();
            copy_folder(copy.0.path(), data);
        })
        .await;
    }

    async fn restart_with(&self, change: impl FnOnce(&Path)) {
        let mut engine = self.engine.lock().await;
        if let Some(engine) = engine.take() {
            engine.kill().await;
        }
        change(&self.data());
        let started = Engine::start(&self.modules, &self.data()).await;
        self.proxy.lead_to(&started.url);
        *engine = Some(started);
    }

    /// Runs statements, each with its parameters, past the network that fails.
    pub async fn run(&self, batch: Value) -> Value {
        let url = {
            let engine = self.engine.lock().await;
            engine.as_ref().unwrap().url.clone()
        };
        let body = json!({ "batch": batch }).to_string();
        let answer = http_proxy::post(&url, &format!("Bearer {TOKEN}"), body).await;
        let (_, answer) = answer.unwrap();
        serde_json::from_slice(&answer).unwrap()
    }

    /// Runs statements that return nothing.
    pub async fn execute(&self, statements: &[&str]) {
        let batch: Value = statements.iter().map(|sql| json!({ "sql": sql })).collect();
        let answer = self.run(batch).await;
        assert_eq!(answer["success"], true, "{answer}");
    }

    /// The rows that a query returns.
    pub async fn rows(&self, query: &str) -> Vec<Value> {
        let answer = self.run(json!([{ "sql": query }])).await;
        assert_eq!(answer["success"], true, "{answer}");
        let rows = answer["result"][0]["results"].as_array();
        rows.unwrap().clone()
    }

    /// The only column of a query, as text.
    pub async fn column(&self, query: &str) -> Vec<String> {
        let rows = self.rows(query).await;
        let values = rows.iter().map(|row| row.as_object().unwrap().values());
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        values.flat_map(|mut row| row.next().map(text)).collect()
    }
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in from.read_dir().unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy_folder(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
