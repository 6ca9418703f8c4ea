//! The options of a sink: its name, and the URL that says what it is.

use std::fmt;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use url::Url;

use super::Sink;
use super::cloudflare_queue::{QueueOptions, QueueSink};
use super::d1::{D1Options, D1Sink};
use super::nats::{NatsOptions, NatsSink};
use super::postgres::{PostgresOptions, PostgresSink};
use super::webhook::{WebhookOptions, WebhookSink};
use crate::lexicon::TypedView;
use crate::store::change_feed::ChangeFeed;
use crate::store::sortable;

/// A sink as it is configured.
#[derive(Clone, Debug, PartialEq)]
pub struct SinkOptions {
    /// It labels metrics, and with the feed's id it is the key of the position.
    pub name: Arc<str>,
    pub target: Target,
}

/// What a sink's URL names.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    CloudflareQueue(Box<QueueOptions>),
    D1(D1Options),
    Nats(NatsOptions),
    Postgres(PostgresOptions),
    Webhook(WebhookOptions),
}

/// A text that names no sink.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSink {
    #[error(
        "{0}: no kind of sink has this scheme; there are postgres, d1, d1+https, cfqueue, nats, \
         webhook+https and webhook+http"
    )]
    Scheme(String),

    #[error("a URL of a sink has no #; in a password it is %23")]
    Fragment,

    #[error("it is not a URL: {0}")]
    Url(url::ParseError),

    #[error("{0:?} is not a name of a sink: use letters, digits, - and _, at most 64 of them")]
    Name(String),

    #[error("{0}")]
    Target(String),
}

/// The longest name, in bytes.
const MAX_NAME: usize = 64;

impl SinkOptions {
    /// The sink of `text`, which is `[NAME=]URL`. The name defaults to the kind.
    ///
    /// # Errors
    /// If it names none. No error has a password in it.
    pub fn parse(text: &str) -> Result<Self, InvalidSink> {
        let (name, url) = match text.split_once('=') {
            // A URL may have a = in its query.
            Some((name, url)) if !name.contains(':') => (Some(name), url),
            _ => (None, text),
        };
        Self::new(name, url)
    }

    /// The sink at `url`.
    ///
    /// # Errors
    /// If it names none. No error has a password in it.
    pub fn new(name: Option<&str>, url: &str) -> Result<Self, InvalidSink> {
        let url = Url::parse(url).map_err(InvalidSink::Url)?;
        if url.fragment().is_some() {
            // It may be the end of a password, and would be shown.
            return Err(InvalidSink::Fragment);
        }
        let (kind, target) = match url.scheme() {
            "cfqueue" => {
                let options = QueueOptions::parse(&url).map_err(InvalidSink::Target)?;
                ("cfqueue", Target::CloudflareQueue(Box::new(options)))
            }
            "d1" | "d1+http" | "d1+https" => {
                let options = D1Options::parse(&url).map_err(InvalidSink::Target)?;
                ("d1", Target::D1(options))
            }
            "nats" | "tls" => {
                let options = NatsOptions::parse(&url).map_err(InvalidSink::Target)?;
                ("nats", Target::Nats(options))
            }
            "postgres" | "postgresql" => {
                let options = PostgresOptions::parse(&url).map_err(InvalidSink::Target)?;
                ("postgres", Target::Postgres(options))
            }
            "webhook+http" | "webhook+https" => {
                let options = WebhookOptions::parse(&url).map_err(InvalidSink::Target)?;
                ("webhook", Target::Webhook(options))
            }
            scheme => return Err(InvalidSink::Scheme(scheme.to_owned())),
        };
        let name = name.unwrap_or(kind);
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_allowed) {
            return Err(InvalidSink::Name(name.to_owned()));
        }
        Ok(Self {
            name: name.into(),
            target,
        })
    }

    /// The sink itself. Nothing is connected yet. `feed` keeps the position of one that cannot.
    pub fn build(&self, tables: &TableOptions, feed: &Arc<dyn ChangeFeed>) -> Box<dyn Sink> {
        match &self.target {
            Target::CloudflareQueue(options) => Box::new(QueueSink::new(
                (**options).clone(),
                self.name.clone(),
                feed.clone(),
            )),
            Target::Nats(options) => Box::new(NatsSink::new(
                options.clone(),
                self.name.clone(),
                feed.clone(),
            )),
            Target::D1(options) => Box::new(D1Sink::new(
                options.clone(),
                self.name.clone(),
                tables.clone(),
            )),
            Target::Postgres(options) => Box::new(PostgresSink::new(
                options.clone(),
                self.name.clone(),
                tables.clone(),
            )),
            Target::Webhook(options) => Box::new(WebhookSink::new(
                options.clone(),
                self.name.clone(),
                feed.clone(),
            )),
        }
    }
}

