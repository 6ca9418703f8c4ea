//! Bodies that are too large for a message. They wait in a bucket, and the message says where: a claim
//! check.

use std::io::ErrorKind;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::object_store::{DeleteErrorKind, GetErrorKind, ObjectStore};
use bytes::Bytes;
use tokio::io::AsyncReadExt;

use super::connection::{Connection, unavailable};
use super::options::Layout;
use super::streams;
use crate::sink::SinkError;

/// The header with the name of the object that has the body.
pub(super) const BODY: &str = "Huddle-Body";
/// The most that is read of a body: a record of 1 MiB, in JSON of which every byte is escaped.
const MOST: usize = 16 << 20;
/// The deadline of reading a body.
const DEADLINE: Duration = Duration::from_secs(20);

/// The bucket for large bodies. It is opened when it is needed.
pub(super) struct Bodies {
    connection: Connection,
    layout: Layout,
    store: Option<ObjectStore>,
}

impl Bodies {
    pub(super) fn new(connection: Connection, layout: Layout) -> Self {
        Self {
            connection,
            layout,
            store: None,
        }
    }

    /// Puts the body of message `id`. Returns the name of the object, which no other attempt uses: a
    /// body that is deleted belongs to nothing else.
    pub(super) async fn put(&mut self, id: &str, body: &[u8]) -> Result<String, SinkError> {
        let name = format!("{id}.{:016x}", fastrand::u64(..));
        let store = self.store().await?.clone();
        let put = async {
            let mut reader = body;
            let put = store.put(name.as_str(), &mut reader).await;
            put.map_err(|error| unavailable("cannot put a large body", error))
        };
        self.connection.run(put).await?;
        Ok(name)
    }

    /// Where the body is that `headers` name; `None` if the message has its own.
    pub(super) async fn claimed(
        &mut self,
        headers: &HeaderMap,
    ) -> Result<Option<Claimed>, SinkError> {
        let Some(name) = name(headers) else {
            return Ok(None);
        };
        Ok(Some(Claimed {
            store: self.store().await?.clone(),
            connection: self.connection.clone(),
            name,
        }))
    }

    /// Deletes a body that is needed no more. One that is gone already is deleted.
    pub(super) async fn delete(&mut self, name: &str) -> Result<(), SinkError> {
        let store = self.store().await?.clone();
        let delete = async {
            match store.delete(name).await {
                Ok(()) => Ok(()),
                Err(error) if matches!(error.kind(), DeleteErrorKind::NotFound) => Ok(()),
                Err(error) => Err(unavailable("cannot delete a large body", error)),
            }
        };
        self.connection.run(delete).await
    }

    async fn store(&mut self) -> Result<&ObjectStore, SinkError> {
        let store = match self.store.take() {
            Some(store) => store,
            None => {
                let opening = streams::bodies(&self.connection.context, &self.layout);
                self.connection.run(opening).await?
            }
        };
        Ok(self.store.insert(store))
    }
}

/// A body in the bucket. To read it takes nothing of the partition, whose lease is renewed meanwhile.
pub(super) struct Claimed {
    connection: Connection,
    store: ObjectStore,
    name: String,
}

impl Claimed {
    /// # Errors
    /// Refused if there is no such body, it is too large, or it is not what was put.
    pub(super) async fn read(self) -> Result<Bytes, SinkError> {
        let reading = self.connection.run_within(DEADLINE, self.bytes());
        reading.await
    }

    async fn bytes(&self) -> Result<Bytes, SinkError> {
        let name = &self.name;
        let refused = |what: &str| SinkError::Refused(format!("its body {name} {what}"));
        let object = self.store.get(name.as_str()).await;
        let object = object.map_err(|error| match error.kind() {
            GetErrorKind::NotFound => refused("is not in the bucket"),
            _ => unavailable("cannot get a large body", error),
        })?;
        // What its author says; the bucket may have more.
        let announced = object.info().size;
        if announced > MOST {
            return Err(refused(&format!("has {announced} bytes")));
        }
        let mut body = Vec::with_capacity(announced);
        let mut bounded = object.take(announced as u64 + 1);
        let read = bounded.read_to_end(&mut body).await;
        read.map_err(|error| match error.kind() {
            // The digest is another one.
            ErrorKind::InvalidData => refused("is not what was put"),
            _ => unavailable("cannot read a large body", error),
        })?;
        match body.len() == announced {
            true => Ok(body.into()),
            false => Err(refused(&format!(
                "has not the {announced} bytes that it should"
            ))),
        }
    }
}

/// Notes in `headers` where the body is.
pub(super) fn claim(headers: &mut HeaderMap, name: &str) {
    headers.insert(BODY, name);
}

/// The object that has the body; `None` if the message has its own.
pub(super) fn name(headers: &HeaderMap) -> Option<String> {
    headers.get(BODY).map(|name| name.as_str().to_owned())
}
