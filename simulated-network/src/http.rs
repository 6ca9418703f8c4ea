//! The HTTP servers of the network: DID documents, and repositories on request.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::account::{Account, Status};
use crate::mishap::{Endpoint, Mishap, Mishaps, apply_mishap};
use crate::network::Network;

const DEFAULT_PAGE: usize = 500;

/// A server on a loopback port: PLC directory, host and relay in one. It answers with the current
/// state of the network. If there are several servers, each is the host of all accounts that have
/// not moved to another server.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    mishaps: Mishaps,
    serving: JoinHandle<()>,
}

#[derive(Clone)]
struct Shared {
    network: Arc<Mutex<Network>>,
    endpoint: String,
    is_mirror: bool,
}

#[derive(Deserialize)]
struct OfRepo {
    did: String,
}

#[derive(Deserialize)]
struct OfCollection {
    collection: String,
}

/// Selects a page of the accounts, sorted by DID.
#[derive(Deserialize)]
struct Page {
    limit: Option<usize>,
    /// The last DID of the previous page.
    cursor: Option<String>,
}

impl HttpServer {
    /// # Errors
    /// If loopback has no free port.
    pub async fn start(network: Arc<Mutex<Network>>) -> io::Result<Self> {
        Self::start_as(network, false).await
    }

    /// Like [`Self::start`], but with the repositories of all accounts, including those that have
    /// moved, like a relay that keeps copies.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_mirror(network: Arc<Mutex<Network>>) -> io::Result<Self> {
        Self::start_as(network, true).await
    }

    async fn start_as(network: Arc<Mutex<Network>>, is_mirror: bool) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let endpoint = format!("http://{address}");
        let mishaps = Mishaps::default();
        let routes = Router::new()
            .route("/{did}", get(did_document))
            .route("/xrpc/com.atproto.sync.getRepo", get(repo))
            .route("/xrpc/com.atproto.sync.getRepoStatus", get(repo_status))
            .route("/xrpc/com.atproto.sync.getLatestCommit", get(latest_commit))
            .route("/xrpc/com.atproto.sync.listRepos", get(repos))
            .route(
                "/xrpc/com.atproto.sync.listReposByCollection",
                get(repos_by_collection),
            )
            .with_state(Shared {
                network,
                endpoint,
                is_mirror,
            })
            .layer(from_fn_with_state(mishaps.clone(), apply_mishap));
        let serving = tokio::spawn(async move {
            axum::serve(listener, routes).await.ok();
        });
        Ok(Self {
            address,
            mishaps,
            serving,
        })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes the next `times` answers of `endpoint` fail with `mishap`.
    pub fn misbehave(&self, endpoint: Endpoint, mishap: Mishap, times: u64) {
        self.mishaps.plan(endpoint, mishap, times);
    }

    /// Makes all further answers of `endpoint` normal again.
    pub fn behave(&self, endpoint: Endpoint) {
        self.mishaps.end(endpoint);
    }

    /// The number of answers that are held back at present ([`Mishap::Held`]).
    pub fn held(&self) -> usize {
        self.mishaps.held()
    }

    /// Releases all answers that are held back, and further ones until the next mishap is planned.
    pub fn release(&self) {
        self.mishaps.release();
    }

    /// The number of requests to `endpoint`.
    pub fn requests(&self, endpoint: Endpoint) -> u64 {
        self.mishaps.requests(endpoint)
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Shared {
    fn network(&self) -> MutexGuard<'_, Network> {
        self.network.lock().expect("nothing panics with the lock")
    }

    fn answer(&self, did: &str, answer: impl FnOnce(&Account) -> Response) -> Response {
        match self.network().account(did) {
            Some(account) if self.has(account) => answer(account),
            _ => not_found(did),
        }
    }

    fn has(&self, account: &Account) -> bool {
        let host = account.host.as_ref();
        self.is_mirror || host.is_none_or(|host| *host == self.endpoint)
    }
}

/// The document of the PLC directory. It remains after the account is deleted. An account that
/// never moved lives at `endpoint`.
pub fn document(account: &Account, endpoint: &str) -> Value {
    let did = &account.did;
    json!({
        "@context": [
            "https://www.w3.org/ns/did/v1",
            "https://w3id.org/security/multikey/v1",
        ],
        "id": did,
        "alsoKnownAs": [format!("at://{}", account.handle)],
        "verificationMethod": [{
            "id": format!("{did}#atproto"),
            "type": "Multikey",
            "controller": did,
            "publicKeyMultibase": account.repo.key().public_multibase(),
        }],
        "service": [{
            "id": "#atproto_pds",
            "type": "AtprotoPersonalDataServer",
            "serviceEndpoint": account.host.as_deref().unwrap_or(endpoint),
        }],
    })
}

