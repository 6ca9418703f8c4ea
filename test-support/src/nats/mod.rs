//! A queue of its own for each test, and what is in it.

mod accounts;
mod server;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, stream};
use async_nats::{HeaderMap, Subscriber};
use bytes::Bytes;
use serde_json::{Value, json};

pub use self::accounts::Accounts;
pub use self::server::{Login, OwnServer, SECRET, USER};
use crate::skipped::skip;

/// A stream that no other test uses. It is deleted with the value, and what belongs to it.
pub struct Queue {
    /// The server, with its login.
    pub server: String,
    pub stream: String,
    subject: String,
}

/// A message that waits.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub subject: String,
    pub headers: BTreeMap<String, String>,
    pub body: Value,
}

impl Queue {
    /// A new name. `None` if there is no server: then the test is skipped, or fails where CI is set.
    pub async fn new() -> Option<Self> {
        let Some(server) = server::url().await else {
            return Self::missing();
        };
        Some(Self::at(&server))
    }

    /// Says that there is no server.
    pub fn missing<T>() -> Option<T> {
        let reason = "no NATS server answers, and Debian's package nats-server is not installed";
        assert!(std::env::var_os("CI").is_none(), "{reason}");
        skip(reason);
        None
    }

    /// A new name at `server`.
    pub fn at(server: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        Self {
            server: server.to_owned(),
            stream: format!("HUDDLE_TEST_{process}_{number}"),
            subject: format!("huddle-test-{process}-{number}"),
        }
    }

    /// The URL of a sink.
    pub fn url(&self) -> String {
        self.url_at(&self.server)
    }

    /// The URL of a sink that reaches the server at another address.
    pub fn url_at(&self, server: &str) -> String {
        let Self {
            stream, subject, ..
        } = self;
        let mark = if server.contains('?') { '&' } else { '?' };
        format!("{server}{mark}stream={stream}&subject={subject}&partitions=4&bytes=64MiB")
    }

    async fn context(&self) -> jetstream::Context {
        jetstream::new(server::connect(&self.server).await.unwrap())
    }

    /// What is known of the stream; `None` if there is none.
    pub async fn info(&self) -> Option<stream::Info> {
        let stream = self.context().await.get_stream(&self.stream).await.ok()?;
        Some(stream.cached_info().clone())
    }

    /// The number of messages that wait; 0 if there is no stream.
    pub async fn count(&self) -> u64 {
        self.info().await.map_or(0, |info| info.state.messages)
    }

    /// All that wait, in their order.
    pub async fn waiting(&self) -> Vec<Waiting> {
        self.messages_of(&self.stream).await
    }

    /// The dead letters.
    pub async fn dead_letters(&self) -> Vec<Waiting> {
        self.messages_of(&format!("{}_DLQ", self.stream)).await
    }

    async fn messages_of(&self, stream: &str) -> Vec<Waiting> {
        let Ok(stream) = self.context().await.get_stream(stream).await else {
            return Vec::new();
        };
        let state = &stream.cached_info().state;
        let mut messages = Vec::new();
        for seq in state.first_sequence.max(1)..=state.last_sequence {
            let Ok(message) = stream.get_raw_message(seq).await else {
                continue;
            };
            let headers = message.headers.iter().filter_map(|(name, values)| {
                let value = values.first()?;
                Some((name.to_string(), value.as_str().to_owned()))
            });
            messages.push(Waiting {
                subject: message.subject.to_string(),
                headers: headers.collect(),
                body: serde_json::from_slice(&message.payload).unwrap_or(Value::Null),
            });
        }
        messages
    }

    /// Publishes a body of a stranger to a partition.
    pub async fn publish(&self, partition: u32, body: &str) {
        let context = self.context().await;
        let subject = format!("{}.{partition}", self.subject);
        let sent = context.publish(subject, body.to_owned().into()).await;
        sent.unwrap().await.unwrap();
    }

    /// Publishes to a partition a message whose body is the object `name`.
    pub async fn publish_claim(&self, partition: u32, name: &str) {
        let mut headers = HeaderMap::new();
        headers.insert("Huddle-Body", name);
        let message = PublishMessage::build()
            .payload("{}".into())
            .headers(headers);
        let subject = format!("{}.{partition}", self.subject);
        let context = self.context().await;
        let sent = context.send_publish(subject, message).await;
        sent.unwrap().await.unwrap();
    }

