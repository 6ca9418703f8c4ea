//! A queue of Cloudflare over HTTP, as its documents describe it: push, pull with leases, acks, retries, a
//! dead letter queue, its limits and its error codes.
//!
//! It stands in for the service, whose pull consumer no local engine has. It hands out messages in any
//! order and some of them twice, by a seed. Time is its own: a lease ends, and a delay is over, when a test
//! says so ([`Queue::pass`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// The token that requests must have.
pub const TOKEN: &str = "the-token-of-the-queue-has-32-characters";
/// The account and the queue of [`Queue::url`].
const ACCOUNT: &str = "acc";
const QUEUE: &str = "que-ue";
/// Another queue, which only takes.
pub const LETTERS: &str = "letters";

const MOST_MESSAGES: usize = 100;
const MOST_BATCH: usize = 256_000;
const MOST_MESSAGE: usize = 128_000;
const METADATA: usize = 100;
const MOST_DELAY: u64 = 12 * 3600;
const VISIBILITY: Duration = Duration::from_secs(30);
const LONGEST_VISIBILITY: Duration = Duration::from_secs(12 * 3600);
const BATCH_SIZE: usize = 5;

/// What a queue does.
#[derive(Clone, Debug)]
pub struct Options {
    /// The order in which messages are handed out, and which of them twice, follow from it.
    pub seed: u64,
    /// Of a hundred messages that are acked, how many are handed out once more.
    pub duplicates: u32,
    /// After so many retries a message goes to the dead letters.
    pub max_retries: u32,
    /// The bytes of the messages that it holds at most.
    pub backlog: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 0,
            duplicates: 0,
            max_retries: 3,
            backlog: usize::MAX,
        }
    }
}

/// A message as its consumer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub id: String,
    pub body: String,
    pub content_type: String,
    /// How often it was handed out.
    pub attempts: u32,
}

struct Held {
    message: Message,
    /// The lease under which it was handed out last, and until when no other consumer gets it.
    lease: Option<String>,
    visible_at: Duration,
    timestamp_ms: u64,
}

struct Inner {
    options: Options,
    random: fastrand::Rng,
    now: Duration,
    count: u64,
    /// By the numbers of their ids.
    held: BTreeMap<u64, Held>,
    dead: Vec<Message>,
    letters: Vec<Value>,
    pushed: Vec<Message>,
    requests: Vec<(String, usize)>,
}

type Shared = Arc<Mutex<Inner>>;

/// A queue on a loopback port of its own.
pub struct Queue {
    /// The origin of the API.
    pub origin: String,
    inner: Shared,
}

impl Queue {
    pub async fn start(options: Options) -> Self {
        let inner = Arc::new(Mutex::new(Inner {
            random: fastrand::Rng::with_seed(options.seed),
            options,
            now: Duration::ZERO,
            count: 0,
            held: BTreeMap::new(),
            dead: Vec::new(),
            letters: Vec::new(),
            pushed: Vec::new(),
            requests: Vec::new(),
        }));
        let messages = "/client/v4/accounts/{account}/queues/{queue}/messages";
        let router = Router::new()
            .route(messages, answering("messages", push_one))
            .route(&format!("{messages}/batch"), answering("batch", push))
            .route(&format!("{messages}/pull"), answering("pull", pull))
            .route(&format!("{messages}/ack"), answering("ack", ack))
            .layer(DefaultBodyLimit::disable())
            .with_state(inner.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { origin, inner }
    }

    /// The URL of the queue, where the API is at `origin`. `token` is a file with [`TOKEN`].
    pub fn url(origin: &str, token: &std::path::Path) -> String {
        let token = token.display();
        format!("cfqueue://{ACCOUNT}/{QUEUE}?api={origin}&token_file={token}&request_interval_ms=0")
    }

    /// Lets time pass: leases end, and delayed messages can be pulled.
    pub fn pass(&self, time: Duration) {
        self.inner.lock().unwrap().now += time;
    }

    /// Everything that was ever pushed, in its order.
    pub fn pushed(&self) -> Vec<Message> {
        self.inner.lock().unwrap().pushed.clone()
    }

    /// What is not acked and no dead letter.
    pub fn backlog(&self) -> Vec<Message> {
        let inner = self.inner.lock().unwrap();
        let held = inner.held.values();
        held.map(|held| held.message.clone()).collect()
    }

    /// What was retried too often.
    pub fn dead_letters(&self) -> Vec<Message> {
        self.inner.lock().unwrap().dead.clone()
    }

    /// What came to [`LETTERS`].
    pub fn letters(&self) -> Vec<Value> {
        self.inner.lock().unwrap().letters.clone()
    }

    /// The last part of each request's path, and the bytes of its body.
    pub fn requests(&self) -> Vec<(String, usize)> {
        self.inner.lock().unwrap().requests.clone()
    }

    /// Sets how many bytes it holds at most.
    pub fn limit_backlog(&self, bytes: usize) {
        self.inner.lock().unwrap().options.backlog = bytes;
    }
}

/// A refusal: status, code, words.
struct Refusal(StatusCode, u32, &'static str);

const BAD_REQUEST: Refusal = Refusal(StatusCode::BAD_REQUEST, 10026, "the request is malformed");
const TOO_LARGE: Refusal = Refusal(StatusCode::BAD_REQUEST, 10204, "message is too large");
const BATCH_TOO_LARGE: Refusal = Refusal(StatusCode::BAD_REQUEST, 10205, "batch is too large");
const TOO_MANY: Refusal = Refusal(
    StatusCode::BAD_REQUEST,
    10206,
    "batch has too many messages",
);
const FULL: Refusal = Refusal(
    StatusCode::BAD_REQUEST,
    10251,
    "queue storage limit exceeded",
);
const UNAUTHORIZED: Refusal = Refusal(StatusCode::UNAUTHORIZED, 10000, "authentication error");
const NO_QUEUE: Refusal = Refusal(StatusCode::NOT_FOUND, 11000, "queue not found");

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(status, code, words) = self;
        let errors = json!([{ "code": code, "message": words }]);
        let answer = json!({ "success": false, "errors": errors, "messages": [], "result": null });
        (status, answer.to_string()).into_response()
    }
}