async fn did_document(State(shared): State<Shared>, Path(did): Path<String>) -> Response {
    match shared.network().account(&did) {
        Some(account) => Json(document(account, &shared.endpoint)).into_response(),
        None => (StatusCode::NOT_FOUND, "DID not registered").into_response(),
    }
}

async fn repo(State(shared): State<Shared>, Query(OfRepo { did }): Query<OfRepo>) -> Response {
    shared.answer(&did, |account| {
        match (refusal(account), account.repo.export_car()) {
            (Some(refusal), _) => refusal,
            (None, None) => not_found(&did),
            (None, Some(car)) => {
                let content_type = (header::CONTENT_TYPE, "application/vnd.ipld.car");
                ([content_type], Bytes::from(car)).into_response()
            }
        }
    })
}

async fn repo_status(
    State(shared): State<Shared>,
    Query(OfRepo { did }): Query<OfRepo>,
) -> Response {
    shared.answer(&did, |account| {
        let mut answer = json!({ "did": did, "active": account.is_active() });
        if let Some(status) = account.status {
            answer["status"] = status.as_str().into();
        } else if let Some(head) = account.repo.head() {
            answer["rev"] = head.rev.as_str().into();
        }
        Json(answer).into_response()
    })
}

async fn latest_commit(
    State(shared): State<Shared>,
    Query(OfRepo { did }): Query<OfRepo>,
) -> Response {
    shared.answer(&did, |account| {
        match (refusal(account), account.repo.head()) {
            (Some(refusal), _) => refusal,
            (None, None) => not_found(&did),
            (None, Some(head)) => {
                Json(json!({ "cid": head.commit.to_string(), "rev": head.rev })).into_response()
            }
        }
    })
}

/// All accounts except deleted ones, which have no repository.
async fn repos(State(shared): State<Shared>, Query(page): Query<Page>) -> Json<Value> {
    let network = shared.network();
    let accounts = network.accounts().iter();
    let listed = accounts.filter_map(|account| {
        let head = account.repo.head()?;
        let mut repo = json!({
            "did": account.did,
            "head": head.commit.to_string(),
            "rev": head.rev,
            "active": account.is_active(),
        });
        match account.status {
            Some(Status::Deleted) => return None,
            Some(status) => repo["status"] = status.as_str().into(),
            None => {}
        }
        Some((account.did.as_str(), repo))
    });
    page.of(listed.collect())
}

/// Active accounts.
async fn repos_by_collection(
    State(shared): State<Shared>,
    Query(OfCollection { collection }): Query<OfCollection>,
    Query(page): Query<Page>,
) -> Json<Value> {
    let network = shared.network();
    let accounts = network.accounts().iter();
    let listed = accounts
        .filter(|account| account.is_active() && account.repo.has_collection(&collection))
        .map(|account| (account.did.as_str(), json!({ "did": account.did })));
    page.of(listed.collect())
}

impl Page {
    fn of(&self, mut repos: BTreeMap<&str, Value>) -> Json<Value> {
        if let Some(cursor) = &self.cursor {
            repos.retain(|did, _| *did > cursor.as_str());
        }
        let limit = self.limit.unwrap_or(DEFAULT_PAGE);
        let last = repos.keys().take(limit).next_back().copied();
        let has_more = repos.len() > limit;
        let listed: Vec<Value> = repos.into_values().take(limit).collect();
        let mut answer = json!({ "repos": listed });
        if let Some(last) = last.filter(|_| has_more) {
            answer["cursor"] = last.into();
        }
        Json(answer)
    }
}

/// The error for the repository of an inactive account.
fn refusal(account: &Account) -> Option<Response> {
    let error = match account.status? {
        Status::Deactivated => "RepoDeactivated",
        Status::Deleted => return Some(not_found(&account.did)),
        Status::Suspended => "RepoSuspended",
        Status::Takendown => "RepoTakendown",
    };
    Some(failure(error, &account.did))
}

fn not_found(did: &str) -> Response {
    failure("RepoNotFound", did)
}

fn failure(error: &str, did: &str) -> Response {
    let body = json!({ "error": error, "message": format!("no repository of {did}") });
    (StatusCode::BAD_REQUEST, Json(body)).into_response()
}
