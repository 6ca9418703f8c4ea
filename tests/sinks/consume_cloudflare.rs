//! A queue of Cloudflare that is consumed: it keeps no order, hands out messages twice, and counts how
//! often. Holds invariants 10.9 and 10.11.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path as UrlPath, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use axum::{Router, serve};
use huddle_firehose::sink::cloudflare_queue::{CloudflareQueue, Outside};
use huddle_firehose::sink::queue::Queue as _;
use huddle_firehose::sink::{SinkOptions, Target};
use ipld_core::ipld;
use serde_json::{Value, json};
use simulated_network::key::SigningKey;
use simulated_network::repo::{Repository, Write};
use simulated_network::tid::tid;
use test_support::cloudflare_queue::{LETTERS, Options, Queue, TOKEN};
use test_support::http_proxy::{Fate, Proxy};
use test_support::postgres::{Schema, assert_consumed};
use test_support::tables::Database;
use test_support::worker_process::Program;
use tokio::net::TcpListener;
use tokio::process::Command;
use url::Url;

use crate::cloudflare_queue::{ask, pull};
use crate::consuming::*;
use crate::truth::assert_is_true;

/// What the documents tell operators to set.
fn patient() -> Options {
    Options {
        max_retries: 100,
        ..Options::default()
    }
}

/// It hands out messages in any order, and some of them twice.
pub(crate) fn unruly() -> Options {
    let options = Options {
        seed: fastrand::u64(..1_000_000),
        duplicates: 25,
        ..patient()
    };
    println!("seed {}", options.seed);
    options
}

/// The URL of the queue at `origin`, with a token in `folder`.
pub(crate) fn url(origin: &str, folder: &Path) -> String {
    let token = folder.join("token");
    std::fs::write(&token, TOKEN).unwrap();
    Queue::url(origin, &token)
}

pub(crate) fn with_letters(url: &str) -> String {
    format!("{url}&dead_letter_queue={LETTERS}")
}

/// A consumer that may ask hosts on this machine, by the directory at `plc`.
fn consume_with(from: &str, into: &str, plc: &str) -> Command {
    let mut command = consume(from, into);
    command.args(["--plc-url", plc, "--allow-private-addresses"]);
    command
}

