//! A recorded network of another implementation: its relay, the PLC directory and the accounts' host
//! behind one address.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::Message;

use crate::scripted_server::{Request, Server, answer, behind};

const SYNC: &str = "/xrpc/com.atproto.sync.";

/// A running network. It stops when it is dropped.
pub struct ForeignNetwork {
    server: Server,
    recording: Arc<Recording>,
}

struct Recording {
    /// In the order of the stream.
    frames: Vec<Bytes>,
    accounts: Vec<Value>,
    /// The folder of the repositories as CAR files.
    repos: PathBuf,
    /// Frames per second; `None`: as fast as the socket takes them.
    rate: Option<NonZeroU32>,
}

impl ForeignNetwork {
    /// Serves the recording in `folder`.
    pub async fn start(folder: &Path, rate: Option<NonZeroU32>) -> Self {
        let truth = fs::read_to_string(folder.join("truth.json")).unwrap();
        let mut truth: Value = serde_json::from_str(&truth).unwrap();
        let Value::Array(accounts) = truth["accounts"].take() else {
            panic!("no accounts in {}", folder.display());
        };
        let recording = Arc::new(Recording {
            frames: frames(&folder.join("frames.bin.xz")),
            accounts,
            repos: folder.join("repos"),
            rate,
        });
        let served = recording.clone();
        let server = Server::start(move |request| respond(served.clone(), request)).await;
        Self { server, recording }
    }

    pub fn source_url(&self) -> String {
        self.server.url(&format!("{SYNC}subscribeRepos"))
    }

    /// The PLC directory.
    pub fn directory_url(&self) -> String {
        self.server.http_url("")
    }

    /// URI and CID of every record that can be seen in the end.
    pub fn records(&self) -> BTreeSet<String> {
        let accounts = self.recording.accounts.iter();
        let active = accounts.filter(|account| account["active"] == true);
        active
            .flat_map(|account| {
                let did = text(&account["did"]);
                let records = account["records"].as_object().unwrap();
                records
                    .iter()
                    .map(move |(path, cid)| format!("at://{did}/{path} {}", text(cid)))
            })
            .collect()
    }
}

/// `[u32 big-endian length][frame]…`, compressed.
fn frames(path: &Path) -> Vec<Bytes> {
    let mut bytes = Vec::new();
    let file = File::open(path).unwrap();
    let mut file = liblzma::read::XzDecoder::new(file);
    file.read_to_end(&mut bytes).unwrap();
    let mut rest = Bytes::from(bytes);
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let length = rest.split_to(4);
        let length = u32::from_be_bytes(length.as_ref().try_into().unwrap());
        frames.push(rest.split_to(length as usize));
    }
    frames
}

async fn respond(recording: Arc<Recording>, request: Request) {
    if request.header("upgrade").is_some() {
        return stream(&recording, request).await;
    }
    let path = request.path().replace("%3A", ":");
    let (path, query) = path.split_once('?').unwrap_or((&path, ""));
    let did = match path.strip_prefix(SYNC) {
        Some(_) => query
            .split('&')
            .find_map(|field| field.strip_prefix("did=")),
        None => path.strip_prefix('/'),
    };
    let account = did.and_then(|did| {
        let mut accounts = recording.accounts.iter();
        accounts.find(|account| account["did"] == did)
    });
    let body = match (path.strip_prefix(SYNC), account) {
        (None, Some(account)) => Some(document(account, &request)),
        (Some("getRepoStatus"), Some(account)) => Some(account["repoStatus"].clone()),
        (Some("getLatestCommit"), Some(account)) => {
            Some(json!({ "cid": account["cid"], "rev": account["rev"] }))
        }
        (Some("getRepo"), Some(account)) => return send_repo(&recording, account, request).await,
        (Some("listRepos"), _) => Some(list(&recording.accounts)),
        _ => None,
    };
    match body {
        Some(body) => {
            request
                .answer(answer("200 OK", "", &body.to_string()))
                .await
        }
        None if path.starts_with("/xrpc/") => {
            let error = json!({ "error": "MethodNotImplemented" }).to_string();
            request
                .answer(answer("501 Not Implemented", "", &error))
                .await;
        }
        None => request.answer(answer("404 Not Found", "", "{}")).await,
    }
}

/// The account's DID document, with this server as its host.
fn document(account: &Value, request: &Request) -> Value {
    let host = request.header("host").unwrap();
    let port = host.rsplit_once(':').map_or("80", |(_, port)| port);
    let mut document = account["doc"].clone();
    document["service"] = json!([{
        "id": "#atproto_pds",
        "type": "AtprotoPersonalDataServer",
        "serviceEndpoint": format!("http://localhost:{port}"),
    }]);
    document
}

fn list(accounts: &[Value]) -> Value {
    let repos = accounts.iter().map(|account| {
        json!({
            "did": account["did"], "head": account["cid"], "rev": account["rev"],
            "active": account["active"],
        })
    });
    json!({ "repos": repos.collect::<Vec<_>>() })
}

async fn send_repo(recording: &Recording, account: &Value, request: Request) {
    let name = text(&account["did"]).replace(':', "_");
    let Ok(car) = fs::read(recording.repos.join(format!("{name}.car"))) else {
        let error = json!({ "error": "RepoNotFound" }).to_string();
        return request.answer(answer("400 Bad Request", "", &error)).await;
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/vnd.ipld.car\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        car.len()
    );
    let mut stream = request.unanswered();
    // The client may be killed meanwhile.
    let _ = stream.write_all(&[head.as_bytes(), &car].concat()).await;
    let _ = stream.read(&mut [0; 64]).await;
}

/// Sends the frames after the cursor, and then nothing more.
async fn stream(recording: &Recording, request: Request) {
    let wanted = behind(&recording.frames, request.cursor());
    let mut socket = request.upgrade().await;
    for frame in wanted {
        if let Some(rate) = recording.rate {
            sleep(Duration::from_secs(1) / rate.get()).await;
        }
        if socket.send(Message::Binary(frame.clone())).await.is_err() {
            return;
        }
    }
    while let Some(Ok(_)) = socket.next().await {}
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}
