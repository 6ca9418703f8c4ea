//! The HTTP API of Cloudflare, as far as sinks use it: where it is, its token, the pace of requests, and
//! what it answers.
//!
//! Every answer is JSON of one form: `{success, errors: [{code, message}], result}`. A gateway Worker
//! (`deploy/cloudflare/`) answers in the same form.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep_until, timeout};
use url::{Host, Url};

use super::secret::Secret;
use super::{LONGEST_PAUSE, SinkError};
use crate::net::http_poster::{PostError, Poster};

/// Where the API is, unless a test names another place.
const API: &str = "https://api.cloudflare.com";
/// The variable of the environment that the tools of Cloudflare read.
const VARIABLE: &str = "CLOUDFLARE_API_TOKEN";
/// The interval of requests, in milliseconds. An account has 1,200 requests in five minutes for
/// everything: a sink takes a quarter of them.
const INTERVAL: u64 = 1000;
/// A step of a sink makes a few requests, within its deadline.
const LONGEST_INTERVAL: u64 = 5000;
/// The deadline of a request, as a rule, with the wait for its turn. A step of a sink may have less left:
/// see `SINK_DEADLINE` of the follower, and `SETTLE_DEADLINE` of a consumed queue.
const DEADLINE: Duration = Duration::from_secs(30);
/// The bytes of an answer that are read, as a rule.
const MOST_ANSWER: usize = 1 << 20;
/// The characters of an answer that are shown.
const MOST_SHOWN: usize = 200;
/// The longest id of an account, a database or a queue.
const MAX_ID: usize = 64;

/// How a service is asked: what the parameters of a sink's URL say.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Access {
    token: Secret,
    interval: Duration,
    /// The origin of the API.
    pub(super) origin: Url,
}

impl Access {
    /// Reads the parameters of `url`.
    ///
    /// # Errors
    /// The reason, without anything secret in it.
    pub(super) fn parse(url: &Url) -> Result<Self, String> {
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a token in the URL is not taken; use token_file or token_env".to_owned());
        }
        let mut access = Self {
            token: Secret::Variable(VARIABLE.to_owned()),
            interval: Duration::from_millis(INTERVAL),
            origin: Url::parse(API).map_err(|error| error.to_string())?,
        };
        for (name, value) in url.query_pairs() {
            if let Some(named) = Secret::of("token", &name, &value) {
                access.token = named;
                continue;
            }
            match &*name {
                "request_interval_ms" => access.interval = interval(&value)?,
                "api" => access.origin = origin(&value)?,
                _ => return Err(format!("{name:?} is no parameter of this sink")),
            }
        }
        Ok(access)
    }
}

fn interval(value: &str) -> Result<Duration, String> {
    let milliseconds = value
        .parse()
        .ok()
        .filter(|value| *value <= LONGEST_INTERVAL);
    milliseconds.map(Duration::from_millis).ok_or_else(|| {
        format!("request_interval_ms is a number of milliseconds, at most {LONGEST_INTERVAL}")
    })
}

/// Another place of the API is for tests. A token is sent there, so it is on this machine.
fn origin(value: &str) -> Result<Url, String> {
    let url = Url::parse(value).map_err(|error| format!("api: {error}"))?;
    let is_plain = url.username().is_empty() && url.password().is_none();
    match is_plain && is_loopback(&url) && matches!(url.scheme(), "http" | "https") {
        true => Ok(url),
        false => Err("api: only a loopback address may stand in for the API".to_owned()),
    }
}

pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// The account and the database or queue that `url` names: `SCHEME://ACCOUNT/NAME`.
///
/// # Errors
/// If it names something else.
pub(super) fn account_and_name(url: &Url) -> Result<(&str, &str), String> {
    let account = url.host_str().filter(|id| is_id(id));
    let name = url.path().strip_prefix('/').filter(|id| is_id(id));
    account
        .zip(name)
        .filter(|_| url.port().is_none())
        .ok_or_else(|| {
            "it is SCHEME://ACCOUNT/ID, where both are ids of letters, digits and -".to_owned()
        })
}

/// Whether `id` may be that of an account, a database or a queue.
pub(super) fn is_id(id: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    !id.is_empty() && id.len() <= MAX_ID && id.bytes().all(is_allowed)
}

/// Sends requests to one URL, one after the other, at a pace.
#[derive(Debug)]
pub(super) struct Client {
    url: Url,
    token: Secret,
    turns: Turns,
    poster: Option<Poster>,
    /// How long a request may take, with the wait for its turn.
    deadline: Duration,
    /// The bytes of an answer that are read.
    most_answer: usize,
}

