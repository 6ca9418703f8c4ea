//! `GET /changes`, as a reader of another process asks for it. Holds invariant 10.7.

use std::path::PathBuf;

use huddle_firehose::testing::mock_relay::MockRelay;
use reqwest::{RequestBuilder, StatusCode};
use serde_json::Value;
use test_support::mock_relay::relay;
use test_support::recorded_frames::frames;
use test_support::tables::Database;
use test_support::waiting::soon;
use test_support::worker_process::{self, Program};
use tokio::process::Command;

const PATH: &str = env!("CARGO_BIN_EXE_huddle-firehose");
const TOKEN: &str = "0123456789abcdef";

struct Served {
    program: Program,
    _relay: MockRelay,
    database: Database,
}

impl Served {
    async fn start() -> Self {
        let (relay, database) = (relay(frames()).await, Database::new());
        let token = token_file(&database);
        std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
        let mut command = Command::from(worker_process::command(PATH));
        command
            .args(["run", "--listen", "127.0.0.1:0", "--verify", "none"])
            .args(["--source-url", &relay.url()])
            .args(["--database-url", &database.url()])
            .args(["--changes-token-file", token.to_str().unwrap()]);
        Self {
            program: Program::start(command).await,
            _relay: relay,
            database,
        }
    }

    fn ask(&self, query: &str) -> RequestBuilder {
        let url = format!("http://{}/changes?{query}", self.program.address());
        reqwest::Client::new().get(url).bearer_auth(TOKEN)
    }

    async fn get(&self, query: &str) -> Value {
        let answer = soon(self.ask(query).send()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{query}");
        serde_json::from_str(&answer.text().await.unwrap()).unwrap()
    }

    /// Reads on from `since` until nothing is left for a while.
    async fn read_all(&self, query: &str) -> Vec<Value> {
        let mut since = "0".to_owned();
        let mut all: Vec<Value> = Vec::new();
        loop {
            let page = self.get(&format!("{query}&since={since}")).await;
            let items = page["results"].as_array().unwrap();
            if items.is_empty() && page["pending"] == 0 {
                return all;
            }
            all.extend(items.iter().cloned());
            page["last_seq"].as_str().unwrap().clone_into(&mut since);
        }
    }
}

fn token_file(database: &Database) -> PathBuf {
    database.folder().join("token")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_gets_every_row_once_in_its_latest_state() {
    let served = Served::start().await;
    // Until the recording is applied.
    let live = "SELECT CAST(count(*) AS TEXT) FROM records";
    let rows = loop {
        let polled = served.get("feed=longpoll&since=now&timeout=1000").await;
        let rows = &served.database.rows(live).await[0];
        if polled["results"].as_array().unwrap().is_empty() && rows != "0" {
            break rows.parse::<usize>().unwrap();
        }
    };
    let all = served.read_all("limit=7&include=record").await;
    let mut uris: Vec<&str> = all.iter().filter_map(|item| item["uri"].as_str()).collect();
    assert_eq!(uris.len(), rows);
    uris.sort_unstable();
    uris.dedup();
    assert_eq!(uris.len(), rows, "a row came twice");
    let upsert = all.iter().find(|item| item["type"] == "upsert").unwrap();
    assert_eq!(upsert["record"]["$type"], upsert["collection"]);
    let offers = served.read_all("collection=com.huddle.slotOffer").await;
    let is_offer = |item: &Value| item["collection"] == "com.huddle.slotOffer";
    assert_eq!(
        offers
            .iter()
            .filter(|item| item["type"] != "account")
            .count(),
        all.iter().filter(|item| is_offer(item)).count()
    );
    assert!(
        offers
            .iter()
            .all(|item| item["type"] == "account" || is_offer(item))
    );
    assert!(offers.iter().all(|item| item.get("record").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_carry_their_positions_and_go_on_behind_the_last_one() {
    let served = Served::start().await;
    let events = async |last: Option<&str>, count: usize| -> Vec<(String, Value)> {
        let mut request = served.ask("feed=eventsource&heartbeat=100");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let mut answer = soon(request.send()).await.unwrap();
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let mut text = String::new();
        loop {
            let chunk = soon(answer.chunk()).await.unwrap().unwrap();
            text += std::str::from_utf8(&chunk).unwrap();
            let whole = text.rsplit_once("\n\n").map_or("", |(whole, _)| whole);
            let found: Vec<(String, Value)> = whole
                .split("\n\n")
                .filter_map(|event| {
                    let (id, data) = event.strip_prefix("id: ")?.split_once("\ndata: ")?;
                    Some((id.to_owned(), serde_json::from_str(data).unwrap()))
                })
                .collect();
            if found.len() >= count {
                return found[..count].to_vec();
            }
        }
    };
    let first = events(None, 10).await;
    let rest = events(Some(&first[4].0), 5).await;
    let uris = |events: &[(String, Value)]| -> Vec<Value> {
        events
            .iter()
            .map(|(_, item)| item["change"].clone())
            .collect()
    };
    // Rows that were written again meanwhile come later.
    let last_of_first = first[4].1["change"].as_u64().unwrap();
    assert!(
        uris(&rest)
            .iter()
            .all(|change| change.as_u64().unwrap() > last_of_first)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_token_nothing_is_told() {
    let mut served = Served::start().await;
    let url = format!("http://{}/changes", served.program.address());
    for request in [
        reqwest::Client::new().get(&url),
        reqwest::Client::new()
            .get(&url)
            .bearer_auth("0123456789abcdee"),
    ] {
        let answer = soon(request.send()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    }
    let wrong = soon(served.ask("since=7").send()).await.unwrap();
    assert_eq!(wrong.status(), StatusCode::BAD_REQUEST);
    let unknown = served.get("since=0123:4567:99&limit=1").await;
    let known = served.get("since=0&limit=1").await;
    assert_eq!(unknown["results"], known["results"], "it begins anew");
    assert!(served.program.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn by_default_there_is_no_such_path_and_a_short_token_is_refused() {
    let (relay, database) = (relay(frames()).await, Database::new());
    let run = || {
        let mut command = Command::from(worker_process::command(PATH));
        command
            .args(["run", "--listen", "127.0.0.1:0", "--verify", "none"])
            .args(["--source-url", &relay.url()])
            .args(["--database-url", &database.url()]);
        command
    };
    let mut program = Program::start(run()).await;
    assert_eq!(program.get("/changes").await.0, StatusCode::NOT_FOUND);
    assert!(program.terminate().await.success());
    let token = token_file(&database);
    std::fs::write(&token, "short").unwrap();
    let mut command = run();
    command.args(["--changes-token-file", token.to_str().unwrap()]);
    let ended = soon(command.output()).await.unwrap();
    assert!(!ended.status.success());
    let text = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(text.contains("changes_token_file"), "{text}");
}
