//! Failures of HTTP answers, over a real socket.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::{Client, Response};
use simulated_network::account::Account;
use simulated_network::car::read_car;
use simulated_network::http::HttpServer;
use simulated_network::mishap::{Endpoint, Mishap};
use simulated_network::network::Network;
use simulated_network::record::SLOT_OFFER;
use simulated_network::shape::Shape;
use tokio::time::Instant;

struct Host {
    network: Arc<Mutex<Network>>,
    server: HttpServer,
    did: String,
}

impl Host {
    async fn start() -> Self {
        let mut network = Network::new(1, Shape::default());
        network.steps(50);
        let active = network
            .accounts()
            .iter()
            .find(|account| account.is_active());
        let did = active.unwrap().did.clone();
        let network = Arc::new(Mutex::new(network));
        let server = HttpServer::start(network.clone()).await.unwrap();
        Self {
            network,
            server,
            did,
        }
    }

    fn url(&self, endpoint: Endpoint) -> String {
        let (base, did) = (self.server.url(), &self.did);
        let sync = format!("{base}/xrpc/com.atproto.sync");
        match endpoint {
            Endpoint::DidDocument => format!("{base}/{did}"),
            Endpoint::GetLatestCommit => format!("{sync}.getLatestCommit?did={did}"),
            Endpoint::GetRepo => format!("{sync}.getRepo?did={did}"),
            Endpoint::GetRepoStatus => format!("{sync}.getRepoStatus?did={did}"),
            Endpoint::ListRepos => format!("{sync}.listRepos"),
            Endpoint::ListReposByCollection => {
                format!("{sync}.listReposByCollection?collection={SLOT_OFFER}")
            }
        }
    }

    async fn ask(&self, endpoint: Endpoint) -> reqwest::Result<Response> {
        let client = Client::builder().timeout(Duration::from_secs(20)).build();
        client.unwrap().get(self.url(endpoint)).send().await
    }

    /// Requests `endpoint` with one planned `mishap`.
    async fn ask_once(&self, endpoint: Endpoint, mishap: Mishap) -> reqwest::Result<Response> {
        self.server.misbehave(endpoint, mishap, 1);
        let answer = self.ask(endpoint).await;
        assert_eq!(self.ask(endpoint).await.unwrap().status(), 200);
        answer
    }
}

#[tokio::test]
async fn a_mishap_affects_one_endpoint_for_the_planned_number_of_answers() {
    let host = Host::start().await;
    let all = [
        Endpoint::DidDocument,
        Endpoint::GetLatestCommit,
        Endpoint::GetRepo,
        Endpoint::GetRepoStatus,
        Endpoint::ListRepos,
        Endpoint::ListReposByCollection,
    ];
    for (befallen, status) in all.into_iter().zip([404, 410, 500, 501, 502, 503]) {
        host.server.misbehave(befallen, Mishap::Status(status), 2);
        for endpoint in all {
            let expected = if endpoint == befallen { status } else { 200 };
            assert_eq!(host.ask(endpoint).await.unwrap().status(), expected);
        }
        assert_eq!(host.ask(befallen).await.unwrap().status(), status);
        assert_eq!(host.ask(befallen).await.unwrap().status(), 200);
    }
    assert_eq!(host.server.requests(Endpoint::GetRepo), 8);
}

#[tokio::test]
async fn a_busy_host_sends_retry_after() {
    let host = Host::start().await;
    let mishap = Mishap::RetryAfter(17);
    let answer = host.ask_once(Endpoint::GetRepo, mishap).await.unwrap();
    assert_eq!(answer.status(), 429);
    assert_eq!(answer.headers()["retry-after"], "17");
}

#[tokio::test]
async fn a_truncated_answer_ends_with_the_connection() {
    let host = Host::start().await;
    let answer = host.ask_once(Endpoint::GetRepo, Mishap::Truncated).await;
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.bytes().await.is_err());
}

#[tokio::test]
async fn an_oversized_answer_continues_after_its_end() {
    let host = Host::start().await;
    let whole = host.ask(Endpoint::GetRepo).await.unwrap();
    let whole = whole.bytes().await.unwrap();
    assert!(read_car(&whole).is_some());
    let mishap = Mishap::Oversized(1_000_000);
    let answer = host.ask_once(Endpoint::GetRepo, mishap).await.unwrap();
    assert_eq!(answer.content_length(), None);
    let body = answer.bytes().await.unwrap();
    assert_eq!(body.len(), whole.len() + 1_000_000);
    assert!(body.starts_with(&whole));
}

#[tokio::test]
async fn a_page_of_html_is_no_did_document() {
    let host = Host::start().await;
    let answer = host
        .ask_once(Endpoint::DidDocument, Mishap::WrongType)
        .await;
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "text/html");
    assert!(answer.json::<serde_json::Value>().await.is_err());
}

#[tokio::test]
async fn a_client_that_counts_redirects_ends_a_redirect_loop() {
    let host = Host::start().await;
    let endpoint = Endpoint::DidDocument;
    host.server
        .misbehave(endpoint, Mishap::RedirectLoop, u64::MAX);
    assert!(host.ask(endpoint).await.unwrap_err().is_redirect());
    assert!(host.server.requests(endpoint) > 5);
}

#[tokio::test]
async fn an_answer_may_have_another_body() {
    let host = Host::start().await;
    let mishap = Mishap::Body("no CAR".into());
    let answer = host.ask_once(Endpoint::GetRepo, mishap).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), "no CAR");
}

#[tokio::test]
async fn a_planned_mishap_can_be_cancelled() {
    let host = Host::start().await;
    let endpoint = Endpoint::GetRepoStatus;
    host.server
        .misbehave(endpoint, Mishap::Status(500), u64::MAX);
    assert_eq!(host.ask(endpoint).await.unwrap().status(), 500);
    host.server.behave(endpoint);
    assert_eq!(host.ask(endpoint).await.unwrap().status(), 200);
}

#[tokio::test]
async fn an_answer_that_is_held_back_has_the_state_of_its_request() {
    let host = Host::start().await;
    let endpoint = Endpoint::GetLatestCommit;
    let before = host.ask(endpoint).await.unwrap().text().await.unwrap();
    host.server.misbehave(endpoint, Mishap::Held, u64::MAX);
    let asked = async { host.ask(endpoint).await.unwrap().text().await.unwrap() };
    let meanwhile = async {
        while host.server.held() == 0 {
            tokio::task::yield_now().await;
        }
        let mut network = host.network.lock().unwrap();
        let is_host = |account: &Account| account.did == host.did;
        let number = network.accounts().iter().position(is_host).unwrap();
        network.write(number, &[], &[]);
        host.server.release();
    };
    let (answer, ()) = tokio::join!(asked, meanwhile);
    assert_eq!(answer, before);
    let after = host.ask(endpoint).await.unwrap().text().await.unwrap();
    assert_ne!(after, before);
}

#[tokio::test]
async fn a_slow_answer_comes_after_its_time() {
    let host = Host::start().await;
    let endpoint = Endpoint::ListReposByCollection;
    let delay = Duration::from_millis(50);
    let begun = Instant::now();
    let answer = host.ask_once(endpoint, Mishap::Slow(delay)).await;
    assert_eq!(answer.unwrap().status(), 200);
    assert!(begun.elapsed() >= delay);
}