/// Lets requests begin at intervals, and none while the service asks for patience.
#[derive(Debug)]
struct Turns {
    interval: Duration,
    /// When the latest one began.
    latest: Option<Instant>,
    /// Until when the service wants to be left alone. Several actors may share a client, and one of them has
    /// had that answer.
    not_before: Option<Instant>,
}

impl Turns {
    fn new(interval: Duration) -> Self {
        Self {
            interval,
            latest: None,
            not_before: None,
        }
    }

    /// How long the service still wants to be left alone; `None` if it does not.
    fn pause(&self) -> Option<Duration> {
        let left = self.not_before?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    fn leave_alone(&mut self, pause: Duration) {
        self.not_before = Some(Instant::now() + pause.min(LONGEST_PAUSE));
    }

    async fn wait(&mut self) {
        if let Some(latest) = self.latest {
            sleep_until(latest + self.interval).await;
        }
        self.latest = Some(Instant::now());
    }
}

/// Why a request was not answered with a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// `None`: there was no answer.
    pub(super) status: Option<u16>,
    pub(super) retry_after: Option<Duration>,
    pub(super) codes: Vec<u32>,
    /// What the service says.
    pub(super) words: String,
}

#[derive(Deserialize)]
struct Envelope<T> {
    success: bool,
    #[serde(default)]
    errors: Vec<Fault>,
    result: Option<T>,
}

#[derive(Deserialize)]
struct Fault {
    #[serde(default)]
    code: u32,
    #[serde(default)]
    message: String,
}

impl Client {
    pub(super) fn new(url: Url, access: Access) -> Self {
        Self {
            url,
            token: access.token,
            turns: Turns::new(access.interval),
            poster: None,
            deadline: DEADLINE,
            most_answer: MOST_ANSWER,
        }
    }

    /// The same with another deadline.
    pub(super) fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// The same for longer answers.
    pub(super) fn with_most_answer(self, most_answer: usize) -> Self {
        Self {
            most_answer,
            ..self
        }
    }

    /// Posts `body`, which is JSON, when its turn has come, and returns the result, if there is one. While the
    /// service asks for patience, nothing is posted.
    pub(super) async fn post<T: DeserializeOwned>(
        &mut self,
        body: Bytes,
    ) -> Result<Option<T>, Failure> {
        if let Some(left) = self.turns.pause() {
            let seconds = left.as_secs() + 1;
            return Err(Failure {
                retry_after: Some(left),
                ..Failure::of(&format_args!(
                    "the service is left alone for {seconds} s more, as it asked"
                ))
            });
        }
        let posted = self.ask(body).await;
        if let Err(Failure {
            retry_after: Some(pause),
            ..
        }) = &posted
        {
            self.turns.leave_alone(*pause);
        }
        posted
    }

    async fn ask<T: DeserializeOwned>(&mut self, body: Bytes) -> Result<Option<T>, Failure> {
        let token = self.token.read().map_err(|error| Failure::of(&error))?;
        let mut authorization = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| Failure::of(&"the token is not one line of ASCII"))?;
        authorization.set_sensitive(true);
        let headers: [(HeaderName, HeaderValue); 2] = [
            (header::AUTHORIZATION, authorization),
            (
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            ),
        ];
        let poster = match &self.poster {
            Some(poster) => poster,
            None => {
                let poster = Poster::new().map_err(|error| Failure::of(&error))?;
                self.poster.insert(poster)
            }
        };
        let turns = &mut self.turns;
        let asking = async {
            turns.wait().await;
            poster.ask(&self.url, headers, body, self.most_answer).await
        };
        let late = |_| {
            let seconds = self.deadline.as_secs();
            Failure::of(&format_args!("no answer within {seconds} s"))
        };
        let answer = timeout(self.deadline, asking).await.map_err(late)?;
        let answer = answer.map_err(|error: PostError| Failure::of(&error))?;
        let envelope: Result<Envelope<T>, _> = serde_json::from_slice(&answer.body);
        let is_success = (200..300).contains(&answer.status);
        match envelope {
            Ok(Envelope {
                success: true,
                result,
                ..
            }) if is_success => Ok(result),
            Ok(Envelope { errors, .. }) => Err(Failure {
                status: Some(answer.status),
                retry_after: answer.retry_after,
                codes: errors.iter().map(|fault| fault.code).collect(),
                words: words(&errors),
            }),
            // A proxy on the way answers as it likes.
            Err(_) => Err(Failure {
                status: Some(answer.status),
                retry_after: answer.retry_after,
                codes: Vec::new(),
                words: answer.words(),
            }),
        }
    }
}

