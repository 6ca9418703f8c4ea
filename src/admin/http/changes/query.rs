//! The parameters of a request for changes.

use std::time::Duration;

use axum::extract::Request;
use url::form_urlencoded;

use crate::atproto::pattern::Pattern;
use crate::model::FeedPosition;
use crate::sink::item::Body;

const DEFAULT_LIMIT: u64 = 100;
const MOST_LIMIT: u64 = 1000;
/// How often something is sent while there is nothing to tell.
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(10);
const LEAST_HEARTBEAT: Duration = Duration::from_millis(100);
const LONGEST_HEARTBEAT: Duration = Duration::from_secs(20);
/// How long a poll waits for a change.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(600);

/// How changes are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    EventSource,
    LongPoll,
    Normal,
}

/// Where a reader begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Since {
    Beginning,
    Now,
    Position(FeedPosition),
}

#[derive(Clone, Debug)]
pub(super) struct Query {
    pub(super) kind: Kind,
    pub(super) since: Since,
    pub(super) limit: u64,
    /// Collections whose records are told; all of them if there are none. Accounts are always told.
    pub(super) collections: Vec<Pattern>,
    pub(super) body: Body,
    pub(super) heartbeat: Duration,
    pub(super) timeout: Duration,
}

impl Query {
    /// Reads the parameters of `request`.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub(super) fn of(request: &Request) -> Result<Self, String> {
        let text = request.uri().query().unwrap_or_default();
        let mut query = Self::parse(text)?;
        // A browser that connects again names the last event that it got.
        let last = request.headers().get("last-event-id");
        if let Some(last) = last.and_then(|last| last.to_str().ok()) {
            query.since = since(last)?;
        }
        Ok(query)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut query = Self {
            kind: Kind::Normal,
            since: Since::Beginning,
            limit: DEFAULT_LIMIT,
            collections: Vec::new(),
            body: Body::Without,
            heartbeat: DEFAULT_HEARTBEAT,
            timeout: DEFAULT_TIMEOUT,
        };
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            match &*name {
                "feed" => query.kind = kind(&value)?,
                "since" => query.since = since(&value)?,
                "limit" => query.limit = number(&name, &value)?.clamp(1, MOST_LIMIT),
                "collection" => {
                    for pattern in value.split(',') {
                        let pattern = pattern.parse();
                        let pattern = pattern.map_err(|error| format!("collection: {error}"))?;
                        query.collections.push(pattern);
                    }
                }
                "include" if &*value == "record" => query.body = Body::With,
                "include" => return Err("include: only record can be included".to_owned()),
                "heartbeat" => {
                    let asked = Duration::from_millis(number(&name, &value)?);
                    query.heartbeat = asked.clamp(LEAST_HEARTBEAT, LONGEST_HEARTBEAT);
                }
                "timeout" => {
                    let asked = Duration::from_millis(number(&name, &value)?);
                    query.timeout = asked.min(LONGEST_TIMEOUT);
                }
                _ => return Err(format!("{name}: no such parameter")),
            }
        }
        Ok(query)
    }
}

fn kind(value: &str) -> Result<Kind, String> {
    match value {
        "eventsource" => Ok(Kind::EventSource),
        "longpoll" => Ok(Kind::LongPoll),
        "normal" => Ok(Kind::Normal),
        _ => Err("feed: is normal, longpoll or eventsource".to_owned()),
    }
}

fn since(value: &str) -> Result<Since, String> {
    match value {
        "0" | "" => Ok(Since::Beginning),
        "now" => Ok(Since::Now),
        position => {
            let position = position.parse();
            let position = position.map_err(|error| format!("since: {error}, or 0, or now"))?;
            Ok(Since::Position(position))
        }
    }
}

fn number(name: &str, value: &str) -> Result<u64, String> {
    value
        .parse()
        .map_err(|_| format!("{name}: is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameters_are_read_and_bounded() {
        let query = Query::parse(
            "feed=longpoll&since=f:e:7&limit=5000&collection=com.huddle.*,a.b.c&include=record\
             &heartbeat=1&timeout=9999999999",
        );
        let query = query.unwrap();
        assert_eq!(query.kind, Kind::LongPoll);
        assert_eq!(query.since, Since::Position("f:e:7".parse().unwrap()));
        assert_eq!((query.limit, query.collections.len()), (MOST_LIMIT, 2));
        assert_eq!(query.body, Body::With);
        assert_eq!(query.heartbeat, LEAST_HEARTBEAT);
        assert_eq!(query.timeout, LONGEST_TIMEOUT);
        assert_eq!(Query::parse("since=now").unwrap().since, Since::Now);
        assert_eq!(Query::parse("since=0").unwrap().since, Since::Beginning);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (text, name) in [
            ("since=7", "since"),
            ("limit=many", "limit"),
            ("feed=continuous", "feed"),
            ("include=docs", "include"),
            ("collection=*.a", "collection"),
            ("descending=true", "descending"),
        ] {
            let error = Query::parse(text).unwrap_err();
            assert!(error.starts_with(name), "{error}");
        }
    }
}
