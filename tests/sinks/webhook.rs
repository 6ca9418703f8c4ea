//! A webhook, and a server that refuses, hangs up and asks for patience. Holds invariants 10.4 and 10.5.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use huddle_firehose::delivery::budget::Budget;
use huddle_firehose::sink::{Follower, Pace, Parts, SinkError, SinkOptions};
use huddle_firehose::store::change_feed::ChangeFeed;
use huddle_firehose::store::sqlite::SqliteStore;
use serde_json::Value;
use test_support::tables::Database;
use tokio::net::TcpListener;

use crate::effects::*;
use crate::postgres::tables;

/// What a server has taken.
#[derive(Default)]
struct Taken {
    /// The latest change by URI.
    rows: BTreeMap<String, u64>,
    /// The changes in the order in which they came, with repetitions.
    order: Vec<u64>,
    headers: Vec<HeaderMap>,
}

type Answer = Box<dyn FnMut(&Value) -> Response + Send>;

struct Server {
    url: String,
    taken: Arc<Mutex<Taken>>,
}

impl Server {
    /// Takes what `answer` answers with 2xx.
    async fn start(answer: Answer) -> Self {
        let taken: Arc<Mutex<Taken>> = Arc::default();
        let (of_handler, answer) = (taken.clone(), Arc::new(Mutex::new(answer)));
        let handler = move |headers: HeaderMap, body: Bytes| {
            let (taken, answer) = (of_handler.clone(), answer.clone());
            async move {
                let body: Value = serde_json::from_slice(&body).unwrap();
                let response = (answer.lock().unwrap())(&body);
                if response.status().is_success() {
                    let mut taken = taken.lock().unwrap();
                    for task in body["tasks"].as_array().unwrap() {
                        let change = task["change"].as_u64().unwrap();
                        taken.order.push(change);
                        if let Some(uri) = task["uri"].as_str() {
                            taken.rows.insert(uri.to_owned(), change);
                        }
                    }
                    taken.headers.push(headers);
                }
                response
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("webhook+http://{}/hook", listener.local_addr().unwrap());
        let router = Router::new().route("/hook", post(handler));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, taken }
    }

    fn rows(&self) -> Vec<String> {
        let taken = self.taken.lock().unwrap();
        taken.rows.values().map(u64::to_string).collect()
    }
}

fn follower(store: &Arc<SqliteStore>, url: &str) -> Follower {
    let options = SinkOptions::new(None, url).unwrap();
    let feed: Arc<dyn ChangeFeed> = store.clone();
    Follower::new(Parts {
        name: "webhook".into(),
        sink: options.build(&tables(), &feed),
        feed,
        share: Budget::with_sinks(64 << 20, 1).sink_share(),
        retries: 3,
    })
}

/// Follows to the end; returns the errors on the way.
async fn follow(follower: &mut Follower) -> Vec<SinkError> {
    let mut errors = Vec::new();
    for _ in 0..10_000 {
        match follower.step().await {
            Ok(Pace::CaughtUp) => return errors,
            Ok(_) => {}
            Err(error) => errors.push(error),
        }
    }
    panic!("it never caught up: {:?}", errors.last());
}

async fn with_records(count: u64) -> (Database, Arc<SqliteStore>) {
    let database = Database::new();
    let store = Arc::new(database.store().await);
    let effects = (1..=count)
        .map(|n| put(ALICE, &format!("r{n}"), n))
        .collect();
    apply(&store, effects, count).await;
    (database, store)
}

const NUMBERS: &str = "SELECT change || '' FROM records ORDER BY uri";

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_posted_in_order_with_a_signature_and_the_position_moves_behind_the_answer()
{
    let (database, store) = with_records(250).await;
    let server = Server::start(Box::new(|_| StatusCode::NO_CONTENT.into_response())).await;
    let secret = database.folder().join("secret");
    std::fs::write(&secret, "key\n").unwrap();
    let url = format!("{}?secret_file={}", server.url, secret.display());
    assert_eq!(follow(&mut follower(&store, &url)).await, []);
    assert_eq!(server.rows(), database.rows(NUMBERS).await);
    {
        let taken = server.taken.lock().unwrap();
        assert!(taken.order.is_sorted());
        assert_eq!(taken.headers.len(), 3);
        let signature = taken.headers[0]["huddle-signature"].to_str().unwrap();
        assert!(signature.starts_with("sha256="), "{signature}");
        assert!(taken.headers[0].contains_key("huddle-timestamp"));
    }
    // The next start of the worker goes on from there.
    drop(store);
    let store = Arc::new(database.store().await);
    apply(&store, vec![put(ALICE, "r7", 300)], 300).await;
    follow(&mut follower(&store, &url)).await;
    assert_eq!(server.taken.lock().unwrap().order.len(), 251);
    assert_eq!(server.rows(), database.rows(NUMBERS).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_overloaded_is_asked_again_when_it_said_so() {
    let (database, store) = with_records(10).await;
    let mut attempts = 0;
    let server = Server::start(Box::new(move |_| {
        attempts += 1;
        match attempts {
            1 => (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "7")]).into_response(),
            2 => StatusCode::BAD_GATEWAY.into_response(),
            // It is not followed.
            3 => (StatusCode::FOUND, [(header::LOCATION, "/elsewhere")]).into_response(),
            _ => StatusCode::OK.into_response(),
        }
    }))
    .await;
    let errors = follow(&mut follower(&store, &server.url)).await;
    assert_eq!(errors.len(), 3, "{errors:?}");
    let SinkError::Unavailable { retry_after, .. } = &errors[0] else {
        panic!("{errors:?}");
    };
    assert_eq!(retry_after.map(|delay| delay.as_secs()), Some(7));
    assert_eq!(server.rows(), database.rows(NUMBERS).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_the_server_refuses_is_a_dead_letter() {
    let (database, store) = with_records(20).await;
    let server = Server::start(Box::new(|body| {
        let tasks = body["tasks"].as_array().unwrap();
        match tasks.iter().any(|task| task["rkey"] == "r13") {
            true => (StatusCode::UNPROCESSABLE_ENTITY, "not this one").into_response(),
            false => StatusCode::OK.into_response(),
        }
    }))
    .await;
    assert_eq!(follow(&mut follower(&store, &server.url)).await, []);
    assert_eq!(server.rows().len(), 19);
    let letters = "SELECT uri || ' ' || error FROM dead_letters WHERE stage = 'sink'";
    let letters = database.rows(letters).await;
    assert!(letters[0].ends_with("/r13 the server answered with HTTP status 422: not this one"));
}
