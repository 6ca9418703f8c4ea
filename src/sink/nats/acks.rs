//! The acks of messages, in the order of their publishing.
//!
//! They come to a few subjects that are used again and again, each by one message at a time. The server looks up where
//! each ack goes, and remembers that for some hundred subjects: a subject for each message, as the library's requests
//! have it, costs the server more than the ack, and the client a place in a map and a deadline each.

use std::time::Duration;

use async_nats::jetstream::Error;
use async_nats::{Client, Message, StatusCode, Subject, Subscriber};
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::time::timeout;

use super::connection::unavailable;
use crate::sink::SinkError;

/// How many messages may wait for their acks.
pub(super) const MOST: usize = 512;
/// The deadline of each ack, once all before it have come.
const DEADLINE: Duration = Duration::from_secs(8);

/// Where acks come in.
pub(super) struct Acks {
    /// Those to which acks are sent, in turn.
    subjects: Vec<Subject>,
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
        let subjects = (0..MOST).map(|place| format!("{inbox}.{place}").into());
        Ok(Self {
            subjects: subjects.collect(),
            subscriber: subscriber.map_err(|error| unavailable("cannot ask for acks", error))?,
            in_order: InOrder::new(MOST),
        })
    }

    /// The subject for the ack of the next message; `None` while [`MOST`] wait for theirs.
    pub(super) fn subject(&mut self) -> Option<Subject> {
        let place = self.in_order.expect()?;
        self.subjects.get(place).cloned()
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
            let place = message.subject.rsplit_once('.');
            if let Some(place) = place.and_then(|(_, place)| place.parse().ok()) {
                self.in_order.put(place, message);
            }
        }
    }
}

/// Hands out what comes in any order in the order in which it was expected. Each has a place meanwhile.
#[derive(Debug)]
struct InOrder<T> {
    /// How many were expected, and how many of them were handed out. The place of each is its number modulo the
    /// number of places.
    expected: usize,
    handed_out: usize,
    /// What came, and was not handed out yet.
    places: Vec<Option<T>>,
}

impl<T> InOrder<T> {
    fn new(places: usize) -> Self {
        Self {
            expected: 0,
            handed_out: 0,
            places: std::iter::repeat_with(|| None).take(places).collect(),
        }
    }

    /// Expects one more. Returns its place; `None`: all are taken.
    fn expect(&mut self) -> Option<usize> {
        let is_full = self.expected - self.handed_out >= self.places.len();
        let place = (!is_full).then(|| self.expected % self.places.len())?;
        self.expected += 1;
        Some(place)
    }

    /// Takes what comes to a place. What is not expected there, or was there already, is dropped: every client may
    /// publish to an inbox.
    fn put(&mut self, place: usize, value: T) {
        let places = self.places.len();
        if let Some(held) = self.places.get_mut(place)
            && (place + places - self.handed_out % places) % places
                < self.expected - self.handed_out
        {
            held.get_or_insert(value);
        }
    }

    fn next(&mut self) -> Option<T> {
        let place = self.handed_out.checked_rem(self.places.len())?;
        let value = self.places.get_mut(place)?.take()?;
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
        let mut in_order = InOrder::new(3);
        let mut handed_out = Vec::new();
        for round in 0..5 {
            let places: Vec<usize> = std::iter::from_fn(|| in_order.expect()).collect();
            assert_eq!(places.len(), 3, "all are taken");
            in_order.put(places[1], (round, 1));
            assert_eq!(in_order.next(), None);
            in_order.put(places[0], (round, 0));
            in_order.put(places[2], (round, 2));
            handed_out.extend(std::iter::from_fn(|| in_order.next()));
            // The places begin elsewhere in each round.
            let place = in_order.expect().unwrap();
            in_order.put(place, (round, 3));
            handed_out.extend(in_order.next());
        }
        let in_turn = (0..5).flat_map(|round| (0..4).map(move |number| (round, number)));
        assert_eq!(handed_out, in_turn.collect::<Vec<_>>());
    }

    #[test]
    fn an_ack_that_is_not_expected_or_comes_twice_is_dropped() {
        let mut in_order = InOrder::new(3);
        in_order.put(0, "too early");
        assert_eq!(in_order.expect(), Some(0));
        in_order.put(1, "of no message");
        in_order.put(3, "of no place");
        in_order.put(0, "first");
        in_order.put(0, "again");
        assert_eq!(in_order.next(), Some("first"));
        in_order.put(0, "late");
        assert_eq!((in_order.expect(), in_order.expect()), (Some(1), Some(2)));
        in_order.put(0, "late");
        assert_eq!(in_order.next(), None);
        in_order.put(1, "second");
        assert_eq!(in_order.next(), Some("second"));
        assert_eq!((in_order.expect(), in_order.expect()), (Some(0), Some(1)));
        assert_eq!(in_order.expect(), None);
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
