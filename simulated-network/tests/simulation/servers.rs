//! The relay and the HTTP endpoints, over real sockets.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};
use simulated_network::account::{Account, Status};
use simulated_network::car::read_car;
use simulated_network::frame;
use simulated_network::http::HttpServer;
use simulated_network::network::Network;
use simulated_network::record::SLOT_OFFER;
use simulated_network::relay::{Options, Relay};
use simulated_network::shape::Shape;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

fn network() -> Network {
    let mut network = Network::new(1, Shape::default());
    network.steps(200);
    network
}

async fn relay(network: &Network, options: Options) -> Relay {
    let relay = Relay::start(options).await.unwrap();
    relay.append(network.log());
    relay
}

async fn connect(relay: &Relay, query: &str) -> Socket {
    let url = format!("{}{query}", relay.url());
    connect_async(url).await.unwrap().0
}

/// The next frame; `None` if the relay has ended the connection in any way.
async fn next(socket: &mut Socket) -> Option<Bytes> {
    match socket.next().await? {
        Ok(Message::Binary(frame)) => Some(frame),
        _ => None,
    }
}

async fn assert_frames(socket: &mut Socket, expected: &[frame::LogEntry]) {
    for entry in expected {
        assert_eq!(next(socket).await.as_ref(), Some(&entry.frame));
    }
}

#[tokio::test]
async fn cursor_zero_brings_the_whole_log_and_then_what_is_appended() {
    let mut network = network();
    let relay = relay(&network, Options::default()).await;
    let mut socket = connect(&relay, "?cursor=0").await;
    assert_frames(&mut socket, network.log()).await;
    let more = network.steps(20);
    relay.append(more);
    assert_frames(&mut socket, more).await;
}

#[tokio::test]
async fn a_cursor_resumes_behind_its_event_or_at_it() {
    let network = network();
    let (index, seq) = (50..)
        .find_map(|index| Some((index, network.log()[index].seq?)))
        .unwrap();
    for (inclusive, first) in [(false, index + 1), (true, index)] {
        let options = Options {
            inclusive,
            ..Options::default()
        };
        let relay = relay(&network, options).await;
        let mut socket = connect(&relay, &format!("?cursor={seq}")).await;
        let behind = network.log()[first..].iter();
        let expected = behind.clone().find(|entry| entry.seq.is_some()).unwrap();
        assert_eq!(next(&mut socket).await.as_ref(), Some(&expected.frame));
    }
}

#[tokio::test]
async fn no_cursor_brings_only_what_happens_next() {
    let mut network = network();
    let relay = relay(&network, Options::default()).await;
    let mut socket = connect(&relay, "").await;
    // The client may see the end of the handshake before the relay counts the session.
    while relay.sessions() == 0 {
        tokio::task::yield_now().await;
    }
    let more = network.steps(20);
    relay.append(more);
    assert_frames(&mut socket, more).await;
}

#[tokio::test]
async fn an_outdated_cursor_gets_an_info_and_the_oldest_held_event() {
    let network = network();
    let options = Options {
        window: Some(10),
        ..Options::default()
    };
    let relay = relay(&network, options).await;
    let mut socket = connect(&relay, "?cursor=1").await;
    assert_eq!(next(&mut socket).await, Some(frame::info("OutdatedCursor")));
    let held = &network.log()[network.log().len() - 10..];
    assert_frames(&mut socket, held).await;
}

#[tokio::test]
async fn a_future_cursor_is_an_error_and_the_end() {
    let relay = relay(&network(), Options::default()).await;
    let mut socket = connect(&relay, "?cursor=999999").await;
    assert_eq!(next(&mut socket).await, Some(frame::error("FutureCursor")));
    assert_eq!(next(&mut socket).await, None);
}

