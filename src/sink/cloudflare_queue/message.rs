//! A message as the queue hands it out, and the requests that settle it. All of it is outside data.

use bytes::Bytes;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a pull answers.
#[derive(Deserialize)]
pub(super) struct Pulled {
    #[serde(default)]
    messages: Vec<Value>,
}

/// A message that was pulled. Until its lease ends no other consumer gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) lease: String,
    /// How often it was handed out, this time included.
    pub(super) attempts: u32,
    pub(super) body: Bytes,
}

#[derive(Deserialize)]
struct Wire {
    lease_id: String,
    #[serde(default)]
    attempts: u32,
    #[serde(default)]
    body: Value,
    #[serde(default)]
    metadata: Value,
}

/// What becomes of messages.
#[derive(Debug, Default, Serialize)]
pub(super) struct Settled {
    pub(super) acks: Vec<Ack>,
    pub(super) retries: Vec<Retry>,
}

/// It does not come again.
#[derive(Debug, Serialize)]
pub(super) struct Ack {
    lease_id: String,
}

/// It comes again, after a delay.
#[derive(Debug, Serialize)]
pub(super) struct Retry {
    lease_id: String,
    delay_seconds: u64,
}

impl Pulled {
    /// The messages that can be settled. Without a lease a message cannot; it comes again by itself, until
    /// the queue gives it up.
    pub(super) fn messages(self) -> impl Iterator<Item = Message> {
        self.messages.into_iter().filter_map(Message::read)
    }
}

impl Message {
    fn read(value: Value) -> Option<Self> {
        let wire: Wire = serde_json::from_value(value).ok()?;
        let is_encoded = matches!(
            wire.metadata["CF-Content-Type"].as_str(),
            Some("json" | "bytes")
        );
        // What is not text is no task either, and is told so where tasks are read.
        let body = match wire.body {
            Value::String(text) if is_encoded => match BASE64.decode(text.as_bytes()) {
                Ok(bytes) => bytes,
                Err(_) => text.into_bytes(),
            },
            Value::String(text) => text.into_bytes(),
            other => other.to_string().into_bytes(),
        };
        Some(Self {
            lease: wire.lease_id,
            attempts: wire.attempts,
            body: body.into(),
        })
    }
}

impl Settled {
    pub(super) fn ack(&mut self, message: &Message) {
        self.acks.push(Ack {
            lease_id: message.lease.clone(),
        });
    }

    pub(super) fn retry(&mut self, message: &Message, delay_seconds: u64) {
        self.retries.push(Retry {
            lease_id: message.lease.clone(),
            delay_seconds,
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.acks.is_empty() && self.retries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_message_is_read_whatever_its_type_and_left_where_it_has_no_lease() {
        let message = |body: Value, kind: &str| {
            json!({
                "id": "1", "lease_id": "l", "attempts": 2, "body": body,
                "metadata": { "CF-Content-Type": kind },
            })
        };
        let messages = json!({ "message_backlog_count": 9, "messages": [
            message(json!("{\"n\":1}"), "text"),
            message(json!(BASE64.encode(b"{\"n\":2}")), "json"),
            message(json!("?"), "json"),
            message(json!({ "n": 3 }), "text"),
            json!({ "body": "without a lease" }),
            json!("no message"),
        ]});
        let pulled: Pulled = serde_json::from_value(messages).unwrap();
        let read: Vec<Message> = pulled.messages().collect();
        let bodies = read.iter().map(|message| &message.body[..]);
        let expected: [&[u8]; 4] = [b"{\"n\":1}", b"{\"n\":2}", b"?", b"{\"n\":3}"];
        assert_eq!(bodies.collect::<Vec<_>>(), expected);
        assert!(read.iter().all(|message| message.attempts == 2));
    }
}
