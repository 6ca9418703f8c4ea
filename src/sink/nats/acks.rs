//! The acks of messages, in the order of their publishing.
//!
//! All of them come to one inbox, and the subject of each ends in its message's number. The library's own way, a
//! request with an inbox, a deadline and a place in a map for each message, costs more than the message.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::Error;
use async_nats::{Client, Message, StatusCode, Subscriber};
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::time::timeout;

use super::connection::unavailable;
use crate::sink::SinkError;

/// The deadline of each ack, once all before it have come.
const DEADLINE: Duration = Duration::from_secs(8);

/// Where acks come in.
pub(super) struct Acks {
    /// What the subjects begin with to which acks are sent.
    inbox: String,
    subscriber: Subscriber,
    in_order: InOrder<Message>,
}

/// What the stream says of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ack {
    /// The number that it has in the stream.
    pub(super) seq: u64,
    /// The stream has had it already.
    pub(super) is_duplicate: bool,
}

/// The body of an ack.
#[derive(Deserialize)]
struct Answer {
    seq: Option<u64>,
    #[serde(default)]
    duplicate: bool,
    error: Option<Error>,
}

impl Acks {
    /// # Errors
    /// If the client cannot ask for them.
    pub(super) async fn open(client: &Client) -> Result<Self, SinkError> {
        let inbox = client.new_inbox();
        let subscriber = client.subscribe(format!("{inbox}.*")).await;
        Ok(Self {
            inbox,
            subscriber: subscriber.map_err(|error| unavailable("cannot ask for acks", error))?,
            in_order: InOrder::default(),
        })
    }

    /// The subject for the ack of the next message.
    pub(super) fn subject(&mut self) -> String {
        format!("{}.{}", self.inbox, self.in_order.expect())
    }

    /// The next ack: of the first message of which it was not handed out yet.
    ///
    /// # Errors
    /// If it does not come in time, or the stream did not take the message.
    pub(super) async fn next(&mut self) -> Result<Ack, SinkError> {
        loop {
            if let Some(message) = self.in_order.next() {
                return read(&message);
            }
            let next = timeout(DEADLINE, self.subscriber.next()).await;
            let next = next.map_err(|_elapsed| SinkError::late(DEADLINE))?;
            let message = next.ok_or_else(|| SinkError::unavailable("the connection was lost"))?;
            let number = message.subject.rsplit_once('.');
            if let Some(number) = number.and_then(|(_, number)| number.parse().ok()) {
                self.in_order.put(number, message);
            }
        }
    }
}

/// Hands out what has numbers, from 1, in their order.
#[derive(Debug)]
struct InOrder<T> {
    expected: u64,
    handed_out: u64,
    /// What came, and was not handed out yet.
    waiting: BTreeMap<u64, T>,
}

impl<T> Default for InOrder<T> {
    fn default() -> Self {
        Self {
            expected: 0,
            handed_out: 0,
            waiting: BTreeMap::new(),
        }
    }
}

impl<T> InOrder<T> {
    /// The number of one more that is expected.
    fn expect(&mut self) -> u64 {
        self.expected += 1;
        self.expected
    }

    /// Takes one. What is not expected, or was handed out, is dropped: every client may publish to an inbox.
    fn put(&mut self, number: u64, value: T) {
        if number > self.handed_out && number <= self.expected {
            self.waiting.entry(number).or_insert(value);
        }
    }

    fn next(&mut self) -> Option<T> {
        let value = self.waiting.remove(&(self.handed_out + 1))?;
        self.handed_out += 1;
        Some(value)
    }
}

fn read(message: &Message) -> Result<Ack, SinkError> {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Err(not_acknowledged("the stream is not there"));
    }
    let answer: Answer = serde_json::from_slice(&message.payload).map_err(not_acknowledged)?;
    if let Some(error) = answer.error {
        return Err(not_acknowledged(error));
    }
    let no_number = || not_acknowledged("the answer has no number");
    Ok(Ack {
        seq: answer.seq.ok_or_else(no_number)?,
        is_duplicate: answer.duplicate,
    })
}

fn not_acknowledged(why: impl std::fmt::Display) -> SinkError {
    unavailable("a message was not acknowledged", why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(payload: &'static str, status: Option<StatusCode>) -> Result<Ack, String> {
        let message = Message {
            subject: "_INBOX.a.1".into(),
            reply: None,
            payload: payload.into(),
            headers: None,
            status,
            description: None,
            length: 0,
        };
        read(&message).map_err(|error| error.to_string())
    }

    #[test]
    fn acks_that_come_in_any_order_are_handed_out_in_that_of_their_messages() {
        let mut in_order = InOrder::default();
        assert_eq!(
            [in_order.expect(), in_order.expect(), in_order.expect()],
            [1, 2, 3]
        );
        in_order.put(2, "second");
        assert_eq!(in_order.next(), None);
        in_order.put(1, "first");
        in_order.put(3, "third");
        let handed_out: Vec<&str> = std::iter::from_fn(|| in_order.next()).collect();
        assert_eq!(handed_out, ["first", "second", "third"]);
    }

    #[test]
    fn an_ack_that_is_not_expected_or_comes_twice_is_dropped() {
        let mut in_order = InOrder::default();
        in_order.put(1, "too early");
        in_order.expect();
        in_order.put(2, "of no message");
        in_order.put(1, "first");
        in_order.put(1, "again");
        assert_eq!(in_order.next(), Some("first"));
        in_order.put(1, "late");
        in_order.expect();
        assert_eq!(in_order.next(), None);
    }

    #[test]
    fn an_answer_says_where_the_message_is_or_why_it_is_nowhere() {
        let ack = |seq, is_duplicate| Ok(Ack { seq, is_duplicate });
        assert_eq!(answer("{\"stream\":\"S\",\"seq\":7}", None), ack(7, false));
        let repeated = "{\"stream\":\"S\",\"seq\":7,\"duplicate\":true}";
        assert_eq!(answer(repeated, None), ack(7, true));
        let full = "{\"stream\":\"S\",\"seq\":0,\"error\":{\"code\":503,\"err_code\":10077,\
                    \"description\":\"maximum bytes exceeded\"}}";
        for (payload, status, why) in [
            (full, None, "maximum bytes exceeded"),
            ("{\"stream\":\"S\"}", None, "no number"),
            ("", None, "EOF"),
            ("[1]", None, "invalid"),
            (
                "",
                Some(StatusCode::NO_RESPONDERS),
                "the stream is not there",
            ),
        ] {
            let error = answer(payload, status).unwrap_err();
            assert!(
                error.starts_with("a message was not acknowledged"),
                "{error}"
            );
            assert!(error.contains(why), "{payload}: {error}");
        }
    }
}