#[tokio::test]
async fn a_dropped_client_may_come_again_and_a_stalled_one_waits() {
    let mut network = network();
    let relay = relay(&network, Options::default()).await;
    let mut socket = connect(&relay, "?cursor=0").await;
    assert_frames(&mut socket, network.log()).await;
    relay.drop_connections();
    assert_eq!(next(&mut socket).await, None);

    let mut socket = connect(&relay, "?cursor=0").await;
    assert_frames(&mut socket, network.log()).await;
    relay.stall(true);
    let more = network.steps(5);
    relay.append(more);
    let silence = timeout(Duration::from_millis(50), next(&mut socket)).await;
    assert!(silence.is_err(), "{silence:?}");
    relay.stall(false);
    assert_frames(&mut socket, more).await;
    assert_eq!(relay.sessions(), 2);
}

#[tokio::test]
async fn a_relay_that_forgot_begins_a_new_sequence() {
    let mut network = network();
    let relay = relay(&network, Options::default()).await;
    relay.forget();
    network.restart_sequence();
    network.steps(10);
    relay.append(network.log());
    let mut socket = connect(&relay, "?cursor=0").await;
    assert_frames(&mut socket, network.log()).await;
}

async fn ask(server: &HttpServer, path: &str) -> (u16, Value) {
    let answer = reqwest::get(format!("{}{path}", server.url()))
        .await
        .unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

fn shared() -> Arc<Mutex<Network>> {
    Arc::new(Mutex::new(network()))
}

#[tokio::test]
async fn a_did_document_names_the_key_and_the_host() {
    let network = shared();
    let server = HttpServer::start(network.clone()).await.unwrap();
    let account = network.lock().unwrap().accounts()[0].clone();
    let (status, document) = ask(&server, &format!("/{}", account.did)).await;
    assert_eq!(status, 200);
    assert_eq!(document["id"], account.did);
    assert_eq!(
        document["verificationMethod"][0]["publicKeyMultibase"],
        account.repo.key().public_multibase()
    );
    assert_eq!(document["service"][0]["serviceEndpoint"], server.url());
    let unknown = format!("{}/did:plc:nobody", server.url());
    assert_eq!(reqwest::get(unknown).await.unwrap().status(), 404);
}

#[tokio::test]
async fn repositories_of_active_accounts_are_given_out_and_those_of_others_are_refused() {
    let network = shared();
    let server = HttpServer::start(network.clone()).await.unwrap();
    // After this many steps some account has left.
    network.lock().unwrap().steps(300);
    let accounts = network.lock().unwrap().accounts().to_vec();
    for account in &accounts {
        let did = &account.did;
        let repo = format!("/xrpc/com.atproto.sync.getRepo?did={did}");
        let (_, latest) = ask(
            &server,
            &format!("/xrpc/com.atproto.sync.getLatestCommit?did={did}"),
        )
        .await;
        let (_, status) = ask(
            &server,
            &format!("/xrpc/com.atproto.sync.getRepoStatus?did={did}"),
        )
        .await;
        assert_eq!(status["active"], account.is_active());
        if let Some(reason) = account.status {
            assert_eq!(status["status"], reason.as_str());
            let error = match reason {
                Status::Deactivated => "RepoDeactivated",
                Status::Deleted => "RepoNotFound",
                Status::Suspended => "RepoSuspended",
                Status::Takendown => "RepoTakendown",
            };
            assert_eq!(latest["error"], error);
            let (code, answer) = ask(&server, &repo).await;
            assert_eq!((code, &answer["error"]), (400, &json!(error)));
        } else {
            let head = account.repo.head().unwrap();
            assert_eq!(
                latest,
                json!({ "cid": head.commit.to_string(), "rev": head.rev })
            );
            assert_eq!(status["rev"], head.rev);
            let answer = reqwest::get(format!("{}{repo}", server.url()))
                .await
                .unwrap();
            let (root, blocks) = read_car(&answer.bytes().await.unwrap()).unwrap();
            assert_eq!(root, head.commit);
            let records = account
                .repo
                .paths()
                .map(|path| account.repo.cid(path).unwrap());
            assert!(records.into_iter().all(|cid| blocks.contains_key(&cid)));
        }
    }
    assert!(accounts.iter().any(|account| account.is_active()));
    assert!(accounts.iter().any(|account| !account.is_active()));
}

#[tokio::test]
async fn the_repositories_of_a_collection_come_in_pages() {
    let network = shared();
    let server = HttpServer::start(network.clone()).await.unwrap();
    let method =
        format!("/xrpc/com.atproto.sync.listReposByCollection?collection={SLOT_OFFER}&limit=2");
    let mut listed = Vec::new();
    let mut page = method.clone();
    loop {
        let (_, answer) = ask(&server, &page).await;
        let repos = answer["repos"].as_array().unwrap().clone();
        assert!(repos.len() <= 2);
        listed.extend(
            repos
                .iter()
                .map(|repo| repo["did"].as_str().unwrap().to_owned()),
        );
        match answer["cursor"].as_str() {
            Some(cursor) => page = format!("{method}&cursor={cursor}"),
            None => break,
        }
    }
    let mut expected: Vec<String> = network
        .lock()
        .unwrap()
        .accounts()
        .iter()
        .filter(|account| account.is_active() && account.repo.has_collection(SLOT_OFFER))
        .map(|account| account.did.clone())
        .collect();
    expected.sort();
    assert!(expected.len() > 2);
    assert_eq!(listed, expected);
}

#[tokio::test]
async fn all_repositories_but_deleted_ones_are_listed_with_their_status() {
    let network = shared();
    let server = HttpServer::start(network.clone()).await.unwrap();
    network.lock().unwrap().steps(300);
    let mut listed = Vec::new();
    let mut page = "?limit=3".to_owned();
    loop {
        let (_, answer) = ask(&server, &format!("/xrpc/com.atproto.sync.listRepos{page}")).await;
        listed.extend(answer["repos"].as_array().unwrap().clone());
        match answer["cursor"].as_str() {
            Some(cursor) => page = format!("?limit=3&cursor={cursor}"),
            None => break,
        }
    }
    let mut accounts = network.lock().unwrap().accounts().to_vec();
    accounts.retain(|account| account.status != Some(Status::Deleted));
    accounts.sort_by(|one, other| one.did.cmp(&other.did));
    assert_eq!(listed.len(), accounts.len());
    for (repo, account) in listed.iter().zip(&accounts) {
        let head = account.repo.head().unwrap();
        assert_eq!(repo["did"], account.did);
        assert_eq!(repo["head"], head.commit.to_string());
        assert_eq!(repo["active"], account.is_active());
        assert_eq!(repo["status"].as_str(), account.status.map(Status::as_str));
    }
    assert!(accounts.iter().any(|account| !account.is_active()));
}

#[tokio::test]
async fn the_new_host_and_a_mirror_have_an_account_that_has_moved() {
    let network = shared();
    let old = HttpServer::start(network.clone()).await.unwrap();
    let new = HttpServer::start(network.clone()).await.unwrap();
    let mirror = HttpServer::start_mirror(network.clone()).await.unwrap();
    let did = {
        let mut network = network.lock().unwrap();
        let active = |account: &Account| account.is_active();
        let number = network.accounts().iter().position(active).unwrap();
        network.move_to(number, new.url());
        network.accounts()[number].did.clone()
    };
    let (_, document) = ask(&old, &format!("/{did}")).await;
    assert_eq!(document["service"][0]["serviceEndpoint"], new.url());
    let latest = format!("/xrpc/com.atproto.sync.getLatestCommit?did={did}");
    for (server, expected) in [(&old, 400), (&new, 200), (&mirror, 200)] {
        assert_eq!(ask(server, &latest).await.0, expected);
    }
}

#[tokio::test]
async fn a_relay_with_a_server_behind_it_answers_both_ways_at_one_address() {
    let network = shared();
    let server = HttpServer::start(network.clone()).await.unwrap();
    let relay = Relay::start_before(server.address(), Options::default());
    let relay = relay.await.unwrap();
    let log = network.lock().unwrap().log().to_vec();
    relay.append(&log);
    let mut socket = connect(&relay, "?cursor=0").await;
    assert_frames(&mut socket, &log).await;
    let url = relay.url();
    let (address, _) = url["ws://".len()..].split_once('/').unwrap();
    let repos = format!("http://{address}/xrpc/com.atproto.sync.listRepos");
    assert_eq!(reqwest::get(repos).await.unwrap().status(), 200);
}
