//! `lexicon fetch`, against a directory, a host and a DNS server of the test.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use fastrand::Rng;
use ipld_core::ipld::Ipld;
use serde_json::{Value, json};
use simulated_network::key::SigningKey;
use simulated_network::repo::{Repository, Write};
use simulated_network::tid::tid;
use test_support::dns_server::DnsServer;
use tokio::net::TcpListener;

use super::{Folder, assert_success, huddle_meanwhile, stderr, stdout};

const DID: &str = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa";
const NOTE: &str = "com.example.note";
const DEFS: &str = "com.example.defs";

/// A network in which one account publishes the lexicons of `com.example`.
struct World {
    dns: DnsServer,
    http: SocketAddr,
}

#[derive(Clone)]
struct Account {
    repo: Arc<Repository>,
    /// The key in its document.
    key: String,
    http: SocketAddr,
}

impl World {
    /// The documents by NSID. The DNS server has these texts for each name.
    async fn new(documents: &[Value], texts: &[&str], key: u64) -> Self {
        let mut repo = Repository::new(DID, SigningKey::generate(&mut Rng::with_seed(1)));
        let writes = documents.iter().map(|document| {
            let mut record = document.clone();
            record["$type"] = "com.atproto.lexicon.schema".into();
            let value: Ipld = serde_json::from_value(record).unwrap();
            Write {
                path: format!(
                    "com.atproto.lexicon.schema/{}",
                    document["id"].as_str().unwrap()
                ),
                value: Some(value),
            }
        });
        repo.apply(writes.collect(), tid(1_767_225_600_000_000, 1));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = listener.local_addr().unwrap();
        let account = Account {
            repo: Arc::new(repo),
            key: SigningKey::generate(&mut Rng::with_seed(key)).public_multibase(),
            http,
        };
        let routes = Router::new()
            .route("/{did}", get(document))
            .route("/xrpc/com.atproto.sync.getRecord", get(record))
            .with_state(account);
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let dns = DnsServer::start().await;
        dns.set("_lexicon.example.com", texts);
        Self { dns, http }
    }

    async fn fetch(&self, folder: &str, arguments: &[&str]) -> std::process::Output {
        let (dns, plc) = (
            self.dns.address.to_string(),
            format!("http://{}", self.http),
        );
        let network = [
            "--dns-servers",
            &dns,
            "--plc-url",
            &plc,
            "--allow-private-addresses",
        ];
        let lexicons = ["--lexicons", folder];
        huddle_meanwhile(&[&["lexicon", "fetch"], arguments, &network, &lexicons].concat()).await
    }
}

async fn document(State(account): State<Account>, UrlPath(did): UrlPath<String>) -> Response {
    if did != DID {
        return StatusCode::NOT_FOUND.into_response();
    }
    Json(json!({
        "id": DID,
        "verificationMethod": [{"id": "#atproto", "type": "Multikey", "publicKeyMultibase": account.key}],
        "service": [{"id": "#atproto_pds", "type": "AtprotoPersonalDataServer",
            "serviceEndpoint": format!("http://{}", account.http)}],
    }))
    .into_response()
}

async fn record(
    State(account): State<Account>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    assert_eq!(query["did"], DID);
    account.repo.export_car().unwrap().into_response()
}

fn documents() -> [Value; 2] {
    let properties = json!({"part": {"type": "ref", "ref": "com.example.defs#part"}});
    let object = json!({"type": "object", "properties": properties});
    let main = json!({"type": "record", "key": "tid", "record": object});
    [
        json!({"lexicon": 1, "id": NOTE, "defs": {"main": main}}),
        json!({"lexicon": 1, "id": DEFS, "defs": {"part": {"type": "string"}}}),
    ]
}

fn files_below(folder: &str) -> BTreeMap<String, Value> {
    let mut files = BTreeMap::new();
    let mut folders = vec![Path::new(folder).to_owned()];
    while let Some(inner) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(inner) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = std::fs::read_to_string(&path).unwrap();
                let name = path
                    .strip_prefix(folder)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                files.insert(name, serde_json::from_str(&text).unwrap());
            }
        }
    }
    files
}