fn words(errors: &[Fault]) -> String {
    let told = errors.iter().map(|fault| fault.message.as_str());
    let told = told.collect::<Vec<_>>().join("; ");
    let shown = told.chars().filter(|character| !character.is_control());
    shown.take(MOST_SHOWN).collect()
}

impl Failure {
    fn of(reason: &impl fmt::Display) -> Self {
        Self {
            status: None,
            retry_after: None,
            codes: Vec::new(),
            words: reason.to_string(),
        }
    }

    /// It may be taken later.
    pub(super) fn unavailable(self) -> SinkError {
        SinkError::Unavailable {
            reason: self.to_string(),
            retry_after: self.retry_after,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(status) = self.status else {
            return f.write_str(&self.words);
        };
        write!(f, "HTTP status {status}")?;
        for code in &self.codes {
            write!(f, ", code {code}")?;
        }
        write!(f, ": {}", self.words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Access, String> {
        Access::parse(&Url::parse(url).unwrap())
    }

    #[test]
    fn a_token_is_named_and_never_written_in_the_url() {
        let token = |url: &str| parse(url).unwrap().token;
        assert_eq!(token("d1://a/b"), Secret::Variable(VARIABLE.to_owned()));
        assert_eq!(
            token("d1://a/b?token_env=T"),
            Secret::Variable("T".to_owned())
        );
        assert_eq!(token("d1://a/b?token_file=/t"), Secret::File("/t".into()));
        for wrong in ["d1://t@a/b", "d1://t:secret@a/b", "d1://a/b?token=secret"] {
            let error = parse(wrong).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn only_this_machine_may_stand_in_for_the_api() {
        for right in ["http://127.0.0.1:9", "http://localhost:9", "http://[::1]:9"] {
            assert!(parse(&format!("d1://a/b?api={right}")).is_ok(), "{right}");
        }
        for wrong in ["http://10.0.0.1", "https://example.com", "ftp://127.0.0.1"] {
            assert!(parse(&format!("d1://a/b?api={wrong}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_pace_that_would_not_fit_into_a_step_is_refused() {
        let interval = |value| parse(&format!("d1://a/b?request_interval_ms={value}"));
        assert_eq!(interval("0").unwrap().interval, Duration::ZERO);
        assert_eq!(parse("d1://a/b").unwrap().interval, Duration::from_secs(1));
        for wrong in ["5001", "-1", "soon"] {
            assert!(interval(wrong).is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_begin_at_intervals_and_the_first_at_once() {
        let mut turns = Turns::new(Duration::from_secs(1));
        let start = Instant::now();
        let mut begun = Vec::new();
        for _ in 0..3 {
            turns.wait().await;
            begun.push(start.elapsed().as_millis());
        }
        // A time without requests is no credit.
        sleep_until(start + Duration::from_secs(60)).await;
        for _ in 0..2 {
            turns.wait().await;
            begun.push(start.elapsed().as_millis());
        }
        assert_eq!(begun, [0, 1000, 2000, 60_000, 61_000]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_not_answered_ends_at_its_deadline() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let token = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(token.path(), "token").unwrap();
        let access = format!("d1://a/b?token_file={}", token.path().display());
        let url = format!("http://{}", silent.local_addr().unwrap());
        let url = Url::parse(&url).unwrap();
        let mut client = Client::new(url, parse(&access).unwrap());
        let asked = timeout(2 * DEADLINE, client.post::<()>("{}".into())).await;
        let failure = asked.unwrap().unwrap_err();
        assert_eq!(
            (failure.status, failure.words.as_str()),
            (None, "no answer within 30 s")
        );
    }

    #[test]
    fn an_account_and_an_id_are_all_that_the_url_names() {
        let of = |url: &str| {
            let url = Url::parse(url).unwrap();
            let (account, name) = account_and_name(&url)?;
            Ok::<_, String>((account.to_owned(), name.to_owned()))
        };
        assert_eq!(of("d1://a1/b-2"), Ok(("a1".to_owned(), "b-2".to_owned())));
        for wrong in [
            "d1://a",
            "d1://a/",
            "d1://a/b/c",
            "d1://a/b%2F",
            "d1://a:1/b",
            "d1:///b",
        ] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}