/// The URL without what is secret.
impl fmt::Display for SinkOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::CloudflareQueue(options) => options.fmt(f),
            Target::D1(options) => options.fmt(f),
            Target::Nats(options) => options.fmt(f),
            Target::Postgres(options) => options.fmt(f),
            Target::Webhook(options) => options.fmt(f),
        }
    }
}

/// What is the same for all sinks of tables.
#[derive(Clone, Debug)]
pub struct TableOptions {
    /// How long ended booking requests are kept, in days.
    pub request_days: u32,
    /// The views of the lexicons in force.
    pub views: Arc<[TypedView]>,
}

impl TableOptions {
    /// Ended booking requests that were written before are purged. Text that sorts.
    pub(super) fn purged_before(&self) -> String {
        let age = SignedDuration::from_hours(i64::from(self.request_days) * 24);
        let limit = Timestamp::now().saturating_sub(age);
        sortable(limit.unwrap_or(Timestamp::MIN))
    }
}

/// What stands for something secret.
pub(super) const HIDDEN: &str = "***";

/// The text of `url` with its password replaced, and the values of the parameters that are secret.
pub(super) fn redacted(url: &Url, is_secret: impl Fn(&str) -> bool) -> String {
    let mut shown = url.clone();
    if shown.password().is_some() {
        // It fails only for URLs that cannot have one.
        let _set = shown.set_password(Some(HIDDEN));
    }
    if url.query_pairs().any(|(name, _)| is_secret(&name)) {
        let pairs = url.query_pairs().map(|(name, value)| {
            let value = match is_secret(&name) {
                true => HIDDEN.into(),
                false => value,
            };
            (name, value)
        });
        shown.query_pairs_mut().clear().extend_pairs(pairs);
    }
    shown.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_has_a_name_or_that_of_its_kind() {
        let name = |text: &str| SinkOptions::parse(text).map(|sink| sink.name.to_string());
        assert_eq!(name("postgres://db/huddle"), Ok("postgres".to_owned()));
        assert_eq!(
            name("copy=postgres://db/huddle?schema=a"),
            Ok("copy".to_owned())
        );
        assert_eq!(
            name("postgres://db/huddle?schema=a"),
            Ok("postgres".to_owned())
        );
        for wrong in [
            "=postgres://db/x",
            "a b=postgres://db/x",
            "é=postgres://db/x",
        ] {
            assert!(matches!(name(wrong), Err(InvalidSink::Name(_))), "{wrong}");
        }
        assert!(matches!(name("redis://db"), Err(InvalidSink::Scheme(_))));
        assert!(matches!(name("huddle.db"), Err(InvalidSink::Url(_))));
    }

    /// Holds invariant 12.10.
    #[test]
    fn no_text_of_a_sink_has_its_password_in_it() {
        for url in [
            "postgres://ann:secret@db/huddle",
            "postgres://db/huddle?user=ann&password=secret",
            "ann=webhook+https://hooks.example/secret/path?token=secret",
            "nats://ann:secret@a.example?servers=b:4222,c:4222",
            "nats://secret@a.example?stream=ann",
            "tls://ann:s%65cret%40secret@a.example",
            "postgres://ann:secret%2Fsecret@db:5433/huddle",
            "webhook+http://hooks.example/?ann=secret",
        ] {
            let sink = SinkOptions::parse(url).unwrap();
            for text in [sink.to_string(), format!("{sink:?}")] {
                assert!(text.contains("***"), "{text}");
                assert!(!text.contains("secret"), "{text}");
            }
            assert!(format!("{sink:?}").contains("ann"));
        }
    }

    /// Holds invariant 12.10.
    #[test]
    fn a_secret_where_none_belongs_is_refused_and_not_shown() {
        for url in [
            "nats://a.example?servers=ann:hunter2@b.example",
            "nats://ann/hunter2@a.example",
            "nats://ann#hunter2@a.example",
            "postgres://db/huddle#hunter2",
            "cfqueue://ann:hunter2@account/queue",
            "cfqueue://account/queue?token=hunter2",
            "cfqueue://account/queue?api=http://ann:hunter2@127.0.0.1",
            "d1://hunter2@account/database",
            "d1://account/database?token=hunter2",
            "d1://account/database?api=http://hunter2@127.0.0.1",
            "d1+https://ann:hunter2@gateway.example/",
            "webhook+https://ann:hunter2@hooks.example/",
        ] {
            let error = SinkOptions::parse(url).unwrap_err();
            for text in [error.to_string(), format!("{error:?}")] {
                assert!(!text.contains("hunter2"), "{url}: {text}");
            }
        }
    }

    /// sqlx logs the parameters that it does not know, with their values.
    #[test]
    fn a_parameter_that_postgres_does_not_know_is_refused_without_its_value() {
        let error = SinkOptions::parse("postgres://db/huddle?passwd=secret").unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("passwd") && !text.contains("secret"),
            "{text}"
        );
        assert!(SinkOptions::parse("postgres://db/huddle?sslmode=require&host=a").is_ok());
    }
}