type Answer = Result<Response, Refusal>;

fn success(result: &Value) -> Response {
    let answer = json!({ "success": true, "errors": [], "messages": [], "result": result });
    answer.to_string().into_response()
}

/// Answers requests whose bodies are `T` by `act`, which is told their queue.
fn answering<T: for<'de> Deserialize<'de> + 'static>(
    what: &'static str,
    act: fn(&mut Inner, &T, &str) -> Answer,
) -> MethodRouter<Shared> {
    post(
        move |State(inner): State<Shared>,
              Path(path): Path<(String, String)>,
              headers: HeaderMap,
              body: Bytes| async move {
            let mut inner = inner.lock().unwrap();
            let request: T = read(&mut inner, what, &path, &headers, &body)?;
            act(&mut inner, &request, &path.1)
        },
    )
}

/// Notes a request, and reads its body.
fn read<T: for<'de> Deserialize<'de>>(
    inner: &mut Inner,
    what: &str,
    (account, queue): &(String, String),
    headers: &HeaderMap,
    body: &[u8],
) -> Result<T, Refusal> {
    inner.requests.push((what.to_owned(), body.len()));
    let token = headers.get(header::AUTHORIZATION);
    if token.is_none_or(|token| token.as_bytes() != format!("Bearer {TOKEN}").as_bytes()) {
        return Err(UNAUTHORIZED);
    }
    let is_letter = what == "messages" && queue == LETTERS;
    if account != ACCOUNT || !(queue == QUEUE || is_letter) {
        return Err(NO_QUEUE);
    }
    serde_json::from_slice(body).map_err(|_| BAD_REQUEST)
}

#[derive(Deserialize)]
struct Pushed {
    body: Value,
    #[serde(default = "json_type")]
    content_type: String,
    delay_seconds: Option<u64>,
}

fn json_type() -> String {
    "json".to_owned()
}

impl Pushed {
    /// What a consumer gets: text as it is, JSON in base64.
    fn body(&self) -> Result<String, Refusal> {
        match (self.content_type.as_str(), &self.body) {
            ("text", Value::String(text)) => Ok(text.clone()),
            ("json", value) => Ok(data_encoding::BASE64.encode(value.to_string().as_bytes())),
            _ => Err(BAD_REQUEST),
        }
    }

    fn bytes(&self) -> usize {
        let body = match &self.body {
            Value::String(text) if self.content_type == "text" => text.len(),
            other => other.to_string().len(),
        };
        body + METADATA
    }
}

#[derive(Deserialize)]
struct PushedBatch {
    messages: Vec<Pushed>,
    delay_seconds: Option<u64>,
}

fn push_one(inner: &mut Inner, message: &Pushed, queue: &str) -> Answer {
    if queue == LETTERS {
        let letter = serde_json::from_str(&message.body()?).map_err(|_| BAD_REQUEST)?;
        inner.letters.push(letter);
        return Ok(success(&Value::Null));
    }
    inner.take(std::slice::from_ref(message), None)
}

fn push(inner: &mut Inner, batch: &PushedBatch, _queue: &str) -> Answer {
    inner.take(&batch.messages, batch.delay_seconds)
}

#[derive(Deserialize)]
struct Pull {
    batch_size: Option<usize>,
    visibility_timeout_ms: Option<u64>,
}

fn pull(inner: &mut Inner, pull: &Pull, _queue: &str) -> Answer {
    let size = pull.batch_size.unwrap_or(BATCH_SIZE);
    let visibility = pull
        .visibility_timeout_ms
        .map_or(VISIBILITY, Duration::from_millis);
    if !(1..=MOST_MESSAGES).contains(&size) || visibility > LONGEST_VISIBILITY {
        return Err(BAD_REQUEST);
    }
    Ok(inner.hand_out(size, visibility))
}

#[derive(Deserialize)]
struct Lease {
    lease_id: String,
    delay_seconds: Option<u64>,
}