/// Lets time pass until nothing waits in the queue.
pub(crate) async fn until_settled(queue: &Queue) {
    until("nothing waits in the queue", async || {
        queue.pass(Duration::from_secs(20));
        queue.backlog().is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_queue_reorders_repeats_and_refuses_each_change_is_applied() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let queue = Queue::start(unruly()).await;
    let (relay, database) = (slow_relay(300).await, Database::new());
    let folder = database.folder().to_owned();
    let mut command = produce(&relay, &database, &url(&queue.origin, &folder));
    command.args(["--stop-after-idle", "1"]);
    let mut worker = Program::start(command).await;
    let network = Proxy::start(&queue.origin).await;
    let requests = Arc::new(AtomicU32::new(0));
    network.script(
        move |_| match requests.fetch_add(1, Ordering::Relaxed) % 13 {
            2 => Fate::Lost,
            4 | 9 => Fate::AnswerLost,
            6 => Fate::Refused(429, 971, "throttled", "1"),
            11 => Fate::Refused(503, 10250, "queue is overloaded", "1"),
            _ => Fate::Answered,
        },
    );
    let from = with_letters(&url(&format!("http://{}", network.address), &folder));
    let _steady = Program::start(consume(&from, &schema.url())).await;
    for kill in 1..=3 {
        let mut other = Program::start(consume(&from, &schema.url())).await;
        until("some records are there", async || {
            queue.pass(Duration::from_secs(20));
            records(&schema).await >= 20 * kill
        })
        .await;
        other.child.kill().await.unwrap();
    }
    worker.logs("stopped").await;
    assert!(worker.child.wait().await.unwrap().success());
    until_settled(&queue).await;
    assert_is_true(&database, &relay).await;
    assert_consumed(&schema, &database.path()).await;
    assert_eq!(queue.letters(), Vec::<Value>::new());
    assert!(queue.dead_letters().is_empty());
}

/// Puts bodies into the queue.
async fn push(queue: &Queue, bodies: &[String]) {
    let messages = bodies.iter();
    let messages = messages.map(|body| json!({ "body": body, "content_type": "text" }));
    let messages: Vec<Value> = messages.collect();
    let pushed = ask(queue, "batch", json!({ "messages": messages })).await;
    assert_eq!(pushed["success"], true);
}

const DID: &str = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa";
const GONE: &str = "did:plc:bbbbbbbbbbbbbbbbbbbbbbbb";
const NOTE: &str = "com.example.note";

/// The rev of a commit.
fn rev(number: u64) -> String {
    tid(1_767_225_600_000_000, number as u16)
}

/// A task of one record, with the fields of `more`.
fn task(did: &str, rkey: &str, change: u64, more: &Value) -> String {
    let mut task = json!({
        "type": "upsert", "collection": NOTE, "did": did, "rkey": rkey,
        "uri": format!("at://{did}/{NOTE}/{rkey}"), "cid": "bafy",
        "timestamp": "2026-01-01T00:00:00.000Z", "rev": rev(change),
        "seq": change, "source": "wss://relay", "feed": "f", "epoch": "e", "change": change,
        "verified": "none", "first_indexed_at": "2026-01-01T00:00:00.000Z",
        "last_indexed_at": "2026-01-01T00:00:00.000Z",
    });
    for (name, value) in more.as_object().unwrap() {
        task[name] = value.clone();
    }
    task.to_string()
}

/// A record that is hidden has the rev that it had.
#[tokio::test(flavor = "multi_thread")]
async fn of_one_epoch_the_later_change_stands_in_either_order() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let queue = Queue::start(patient()).await;
    let from = with_letters(&url(&queue.origin, folder.path()));
    let _program = Program::start(consume(&from, &schema.url())).await;
    let rev = rev(1);
    let shown = |rkey: &str| task(DID, rkey, 1, &json!({ "record": {}, "rev": rev }));
    let hidden = |rkey: &str| {
        let hidden = json!({ "type": "delete", "stale": true, "rev": rev });
        task(DID, rkey, 2, &hidden)
    };
    for body in [shown("a"), hidden("a"), hidden("b"), shown("b")] {
        push(&queue, &[body]).await;
        until("it is applied", async || queue.backlog().is_empty()).await;
    }
    let stands = "SELECT rkey || change FROM records ORDER BY rkey";
    assert_eq!(schema.column(stands).await, ["a2", "b2"]);
    let hidden = "SELECT count(*)::text FROM stale_records";
    assert_eq!(schema.column(hidden).await, ["2"]);
    assert_eq!(queue.letters(), Vec::<Value>::new());
}

/// A consumer that waits for a request and for its transaction in one step would count as stuck.
#[tokio::test]
async fn what_a_request_has_brought_is_handed_out_without_another_one() {
    let folder = tempfile::tempdir().unwrap();
    let queue = Queue::start(patient()).await;
    push(&queue, &[task(DID, "a", 1, &json!({ "record": {} }))]).await;
    let options = SinkOptions::new(None, &url(&queue.origin, folder.path())).unwrap();
    let Target::CloudflareQueue(options) = options.target else {
        panic!("{options}");
    };
    let outside = Outside {
        plc_url: Url::parse("http://127.0.0.1:1").unwrap(),
        allow_private_addresses: true,
    };
    let mut source = CloudflareQueue::new(*options, outside, 3).part(0);
    assert_eq!(source.fetch().await, Ok(vec![]));
    let requests = queue.requests();
    assert_eq!(source.fetch().await.unwrap().len(), 1);
    assert_eq!(queue.requests(), requests);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_tables_refuse_goes_to_the_dead_letter_queue_after_three_retries() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let queue = Queue::start(patient()).await;
    let from = with_letters(&url(&queue.origin, folder.path()));
    let program = Program::start(consume(&from, &schema.url())).await;
    until_tables(&schema).await;
    schema
        .execute("ALTER TABLE records ADD CONSTRAINT not_this_one CHECK (rkey <> 'r7')")
        .await;
    let bodies = (1..=30).map(|n| task(DID, &format!("r{n}"), n, &json!({ "record": { "n": n } })));
    let mut bodies: Vec<String> = bodies.collect();
    bodies.push("no task".to_owned());
    push(&queue, &bodies).await;
    // No time passes: it is tried while it is in hand.
    until("nothing waits in the queue", async || {
        queue.backlog().is_empty()
    })
    .await;
    assert_eq!(records(&schema).await, 29);
    let mut letters = queue.letters();
    letters.sort_by_key(|letter| letter["attempts"].as_u64());
    assert_eq!(letters.len(), 2);
    assert_eq!(letters[0]["text"], "no task");
    assert_eq!(letters[1]["attempts"], 4);
    assert_eq!(letters[1]["task"]["rkey"], "r7");
    assert!(
        letters[1]["error"]
            .as_str()
            .unwrap()
            .contains("not_this_one")
    );
    until("it tells of both", async || {
        number(&program, "dead_letters").await == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_dead_letter_queue_the_settings_of_the_queue_decide() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let queue = Queue::start(Options {
        max_retries: 1,
        ..Options::default()
    })
    .await;
    let from = url(&queue.origin, folder.path());
    let _program = Program::start(consume(&from, &schema.url())).await;
    push(&queue, &["no task".to_owned()]).await;
    until_settled(&queue).await;
    let dead = queue.dead_letters();
    assert_eq!((dead.len(), dead[0].attempts), (1, 2));
}

/// An account whose host answers, and one whose host is gone.
#[derive(Clone)]
struct Hosts {
    key: String,
    car: Arc<Mutex<Vec<u8>>>,
    /// How often a record was asked for.
    asked: Arc<AtomicU32>,
    /// The host, and the directory.
    http: String,
}

impl Hosts {
    async fn start(repo: &Repository) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hosts = Self {
            key: repo.key().public_multibase(),
            car: Arc::new(Mutex::new(repo.export_car().unwrap())),
            asked: Arc::default(),
            http: format!("http://{}", listener.local_addr().unwrap()),
        };
        let routes = Router::new()
            .route("/{did}", get(document))
            .route("/xrpc/com.atproto.sync.getRecord", get(repository))
            .with_state(hosts.clone());
        tokio::spawn(async move { serve(listener, routes).await });
        hosts
    }

    /// The host has read what `repo` has.
    fn catch_up(&self, repo: &Repository) {
        *self.car.lock().unwrap() = repo.export_car().unwrap();
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }
}

async fn document(State(hosts): State<Hosts>, UrlPath(did): UrlPath<String>) -> Response {
    let endpoint = match did.as_str() {
        DID => hosts.http.as_str(),
        GONE => "http://127.0.0.1:1",
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    Json(json!({
        "id": did,
        "verificationMethod": [
            { "id": "#atproto", "type": "Multikey", "publicKeyMultibase": hosts.key },
        ],
        "service": [{
            "id": "#atproto_pds", "type": "AtprotoPersonalDataServer",
            "serviceEndpoint": endpoint,
        }],
    }))
    .into_response()
}

async fn repository(
    State(hosts): State<Hosts>,
    Query(query): Query<HashMap<String, String>>,
) -> Vec<u8> {
    assert_eq!(query["collection"], NOTE);
    hosts.asked.fetch_add(1, Ordering::Relaxed);
    hosts.car.lock().unwrap().clone()
}

/// A record of 200 KB.
fn large(rkey: &str, version: u64) -> Write {
    Write {
        path: format!("{NOTE}/{rkey}"),
        value: Some(ipld!({ "text": "x".repeat(200_000), "rkey": rkey, "version": version })),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_not_in_its_task_is_that_of_the_host_if_it_is_still_the_same() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::generate(&mut fastrand::Rng::with_seed(1));
    let mut repo = Repository::new(DID, key);
    let writes = ["same", "changed"].map(|rkey| large(rkey, 1));
    repo.apply(writes.into(), rev(9));
    let cid = |rkey: &str| repo.cid(&format!("{NOTE}/{rkey}")).unwrap().to_string();
    let (same, other) = (cid("same"), cid("changed"));
    let plc = Hosts::start(&repo).await.http;
    let queue = Queue::start(patient()).await;
    let from = with_letters(&url(&queue.origin, folder.path()));
    let omitted = |cid: &str| json!({ "omitted": true, "cid": cid });
    let bodies = [
        task(DID, "same", 1, &omitted(&same)),
        // The account has written another version since, and deleted this one.
        task(DID, "changed", 2, &omitted(&same)),
        task(DID, "deleted", 3, &omitted(&other)),
        task(GONE, "a", 4, &omitted(&same)),
    ];
    push(&queue, &bodies).await;
    let _program = Program::start(consume_with(&from, &schema.url(), &plc)).await;
    until("the record is there", async || records(&schema).await == 1).await;
    until("what has changed is skipped", async || {
        queue.backlog().len() == 1
    })
    .await;
    let text = "SELECT rkey || ' ' || cid || ' ' || (record ->> 'rkey') || length(record ->> 'text') \
                FROM records";
    assert_eq!(
        schema.column(text).await,
        [format!("same {same} same200000")]
    );
    // The host that is gone is asked three more times.
    assert_eq!(queue.letters(), Vec::<Value>::new());
    until("it is a dead letter", async || {
        queue.pass(Duration::from_secs(1800));
        !queue.letters().is_empty()
    })
    .await;
    let letters = queue.letters();
    assert_eq!(letters[0]["attempts"], 4);
    assert_eq!(letters[0]["task"]["did"], GONE);
    let error = letters[0]["error"].as_str().unwrap();
    assert!(error.starts_with(&format!("the host of {GONE}")), "{error}");
    until_settled(&queue).await;
    assert_eq!(queue.letters().len(), 1);
    assert_eq!(records(&schema).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_lags_behind_its_account_is_asked_again_and_no_record_is_skipped() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::generate(&mut fastrand::Rng::with_seed(1));
    let mut repo = Repository::new(DID, key);
    repo.apply(vec![large("old", 1)], rev(1));
    let hosts = Hosts::start(&repo).await;
    repo.apply(vec![large("old", 2), large("new", 2)], rev(2));
    let cid = |rkey: &str| repo.cid(&format!("{NOTE}/{rkey}")).unwrap().to_string();
    let omitted = |cid: String| json!({ "omitted": true, "cid": cid, "rev": rev(2) });
    let queue = Queue::start(patient()).await;
    let bodies = [
        task(DID, "old", 1, &omitted(cid("old"))),
        task(DID, "new", 2, &omitted(cid("new"))),
        // The commit of this task is the one that the host has, and says something else.
        task(
            DID,
            "gone",
            3,
            &json!({ "omitted": true, "cid": "bafy", "rev": rev(1) }),
        ),
    ];
    push(&queue, &bodies).await;
    let from = with_letters(&url(&queue.origin, folder.path()));
    let _program = Program::start(consume_with(&from, &schema.url(), &hosts.http)).await;
    until(
        "the host was asked, and what it said is settled",
        async || {
            let requests = queue.requests();
            hosts.asked() >= 3 && requests.iter().any(|(what, _)| what == "ack")
        },
    )
    .await;
    assert_eq!(queue.backlog().len(), 3);
    hosts.catch_up(&repo);
    until_settled(&queue).await;
    let stands = "SELECT rkey || (record ->> 'version') FROM records ORDER BY rkey";
    assert_eq!(schema.column(stands).await, ["new2", "old2"]);
    assert_eq!(queue.letters(), Vec::<Value>::new());
}

/// The queue counts how often it hands out a message.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_tables_do_not_answer_nothing_is_given_back_and_at_the_end_all_is() {
    let folder = tempfile::tempdir().unwrap();
    let queue = Queue::start(patient()).await;
    let bodies = (1..=5).map(|n| task(DID, &format!("r{n}"), n, &json!({ "record": {} })));
    push(&queue, &bodies.collect::<Vec<_>>()).await;
    let from = with_letters(&url(&queue.origin, folder.path()));
    let nowhere = "postgres://ann@127.0.0.1:1/x";
    let mut program = Program::start(consume(&from, nowhere)).await;
    until("it has tried some times", async || {
        queue.pass(Duration::from_secs(100));
        number(&program, "errors").await >= 3
    })
    .await;
    let requests = queue.requests();
    let pulls = requests.iter().filter(|(what, _)| what == "pull").count();
    assert_eq!(pulls, 1);
    assert!(queue.backlog().iter().all(|message| message.attempts == 1));
    assert!(program.terminate().await.success());
    assert_eq!(pull(&queue, 100).await.len(), 5);
}
