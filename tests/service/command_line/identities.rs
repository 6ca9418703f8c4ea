//! `identities import`: the stored identities from the export of a directory, by the real program.
//! Holds invariants 4.7 and 12.3.

use std::fs;
use std::process::Output;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Query, State};
use axum::routing::get;
use huddle_firehose::store::identity_store::IdentityStore;
use huddle_firehose::store::lock::DatabaseLock;
use huddle_firehose::store::sqlite::SqliteStore;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{Folder, assert_success, huddle_meanwhile, stderr, stdout};

const KEYS: [&str; 2] = [
    "zQ3shunBKsXixLxKtC5qeSG9E4J5RkGN57im31pcTzbNQnm5w",
    "zQ3shqwJEJyMBsBXCWyCBpUBMqxcon9oHB7mCvx4sSpMdLJwc",
];

fn did(number: usize) -> String {
    let letters: String = format!("{number:024}")
        .chars()
        .map(|digit| char::from(b'a' + digit as u8 - b'0'))
        .collect();
    format!("did:plc:{letters}")
}

/// An operation that gives an account a key, in the n-th second.
fn line(number: usize, second: usize, key: &str) -> Value {
    json!({
        "did": did(number),
        "operation": {
            "type": "plc_operation",
            "verificationMethods": { "atproto": format!("did:key:{key}") },
            "alsoKnownAs": ["at://alice.example"],
            "services": { "atproto_pds": {
                "type": "AtprotoPersonalDataServer", "endpoint": "https://pds.example",
            } },
        },
        "cid": format!("{number}-{second}"),
        "nullified": false,
        "createdAt": format!("2026-01-01T{:02}:{:02}:{:02}.000Z", second / 3600, second / 60 % 60, second % 60),
    })
}

fn legacy_create(number: usize, second: usize, key: &str) -> Value {
    let mut line = line(number, second, key);
    line["operation"] = json!({
        "type": "create",
        "signingKey": format!("did:key:{key}"),
        "recoveryKey": format!("did:key:{key}"),
        "handle": "alice.example",
        "service": "https://pds.example",
        "prev": null,
    });
    line
}

fn tombstone(number: usize, second: usize) -> Value {
    let mut line = line(number, second, KEYS[0]);
    line["operation"] = json!({ "type": "plc_tombstone", "prev": "x" });
    line
}

fn nullified(mut line: Value) -> Value {
    line["nullified"] = true.into();
    line
}

