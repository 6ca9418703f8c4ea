//! The interface on `admin_listen`, asked over a real socket. Holds invariants 12.6, 13.7 and 13.8.

use std::process::Command;
use std::time::Duration;

use huddle_firehose::testing::mock_relay::MockRelay;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use test_support::mock_relay::recorded_relay;
use test_support::waiting::{POLL_INTERVAL, SLOT_TIMEOUT, soon};
use test_support::worker_process::{Program, command};
use tokio::time::{Instant, sleep};

const PROGRAM: &str = env!("CARGO_BIN_EXE_huddle-firehose");

struct Service {
    folder: TempDir,
    relay: MockRelay,
    worker: Program,
    /// The tokens of the roles read, operate and admin.
    tokens: [String; 3],
}

/// The index of a role's token.
const READ: usize = 0;
const OPERATE: usize = 1;
const ADMIN: usize = 2;

impl Service {
    async fn start() -> Self {
        let (folder, relay) = (tempfile::tempdir().unwrap(), recorded_relay().await);
        let tokens = ["read", "operate", "admin"].map(|role| new_token(&folder, role));
        let mut run = command(PROGRAM);
        run.args(["run", "--listen", "127.0.0.1:0", "--verify", "none"])
            .args(["--admin-listen", "127.0.0.1:0", "--admin-tokens-file"])
            .arg(folder.path().join("tokens"))
            .args(["--source-url", &relay.url(), "--database-url"])
            .arg(folder.path().join("huddle.db"));
        let worker = Program::start(run.into()).await;
        Self {
            folder,
            relay,
            worker,
            tokens,
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let address = self.worker.admin_address();
        Client::new().request(method, format!("http://{address}/admin/v1{path}"))
    }

    fn with(&self, role: usize, method: Method, path: &str) -> RequestBuilder {
        self.request(method, path).bearer_auth(&self.tokens[role])
    }

    /// A GET with the role read.
    async fn get(&self, path: &str) -> Value {
        let response = self.with(READ, Method::GET, path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.json().await.unwrap()
    }

    async fn command(&self, request: RequestBuilder) -> Value {
        let response = request.header("prefer", "wait=5").send().await.unwrap();
        let status = response.status();
        let mut row: Value = response.json().await.unwrap();
        assert!(status.is_success(), "{row}");
        let deadline = Instant::now() + SLOT_TIMEOUT;
        while !matches!(row["state"].as_str(), Some("done" | "failed" | "cancelled")) {
            assert!(Instant::now() < deadline, "never ended: {row}");
            sleep(POLL_INTERVAL).await;
            let path = format!("/commands/{}", row["id"]);
            // The worker may start again meanwhile.
            if let Ok(response) = self.with(READ, Method::GET, &path).send().await {
                row = response.json().await.unwrap();
            }
        }
        row
    }

    /// The path of the source.
    fn source(&self) -> String {
        let url = self.relay.url();
        let encoded: String = url
            .bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' => char::from(byte).to_string(),
                other => format!("%{other:02X}"),
            })
            .collect();
        format!("/sources/{encoded}")
    }
}

fn new_token(folder: &TempDir, role: &str) -> String {
    let output = Command::new(PROGRAM)
        .args(["admin", "token", "new", role, "--role", role])
        .arg("--admin-tokens-file")
        .arg(folder.path().join("tokens"))
        .env_clear()
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

async fn problem(response: Response, status: StatusCode) -> Value {
    assert_eq!(response.status(), status);
    let media_type = response.headers()["content-type"].to_str().unwrap();
    assert_eq!(media_type, "application/problem+json");
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["status"], status.as_u16());
    body
}