    /// Says in the bucket of bodies that the object `name` has so many bytes, which may be wrong, and which
    /// may come later.
    pub async fn announce_body(&self, name: &str, bytes: usize) {
        let bucket = format!("{}_BODIES", self.stream);
        let context = self.context().await;
        if context.get_object_store(&bucket).await.is_err() {
            let config = jetstream::object_store::Config {
                bucket: bucket.clone(),
                ..Default::default()
            };
            context.create_object_store(config).await.unwrap();
        }
        let note = json!({
            "name": name, "bucket": bucket, "nuid": name, "size": bytes, "chunks": 1,
        });
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Rollup", "sub");
        let encoded = data_encoding::BASE64URL.encode(name.as_bytes());
        let note = PublishMessage::build()
            .payload(note.to_string().into())
            .headers(headers);
        let sent = context
            .send_publish(format!("$O.{bucket}.M.{encoded}"), note)
            .await;
        sent.unwrap().await.unwrap();
    }

    /// Puts the bytes of a body that was announced.
    pub async fn put_body(&self, name: &str, body: impl Into<Bytes>) {
        let subject = format!("$O.{}_BODIES.C.{name}", self.stream);
        let context = self.context().await;
        let sent = context.publish(subject, body.into()).await;
        sent.unwrap().await.unwrap();
    }

    /// The number of the last write to the lease of a partition; 0 if there is none.
    pub async fn lease_revision(&self, partition: u32) -> u64 {
        let bucket = format!("{}_LEASES", self.stream);
        let Ok(store) = self.context().await.get_key_value(bucket).await else {
            return 0;
        };
        let entry = store.entry(partition.to_string()).await.unwrap();
        entry.map_or(0, |entry| entry.revision)
    }

    /// The requests for what is known of the bucket of leases, and those for a lease, from now on.
    pub async fn watch_leases(&self) -> [Subscriber; 2] {
        let client = server::connect(&self.server).await.unwrap();
        let bucket = format!("KV_{}_LEASES", self.stream);
        let of_bucket = client.subscribe(format!("$JS.API.STREAM.INFO.{bucket}"));
        let of_bucket = of_bucket.await.unwrap();
        let of_lease = client.subscribe(format!("$JS.API.DIRECT.GET.{bucket}.>"));
        let of_lease = of_lease.await.unwrap();
        client.flush().await.unwrap();
        [of_bucket, of_lease]
    }

    /// The objects that wait in the bucket of bodies.
    pub async fn bodies(&self) -> usize {
        use futures_util::StreamExt;

        let bucket = format!("{}_BODIES", self.stream);
        let Ok(store) = self.context().await.get_object_store(bucket).await else {
            return 0;
        };
        let listed = store.list().await.unwrap().collect::<Vec<_>>();
        let listed = tokio::time::timeout(Duration::from_secs(5), listed);
        listed.await.map_or(0, |listed| listed.len())
    }

    /// Takes all that wait, as consumers would.
    pub async fn purge(&self) {
        if let Ok(stream) = self.context().await.get_stream(&self.stream).await {
            stream.purge().await.unwrap();
        }
    }

    /// Deletes the stream of tasks alone.
    pub async fn delete_stream(&self) {
        let context = self.context().await;
        context.delete_stream(&self.stream).await.unwrap();
    }

    /// Creates the stream as an operator might.
    pub async fn create_otherwise(&self) {
        let config = stream::Config {
            name: self.stream.clone(),
            subjects: vec![format!("{}.>", self.subject)],
            ..stream::Config::default()
        };
        self.context().await.create_stream(config).await.unwrap();
    }

    fn members(&self) -> String {
        format!("KV_{}_MEMBERS", self.stream)
    }

    /// Creates the bucket in which consumers are counted, so small that another one has filled it.
    pub async fn refuse_members(&self) {
        let config = stream::Config {
            name: self.members(),
            subjects: vec![format!("$KV.{}_MEMBERS.>", self.stream)],
            max_messages_per_subject: 1,
            max_messages: 1,
            discard: stream::DiscardPolicy::New,
            ..stream::Config::default()
        };
        let context = self.context().await;
        context.create_stream(config).await.unwrap();
        let other = format!("$KV.{}_MEMBERS.other", self.stream);
        let sent = context.publish(other, "".into()).await;
        sent.unwrap().await.unwrap();
    }

    /// Deletes that bucket. The next consumer creates one that takes consumers.
    pub async fn admit_members(&self) {
        let context = self.context().await;
        context.delete_stream(self.members()).await.unwrap();
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let (url, stream) = (self.server.clone(), self.stream.clone());
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let connecting = server::connect(&url);
                let connected = tokio::time::timeout(Duration::from_secs(2), connecting).await;
                let Ok(Ok(client)) = connected else {
                    return;
                };
                let context = jetstream::new(client);
                for name in [
                    stream.clone(),
                    format!("{stream}_DLQ"),
                    format!("OBJ_{stream}_BODIES"),
                    format!("KV_{stream}_FEEDS"),
                    format!("KV_{stream}_LEASES"),
                    format!("KV_{stream}_MEMBERS"),
                ] {
                    let _missing = context.delete_stream(name).await;
                }
            });
        });
        let _failed = dropped.join();
    }
}