const TEXT: [&str; 2] = ["v=spf1 -all", "did=did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"];

#[tokio::test]
async fn a_published_lexicon_is_fetched_with_what_it_refers_to() {
    let world = World::new(&documents(), &TEXT, 1).await;
    let folder = Folder::new();
    let lexicons = folder.path("lexicons");
    let fetched = world.fetch(&lexicons, &[NOTE]).await;
    assert_success(&fetched);
    let told = stdout(&fetched);
    assert_eq!(told.lines().count(), 2, "{told}");
    assert!(told.contains(&format!("{DID} rev ")), "{told}");
    let files = files_below(&lexicons);
    assert_eq!(
        files.keys().collect::<Vec<_>>(),
        ["com/example/defs.json", "com/example/note.json"]
    );
    assert_eq!(files["com/example/note.json"]["id"], NOTE);
    let checked = huddle_meanwhile(&["lexicon", "check", "--lexicons", &lexicons]).await;
    assert_success(&checked);

    let again = world.fetch(&lexicons, &[NOTE, DEFS]).await;
    assert_success(&again);
    assert_eq!(stdout(&again).matches("\tunchanged\t").count(), 2);
}

#[tokio::test]
async fn a_document_that_differs_is_replaced_only_on_request() {
    let world = World::new(&documents(), &TEXT, 1).await;
    let folder = Folder::new();
    let lexicons = folder.path("lexicons");
    std::fs::create_dir(&lexicons).unwrap();
    let mine = folder.path("lexicons/mine.json");
    let text = json!({"lexicon": 1, "id": DEFS, "defs": {"part": {"type": "integer"}}}).to_string();
    std::fs::write(&mine, &text).unwrap();
    let refused = world.fetch(&lexicons, &[DEFS]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        stderr(&refused).contains("mine.json has another version"),
        "{}",
        stderr(&refused)
    );
    assert_eq!(std::fs::read_to_string(&mine).unwrap(), text);
    let updated = world.fetch(&lexicons, &[DEFS, "--update"]).await;
    assert_success(&updated);
    let files = files_below(&lexicons);
    assert_eq!(files.len(), 1);
    assert_eq!(files["mine.json"]["defs"]["part"]["type"], "string");
}

#[tokio::test]
async fn what_is_not_published_or_not_proven_is_not_written() {
    let folder = Folder::new();
    let lexicons = folder.path("lexicons");
    let two = [TEXT[1], TEXT[1]];
    for (texts, key, nsid, reason) in [
        (
            &TEXT[..],
            1,
            "com.example.other",
            "does not exist, which its account has signed",
        ),
        (&TEXT, 2, NOTE, "is not proven: "),
        (
            &TEXT[..1],
            1,
            NOTE,
            "_lexicon.example.com has 0 records that begin with did=",
        ),
        (
            &two,
            1,
            NOTE,
            "_lexicon.example.com has 2 records that begin with did=",
        ),
        (
            &TEXT,
            1,
            "org.example.note",
            "_lexicon.example.org has 0 records",
        ),
    ] {
        let world = World::new(&documents(), texts, key).await;
        let refused = world.fetch(&lexicons, &[nsid]).await;
        assert_eq!(refused.status.code(), Some(1));
        let error = stderr(&refused);
        assert!(error.contains(&format!("cannot fetch {nsid}")), "{error}");
        assert!(error.contains(reason), "{error}");
        assert!(files_below(&lexicons).is_empty());
    }
}

#[tokio::test]
async fn a_document_whose_references_cannot_be_fetched_is_not_written() {
    let world = World::new(&documents()[..1], &TEXT, 1).await;
    let folder = Folder::new();
    let lexicons = folder.path("lexicons");
    let refused = world.fetch(&lexicons, &[NOTE]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains(&format!("cannot fetch {DEFS}")));
    assert!(files_below(&lexicons).is_empty());
}