#[tokio::test]
async fn no_token_and_a_wrong_one_have_the_same_answer_and_are_in_the_audit() {
    let service = Service::start().await;
    let without = service.request(Method::GET, "/audit").send().await.unwrap();
    let without = problem(without, StatusCode::UNAUTHORIZED).await;
    let wrong = service
        .request(Method::GET, "/audit")
        .bearer_auth("hfa_wrong");
    let wrong = problem(wrong.send().await.unwrap(), StatusCode::UNAUTHORIZED).await;
    assert_eq!(without, wrong);
    let audit = service.get("/audit").await;
    for row in [&audit["items"][0], &audit["items"][1]] {
        assert_eq!(
            (&row["outcome"], &row["target"]),
            (&"denied".into(), &"/admin/v1/audit".into())
        );
    }
    // Too many of them have to wait.
    for _ in 0..10 {
        let _denied = service.request(Method::GET, "/audit").send().await.unwrap();
    }
    let late = service.request(Method::GET, "/audit").send().await.unwrap();
    problem(late, StatusCode::TOO_MANY_REQUESTS).await;
    // No stranger at the same address keeps an operator out.
    let operator = service.with(ADMIN, Method::GET, "/audit").send();
    assert_eq!(operator.await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn each_role_may_do_what_it_says_and_what_is_denied_is_recorded() {
    let service = Service::start().await;
    let pause = format!("{}/pause", service.source());
    let denied = service
        .with(READ, Method::POST, &pause)
        .send()
        .await
        .unwrap();
    let body = problem(denied, StatusCode::FORBIDDEN).await;
    assert!(
        body["detail"].as_str().unwrap().contains("operate"),
        "{body}"
    );
    let commands = service.get("/commands").await;
    assert_eq!(commands["items"][0]["state"], "denied");

    let paused = service
        .command(service.with(OPERATE, Method::POST, &pause))
        .await;
    assert_eq!(paused["state"], "done");
    assert_eq!(paused["actor"], "token operate");
    let deadline = Instant::now() + SLOT_TIMEOUT;
    loop {
        let shown = service.get(&service.source()).await;
        if shown["status"]["connection"]["state"] == "paused" {
            break;
        }
        assert!(Instant::now() < deadline, "never paused: {shown}");
        sleep(POLL_INTERVAL).await;
    }

    let drain = service
        .with(OPERATE, Method::POST, "/drain")
        .send()
        .await
        .unwrap();
    problem(drain, StatusCode::FORBIDDEN).await;
}

#[tokio::test]
async fn pages_of_other_origins_and_strange_names_are_refused() {
    let service = Service::start().await;
    let list = || service.with(ADMIN, Method::GET, "/commands");
    for (name, value, status) in [
        ("host", "rebound.example", StatusCode::MISDIRECTED_REQUEST),
        ("origin", "http://evil.example", StatusCode::FORBIDDEN),
        ("origin", "null", StatusCode::FORBIDDEN),
        ("sec-fetch-site", "cross-site", StatusCode::FORBIDDEN),
    ] {
        let refused = list().header(name, value).send().await.unwrap();
        problem(refused, status).await;
    }
    let answer = list().send().await.unwrap();
    assert_eq!(answer.headers()["cache-control"], "no-store");
    assert!(!answer.headers().contains_key("access-control-allow-origin"));
    let preflight = service
        .request(Method::OPTIONS, "/commands")
        .send()
        .await
        .unwrap();
    assert_eq!(preflight.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_setting_is_changed_only_by_one_who_has_seen_its_value() {
    let service = Service::start().await;
    let path = "/filters/collections";
    let seen = service.with(READ, Method::GET, path).send().await.unwrap();
    let tag = seen.headers()["etag"].to_str().unwrap().to_owned();
    let change = json!({ "value": { "app.example.*": true }, "reason": "a test" });
    let patch = || service.with(ADMIN, Method::PATCH, path).json(&change);
    problem(
        patch().send().await.unwrap(),
        StatusCode::PRECONDITION_REQUIRED,
    )
    .await;
    let stale = patch().header("if-match", "\"0\"").send().await.unwrap();
    let stale = problem(stale, StatusCode::PRECONDITION_FAILED).await;
    assert_eq!(stale["current"], json!(["com.huddle.*"]));

    let row = service.command(patch().header("if-match", &tag)).await;
    assert_eq!(row["state"], "done", "{row}");
    let filter = service.get(path).await;
    assert_eq!(filter["value"], json!(["com.huddle.*", "app.example.*"]));
    assert_eq!(filter["set_by"], "token admin");
    let again = patch().header("if-match", &tag).send().await.unwrap();
    problem(again, StatusCode::PRECONDITION_FAILED).await;
}

/// The fields of an array would have their meaning by their place.
#[tokio::test]
async fn a_body_is_an_object_of_a_limited_size() {
    let service = Service::start().await;
    let post = |path: &str| service.with(ADMIN, Method::POST, path);
    let discard = "/dead-letters/discard";
    for body in [
        json!([{ "ids": [999] }, false, true]),
        json!({ "filter": [[999]] }),
        json!([]),
        json!("all"),
    ] {
        let refused = post(discard).json(&body).send().await.unwrap();
        problem(refused, StatusCode::UNPROCESSABLE_ENTITY).await;
    }
    let cursor = format!("{}/cursor", service.source());
    let put = service.with(ADMIN, Method::PUT, &cursor).json(&json!([7]));
    problem(put.send().await.unwrap(), StatusCode::UNPROCESSABLE_ENTITY).await;
    let long = json!({ "reason": "x".repeat(70_000) }).to_string();
    let request = post(discard).header("content-type", "application/json");
    let refused = request.body(long).send().await.unwrap();
    let body = problem(refused, StatusCode::PAYLOAD_TOO_LARGE).await;
    assert!(body["detail"].to_string().contains("49152"), "{body}");
}

/// The pipeline is stopped for a move that is made, and not for one that is refused.
#[tokio::test]
async fn a_request_that_waits_has_the_refusal_of_a_move_at_once() {
    let service = Service::start().await;
    let deadline = Instant::now() + SLOT_TIMEOUT;
    while service.get(&service.source()).await["cursor"]["seq"] != 306 {
        assert!(Instant::now() < deadline, "the recording was never read");
        sleep(POLL_INTERVAL).await;
    }
    let connections = service.relay.connections();
    let cursor = format!("{}/cursor", service.source());
    let put = service.with(ADMIN, Method::PUT, &cursor);
    let put = put.header("prefer", "wait=5").json(&json!({ "seq": 5000 }));
    let row: Value = put.send().await.unwrap().json().await.unwrap();
    assert_eq!(row["state"], "failed", "{row}");
    assert_eq!(service.relay.connections(), connections);
}

#[tokio::test]
async fn a_repeated_request_with_a_key_is_the_first_one() {
    let service = Service::start().await;
    let reconnect = format!("{}/reconnect", service.source());
    let request = |path: &str| {
        let request = service.with(OPERATE, Method::POST, path);
        request.header("idempotency-key", "one")
    };
    let first = service.command(request(&reconnect)).await;
    let second = service.command(request(&reconnect)).await;
    assert_eq!(first["id"], second["id"]);
    let other = request("/backfill/pause").send().await.unwrap();
    problem(other, StatusCode::UNPROCESSABLE_ENTITY).await;
}

#[tokio::test]
async fn what_happens_is_told_as_events_and_a_reader_that_comes_back_misses_none() {
    let service = Service::start().await;
    let stream = |last: Option<&str>| {
        let request = service.with(READ, Method::GET, "/events");
        match last {
            Some(id) => request.header("last-event-id", id),
            None => request,
        }
    };
    let mut events = stream(None).send().await.unwrap();
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    service
        .command(service.with(OPERATE, Method::POST, "/backfill/pause"))
        .await;
    let mut text = String::new();
    while !text.contains("backfill_pause") {
        let chunk = soon(events.chunk()).await.unwrap().unwrap();
        text += std::str::from_utf8(&chunk).unwrap();
    }
    drop(events);
    let mut events = stream(Some("0.0.0")).send().await.unwrap();
    let mut text = String::new();
    while !(text.contains("event: audit") && text.contains("backfill_pause")) {
        let chunk = soon(events.chunk()).await.unwrap().unwrap();
        text += std::str::from_utf8(&chunk).unwrap();
    }
    // The number of streams is limited.
    let mut open = vec![events];
    let refused = loop {
        let response = stream(None).send().await.unwrap();
        if response.status() != StatusCode::OK {
            break response;
        }
        open.push(response);
        assert!(open.len() <= 8);
    };
    problem(refused, StatusCode::SERVICE_UNAVAILABLE).await;
}

/// Holds invariant 13.9.
#[tokio::test]
async fn dead_letters_are_grouped_shown_tried_again_and_discarded_over_http() {
    let service = Service::start().await;
    let deadline = Instant::now() + SLOT_TIMEOUT;
    let id = loop {
        let page = service.get("/dead-letters?stage=validate").await;
        if let Some(letter) = page["items"].get(0) {
            break letter["id"].to_string();
        }
        assert!(Instant::now() < deadline, "no letter: {page}");
        sleep(POLL_INTERVAL).await;
    };
    let letter = service.get(&format!("/dead-letters/{id}")).await;
    assert!(letter["task"]["rev"].is_string(), "{letter}");
    let groups = service.get("/dead-letters/groups?stage=validate").await;
    let group = groups[0]["group"].as_str().unwrap();
    let of_group = service.get(&format!("/dead-letters?group={group}")).await;
    assert!(!of_group["items"].as_array().unwrap().is_empty());

    let path = format!("/dead-letters/{id}/retry");
    let retried = service
        .command(service.with(OPERATE, Method::POST, &path))
        .await;
    assert_eq!(retried["result"]["became"], json!({ "refused": 1 }));

    let discard = |role: usize| {
        let body = json!({ "filter": { "ids": [id.parse::<i64>().unwrap()] }, "reason": "a test" });
        service
            .with(role, Method::POST, "/dead-letters/discard")
            .json(&body)
    };
    let denied = discard(OPERATE).send().await.unwrap();
    problem(denied, StatusCode::FORBIDDEN).await;
    let discarded = service.command(discard(ADMIN)).await;
    assert_eq!(discarded["result"]["became"], json!({ "discarded": 1 }));
    let gone = service.with(READ, Method::GET, &format!("/dead-letters/{id}"));
    problem(gone.send().await.unwrap(), StatusCode::NOT_FOUND).await;
    for act in ["retry", "discard"] {
        let path = format!("/dead-letters/{id}/{act}");
        let gone = service.with(ADMIN, Method::POST, &path);
        problem(gone.send().await.unwrap(), StatusCode::NOT_FOUND).await;
    }
    let empty = service
        .with(ADMIN, Method::POST, "/dead-letters/discard")
        .json(&json!({}));
    assert_eq!(service.command(empty).await["state"], "failed");
}

#[tokio::test]
async fn every_path_of_the_document_is_answered_as_it_says() {
    let service = Service::start().await;
    let document = service.get("/openapi.json").await;
    for (path, methods) in document["paths"].as_object().unwrap() {
        let path = path.strip_prefix("/admin/v1").unwrap();
        let path = path
            .replace(
                "{source}",
                service.source().strip_prefix("/sources/").unwrap(),
            )
            .replace("{did}", "did:plc:ann")
            .replace("{sink}", "1")
            .replace("{name}", "collections")
            .replace("{id}", "1");
        for (method, operation) in methods.as_object().unwrap() {
            if path == "/drain" {
                continue;
            }
            let method: Method = method.to_uppercase().parse().unwrap();
            let mut request = service.with(ADMIN, method.clone(), &path);
            if operation.get("requestBody").is_some() {
                request = request.json(&json!({ "unknown": true }));
            }
            let response = request
                .timeout(Duration::from_secs(30))
                .send()
                .await
                .unwrap();
            let status = response.status();
            assert_ne!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "{method} {path}");
            let is_known = status != StatusCode::NOT_FOUND || path.contains("/1");
            assert!(is_known, "{method} {path}");
            let media_type = response.headers()["content-type"].to_str().unwrap();
            match status.is_success() {
                true if path == "/events" => assert_eq!(media_type, "text/event-stream"),
                true => assert_eq!(media_type, "application/json"),
                false => assert_eq!(media_type, "application/problem+json"),
            }
        }
    }
    let unknown = service
        .with(READ, Method::GET, "/nothing")
        .send()
        .await
        .unwrap();
    problem(unknown, StatusCode::NOT_FOUND).await;
    for path in ["/commands?limits=1", "/audit?limit=0", "/repos?limit=501"] {
        let refused = service.with(READ, Method::GET, path).send().await.unwrap();
        problem(refused, StatusCode::BAD_REQUEST).await;
    }
    assert!(service.folder.path().join("huddle.db").exists());
}