fn text(lines: &[Value]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// A folder with an empty database.
async fn folder() -> Folder {
    let folder = Folder::new();
    let database = folder.path("huddle.db");
    assert_success(&huddle_meanwhile(&["migrate", "--database", &database]).await);
    folder
}

async fn import(folder: &Folder, source: &str, more: &[&str]) -> Output {
    let database = folder.path("huddle.db");
    let arguments = ["identities", "import", source, "--database", &database];
    huddle_meanwhile(&[&arguments[..], more].concat()).await
}

/// The DIDs and keys that are stored, in the order of the DIDs.
async fn stored(folder: &Folder) -> Vec<(String, String)> {
    let store = SqliteStore::open(&folder.database_url()).await.unwrap();
    let identities = store.load_identities(1_000_000).await.unwrap();
    let mut keys: Vec<(String, String)> = identities
        .into_iter()
        .map(|stored| (stored.identity.did.to_string(), stored.identity.signing_key))
        .collect();
    keys.sort();
    keys
}

fn keys(pairs: &[(usize, usize)]) -> Vec<(String, String)> {
    let pair = |&(number, key): &(usize, usize)| (did(number), KEYS[key].to_owned());
    pairs.iter().map(pair).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_line_of_each_account_is_stored_and_an_import_goes_on_where_the_last_one_ended() {
    let folder = folder().await;
    let file = folder.path("export.jsonl");
    let lines = [
        legacy_create(1, 1, KEYS[0]),
        line(2, 2, KEYS[0]),
        line(3, 3, KEYS[0]),
        line(1, 4, KEYS[1]),
        nullified(line(2, 5, KEYS[1])),
        tombstone(3, 6),
    ];
    fs::write(&file, text(&lines)).unwrap();
    let output = import(&folder, &file, &[]).await;
    assert_success(&output);
    assert_eq!(stored(&folder).await, keys(&[(1, 1), (2, 0)]));
    let said = stdout(&output);
    assert!(said.contains("6 lines read: 1 nullified"), "{said}");
    assert!(said.contains("2 identities are stored"), "{said}");

    fs::write(&file, text(&lines) + &text(&[line(4, 7, KEYS[0])])).unwrap();
    let output = import(&folder, &file, &[]).await;
    assert_success(&output);
    let said = stdout(&output);
    assert!(said.contains("6 lines were read before"), "{said}");
    assert!(said.contains("1 lines read"), "{said}");
    assert_eq!(stored(&folder).await, keys(&[(1, 1), (2, 0), (4, 0)]));

    // Read again from its beginning, older lines of an account do not come back.
    assert_success(&import(&folder, &file, &["--anew"]).await);
    assert_eq!(stored(&folder).await, keys(&[(1, 1), (2, 0), (4, 0)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_cannot_be_read_is_named_and_what_came_before_it_is_kept() {
    let folder = folder().await;
    let file = folder.path("export.jsonl");
    let good = text(&[line(1, 1, KEYS[0]), line(2, 2, KEYS[0])]);
    fs::write(&file, format!("{good}<html>\n")).unwrap();
    let output = import(&folder, &file, &[]).await;
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    assert!(error.contains("export.jsonl, line 3: "), "{error}");
    assert_eq!(stored(&folder).await, keys(&[(1, 0), (2, 0)]));

    // Once it is mended, the import goes on with it.
    fs::write(&file, good + &text(&[line(3, 3, KEYS[0])])).unwrap();
    let output = import(&folder, &file, &[]).await;
    assert_success(&output);
    assert!(
        stdout(&output).contains("1 lines read"),
        "{}",
        stdout(&output)
    );
    assert_eq!(stored(&folder).await, keys(&[(1, 0), (2, 0), (3, 0)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_export_of_ours_is_refused() {
    let folder = folder().await;
    let file = folder.path("export.jsonl");
    let missing = import(&folder, &file, &[]).await;
    assert_eq!(missing.status.code(), Some(1));
    assert!(
        stderr(&missing).contains("export.jsonl"),
        "{}",
        stderr(&missing)
    );

    fs::write(&file, text(&[line(1, 1, KEYS[0]), line(2, 2, KEYS[0])])).unwrap();
    assert_success(&import(&folder, &file, &[]).await);
    fs::write(&file, text(&[line(1, 1, KEYS[0])])).unwrap();
    let shorter = import(&folder, &file, &[]).await;
    assert_eq!(shorter.status.code(), Some(1));
    assert!(stderr(&shorter).contains("--anew"), "{}", stderr(&shorter));

    let lock = DatabaseLock::acquire(folder.path("huddle.db").as_ref(), "run").unwrap();
    let beside = import(&folder, &file, &["--anew"]).await;
    assert_eq!(beside.status.code(), Some(1));
    assert!(stderr(&beside).contains("in use by"), "{}", stderr(&beside));
    drop(lock);
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_that_are_not_tracked_get_the_room_that_the_tracked_ones_leave() {
    let folder = folder().await;
    let database = folder.path("huddle.db");
    let mut writing = test_support::tables::stranger_at(database.as_ref()).await;
    let tracked: Vec<String> = (1000..1010).map(did).collect();
    for did in &tracked {
        sqlx::query("INSERT INTO repos (did, state, is_whole, has_parked, updated_at) VALUES (?, 'synchronized', 1, 0, '')")
            .bind(did)
            .execute(&mut writing)
            .await
            .unwrap();
    }
    drop(writing);
    let file = folder.path("export.jsonl");
    let lines: Vec<Value> = (0..1200).map(|n| line(n, n, KEYS[0])).collect();
    fs::write(&file, text(&lines)).unwrap();
    let output = import(&folder, &file, &["--identity-cache", "1000"]).await;
    assert_success(&output);
    let said = stdout(&output);
    assert!(
        said.contains("1000 identities are stored, 10 of them of tracked accounts"),
        "{said}"
    );
    assert!(said.contains("200 without room"), "{said}");
    let stored = stored(&folder).await;
    assert!(
        tracked
            .iter()
            .all(|did| stored.iter().any(|(known, _)| known == did))
    );
}

/// A directory with an export.
#[derive(Clone)]
struct Directory {
    lines: Arc<Mutex<Vec<Value>>>,
    /// It knows sequence numbers.
    has_seqs: bool,
    page: usize,
    requests: Arc<Mutex<Vec<String>>>,
    /// The number of the request that fails.
    fails_at: Arc<Mutex<Option<usize>>>,
}

#[derive(Deserialize)]
struct After {
    after: String,
}

impl Directory {
    fn new(has_seqs: bool, page: usize, lines: Vec<Value>) -> Self {
        Self {
            lines: Arc::new(Mutex::new(lines)),
            has_seqs,
            page,
            requests: Arc::default(),
            fails_at: Arc::default(),
        }
    }

    async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let routes = Router::new()
            .route("/export", get(export))
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        url
    }

    fn page(&self, after: &str) -> String {
        let lines = self.lines.lock().unwrap();
        let is_after = |(index, line): &(usize, &Value)| match self.has_seqs {
            true => index + 1 > after.parse::<usize>().unwrap(),
            false => after == "0" || line["createdAt"].as_str().unwrap() > after,
        };
        let numbered = lines.iter().enumerate().filter(is_after);
        let page: Vec<String> = numbered
            .take(self.page)
            .map(|(index, line)| {
                let mut line = line.clone();
                if self.has_seqs {
                    line["type"] = "sequenced_op".into();
                    line["seq"] = (index + 1).into();
                }
                line.to_string()
            })
            .collect();
        // The directory puts no end of line behind the last one.
        page.join("\n")
    }
}

async fn export(
    State(directory): State<Directory>,
    Query(After { after }): Query<After>,
) -> Result<String, axum::http::StatusCode> {
    let number = {
        let mut requests = directory.requests.lock().unwrap();
        requests.push(after.clone());
        requests.len()
    };
    match *directory.fails_at.lock().unwrap() {
        Some(at) if at == number => Err(axum::http::StatusCode::FORBIDDEN),
        _ => Ok(directory.page(&after)),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_of_a_directory_are_read_with_and_without_sequence_numbers() {
    for has_seqs in [true, false] {
        let folder = folder().await;
        // Several operations of one time, on both sides of the end of a page.
        let mut lines: Vec<Value> = (0..20).map(|n| line(n, n / 3, KEYS[0])).collect();
        lines.push(line(3, 7, KEYS[1]));
        let directory = Directory::new(has_seqs, 5, lines);
        let url = directory.serve().await;
        let rate = ["--plc-requests-per-second", "1000"];
        let output = import(&folder, &url, &rate).await;
        assert_success(&output);
        let mut expected: Vec<(usize, usize)> = (0..20).map(|n| (n, 0)).collect();
        expected[3].1 = 1;
        assert_eq!(stored(&folder).await, keys(&expected), "{has_seqs}");

        // What came since then is read from there.
        directory.lines.lock().unwrap().push(line(20, 9, KEYS[1]));
        let before = directory.requests.lock().unwrap().len();
        let again = format!("{url}/export");
        assert_success(&import(&folder, &again, &rate).await);
        let requests = directory.requests.lock().unwrap()[before..].to_vec();
        assert!(requests.iter().all(|after| after != "0"), "{requests:?}");
        expected.push((20, 1));
        assert_eq!(stored(&folder).await, keys(&expected), "{has_seqs}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_a_directory_breaks_off_goes_on_with_the_page_that_was_missing() {
    let folder = folder().await;
    let lines: Vec<Value> = (0..20).map(|n| line(n, n, KEYS[0])).collect();
    let directory = Directory::new(true, 5, lines);
    *directory.fails_at.lock().unwrap() = Some(3);
    let url = directory.serve().await;
    let output = import(&folder, &url, &["--plc-requests-per-second", "1000"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("after=10"), "{}", stderr(&output));
    assert_eq!(stored(&folder).await.len(), 10);

    assert_success(&import(&folder, &url, &["--plc-requests-per-second", "1000"]).await);
    let requests = directory.requests.lock().unwrap().clone();
    assert_eq!(requests, ["0", "5", "10", "10", "15", "20"]);
    assert_eq!(stored(&folder).await.len(), 20);
}
