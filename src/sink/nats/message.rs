//! The message of a change: its subject, its id, and its body.

use std::error::Error;
use std::fmt::{Display, Write};

use async_nats::HeaderMap;
use async_nats::header::{NATS_EXPECTED_STREAM, NATS_MESSAGE_ID};
use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use sha2::{Digest, Sha256};

use crate::model::{Change, Feed, FeedPosition};
use crate::sink::SinkError;
use crate::sink::item::{Body, item, write_item};

/// What a message has beside its body, about.
const OVERHEAD: usize = 512;

/// A change as a message.
pub(super) struct Message<'a> {
    change: &'a Change,
    /// `FEED:EPOCH:CHANGE`, and behind a rewind its number.
    pub(super) id: ByteString,
    pub(super) partition: u32,
    /// The whole task.
    pub(super) body: Bytes,
}

impl<'a> Message<'a> {
    /// The message of `change`, which is of `feed`, among so many partitions and after so many rewinds. Its id and
    /// its body are written into `buffer`, and taken out of it.
    ///
    /// # Errors
    /// Refused if the database holds a record that is no JSON.
    pub(super) fn new(
        change: &'a Change,
        feed: &Feed,
        (partitions, rewinds): (u32, u32),
        buffer: &mut BytesMut,
    ) -> Result<Self, SinkError> {
        let id = write_id(change, feed, rewinds, buffer).map_err(refused)?;
        let written = write_item(change, &feed.id, Body::With, buffer.writer());
        let body = buffer.split().freeze();
        written.map_err(refused)?;
        Ok(Self {
            change,
            id,
            partition: partition(change.row.did(), partitions),
            body,
        })
    }

    /// The task without its record, for one whose body waits elsewhere.
    pub(super) fn without_record(&self, feed: &Feed) -> Result<Bytes, SinkError> {
        let item = item(self.change, &feed.id, Body::Without);
        Ok(item.map_err(refused)?.into())
    }

    /// The bytes that it takes in the stream, about.
    pub(super) fn bytes(&self) -> u64 {
        (self.body.len() + OVERHEAD) as u64
    }

    /// Whether its body is too large for a message of at most `limit` bytes.
    pub(super) fn is_large(&self, limit: usize) -> bool {
        self.body.len() + OVERHEAD > limit
    }
}

fn refused(error: impl Display) -> SinkError {
    SinkError::Refused(error.to_string())
}

/// Writes what [`position_of`] reads.
fn write_id(
    change: &Change,
    feed: &Feed,
    rewinds: u32,
    buffer: &mut BytesMut,
) -> Result<ByteString, Box<dyn Error>> {
    write!(buffer, "{}:{}:{}", feed.id, change.epoch, change.number)?;
    if rewinds > 0 {
        write!(buffer, ":{rewinds}")?;
    }
    Ok(buffer.split().try_into()?)
}

/// The position of the change whose message has this id.
pub(super) fn position_of(id: &str) -> Option<FeedPosition> {
    let parts: Vec<&str> = id.split(':').take(3).collect();
    parts.join(":").parse().ok()
}

/// The partition of an account: the first eight bytes of the DID's SHA-256, as a number whose first byte
/// counts most, modulo the number of partitions.
pub(super) fn partition(did: &str, partitions: u32) -> u32 {
    let digest = Sha256::digest(did.as_bytes());
    let first = digest.iter().take(8);
    let number = first.fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    u32::try_from(number % u64::from(partitions.max(1))).unwrap_or_default()
}

/// The headers that each message has.
pub(super) fn headers(id: &str, stream: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    // The server leaves out what it has already.
    headers.insert(NATS_MESSAGE_ID, id);
    headers.insert(NATS_EXPECTED_STREAM, stream);
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_position_of_a_message_is_in_its_id_also_behind_a_rewind() {
        for id in ["f:e:9", "f:e:9:2"] {
            assert_eq!(position_of(id).unwrap().to_string(), "f:e:9");
        }
        assert_eq!(position_of("other"), None);
    }

    #[test]
    fn the_partition_is_of_the_did_alone() {
        assert_eq!(partition("did:plc:alice", 1), 0);
        let spread: std::collections::BTreeSet<u32> = (0..400)
            .map(|n| partition(&format!("did:plc:{n}"), 16))
            .collect();
        assert_eq!(spread.len(), 16);
        // The first eight bytes of `printf foo | sha256sum`.
        let whole = 0x2c26_b46b_68ff_c68f_u64;
        assert_eq!(u64::from(partition("foo", 255)), whole % 255);
    }
}
