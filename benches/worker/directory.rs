//! A PLC directory in its own process. It has every answer at hand.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path as FilePath;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;

pub(crate) const COMMAND: &str = "directory";

/// A running directory.
pub(crate) struct Directory {
    process: Child,
    pub(crate) url: String,
    _folder: TempDir,
}

/// The documents by DID.
type Documents = Arc<HashMap<String, Bytes>>;

impl Directory {
    /// Serves `documents`.
    pub(crate) fn start(documents: &[Value]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("documents.jsonl");
        let lines: String = documents
            .iter()
            .map(|document| format!("{document}\n"))
            .collect();
        std::fs::write(&path, lines).unwrap();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .arg(COMMAND)
            .arg(path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut address)
            .unwrap();
        Self {
            process,
            url: format!("http://{}/", address.trim()),
            _folder: folder,
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// The code of the directory's process.
pub(crate) fn serve(arguments: &[String]) {
    let [path] = arguments else {
        panic!("{COMMAND} FILE");
    };
    let router = Router::new()
        .route("/{did}", get(document))
        .with_state(load(FilePath::new(path)));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        std::io::stdout().flush().unwrap();
        axum::serve(listener, router).await.unwrap();
    });
}

fn load(path: &FilePath) -> Documents {
    let text = std::fs::read_to_string(path).unwrap();
    let documents = text.lines().map(|line| {
        let document: Value = serde_json::from_str(line).unwrap();
        let did = document["id"].as_str().unwrap().to_owned();
        (did, Bytes::copy_from_slice(line.as_bytes()))
    });
    Arc::new(documents.collect())
}

async fn document(State(documents): State<Documents>, Path(did): Path<String>) -> Response {
    match documents.get(&did) {
        Some(document) => {
            let content_type = (header::CONTENT_TYPE, "application/did+ld+json");
            ([content_type], document.clone()).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