#[derive(Deserialize)]
struct Acks {
    #[serde(default)]
    acks: Vec<Lease>,
    #[serde(default)]
    retries: Vec<Lease>,
}

fn ack(inner: &mut Inner, acks: &Acks, _queue: &str) -> Answer {
    Ok(inner.settle(acks))
}

impl Inner {
    /// Takes all of `messages`, or none.
    fn take(&mut self, messages: &[Pushed], delay: Option<u64>) -> Answer {
        if messages.len() > MOST_MESSAGES {
            return Err(TOO_MANY);
        }
        let bytes = messages.iter().map(Pushed::bytes).sum::<usize>();
        if messages
            .iter()
            .any(|message| message.bytes() > MOST_MESSAGE)
        {
            return Err(TOO_LARGE);
        }
        if bytes > MOST_BATCH {
            return Err(BATCH_TOO_LARGE);
        }
        let held = self
            .held
            .values()
            .map(|held| held.message.body.len() + METADATA);
        if held.sum::<usize>() + bytes > self.options.backlog {
            return Err(FULL);
        }
        let bodies: Vec<String> = messages
            .iter()
            .map(Pushed::body)
            .collect::<Result<_, _>>()?;
        for (pushed, body) in messages.iter().zip(bodies) {
            let delay = pushed.delay_seconds.or(delay).unwrap_or(0);
            if delay > MOST_DELAY {
                return Err(BAD_REQUEST);
            }
            self.hold(body, &pushed.content_type, Duration::from_secs(delay));
        }
        Ok(success(&Value::Null))
    }

    fn hold(&mut self, body: String, content_type: &str, delay: Duration) {
        self.count += 1;
        let message = Message {
            id: format!("{:032x}", self.count),
            body,
            content_type: content_type.to_owned(),
            attempts: 0,
        };
        self.pushed.push(message.clone());
        let held = Held {
            message,
            lease: None,
            visible_at: self.now + delay,
            timestamp_ms: self.now.as_millis() as u64,
        };
        self.held.insert(self.count, held);
    }

    /// Hands out up to `size` messages, in any order.
    fn hand_out(&mut self, size: usize, visibility: Duration) -> Response {
        self.bury();
        let now = self.now;
        let visible = self.held.iter().filter(|(_, held)| held.visible_at <= now);
        let mut numbers: Vec<u64> = visible.map(|(number, _)| *number).collect();
        self.random.shuffle(&mut numbers);
        numbers.truncate(size);
        let mut messages = Vec::new();
        for number in numbers {
            let lease = format!("{number:x}.{:032x}", self.random.u128(..));
            let Some(held) = self.held.get_mut(&number) else {
                continue;
            };
            held.message.attempts += 1;
            held.visible_at = now + visibility;
            held.lease = Some(lease.clone());
            messages.push(json!({
                "id": held.message.id,
                "body": held.message.body,
                "attempts": held.message.attempts,
                "timestamp_ms": held.timestamp_ms,
                "lease_id": lease,
                "metadata": { "CF-Content-Type": held.message.content_type },
            }));
        }
        let count = self.held.len();
        success(&json!({ "message_backlog_count": count, "messages": messages }))
    }

    /// Moves what was retried too often to the dead letters.
    fn bury(&mut self) {
        let (now, most) = (self.now, self.options.max_retries);
        let dead = self.held.extract_if(.., |_, held| {
            held.visible_at <= now && held.message.attempts > most
        });
        let dead: Vec<Message> = dead.map(|(_, held)| held.message).collect();
        self.dead.extend(dead);
    }

    /// An ack under a lease that has ended counts, as long as no later lease was given.
    fn settle(&mut self, acks: &Acks) -> Response {
        let mut warnings = BTreeMap::new();
        let (mut acked, mut retried) = (0, 0);
        for Lease { lease_id, .. } in &acks.acks {
            match self.under(lease_id) {
                Some(number) if self.random.u32(..100) < self.options.duplicates => {
                    acked += 1;
                    if let Some(held) = self.held.get_mut(&number) {
                        held.visible_at = self.now;
                    }
                }
                Some(number) => {
                    acked += 1;
                    self.held.remove(&number);
                }
                None => {
                    warnings.insert(lease_id.clone(), "the lease is unknown");
                }
            }
        }
        for Lease {
            lease_id,
            delay_seconds,
        } in &acks.retries
        {
            let number = self.under(lease_id);
            let now = self.now;
            match number.and_then(|number| self.held.get_mut(&number)) {
                Some(held) => {
                    retried += 1;
                    held.visible_at = now + Duration::from_secs(delay_seconds.unwrap_or(0));
                    held.lease = None;
                }
                None => {
                    warnings.insert(lease_id.clone(), "the lease is unknown");
                }
            }
        }
        success(&json!({ "ackCount": acked, "retryCount": retried, "warnings": warnings }))
    }

    /// The message that was handed out under `lease`, if it was not handed out again since.
    fn under(&self, lease: &str) -> Option<u64> {
        let number = u64::from_str_radix(lease.split_once('.')?.0, 16).ok()?;
        let held = self.held.get(&number)?;
        (held.lease.as_deref() == Some(lease)).then_some(number)
    }
}
