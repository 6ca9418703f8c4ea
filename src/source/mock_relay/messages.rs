//! The few messages that the relay speaks itself, and the one field of others' that it reads.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_ipld_dagcbor::de::Deserializer;

/// `#info`: the cursor lies before what the relay still holds.
pub(super) const OUTDATED_CURSOR: &[u8] =
    b"\xa2\x61t\x65#info\x62op\x01\xa1\x64name\x6eOutdatedCursor";

/// The error frame for a cursor that the relay has not reached yet.
pub(super) const FUTURE_CURSOR: &[u8] =
    b"\xa1\x62op\x20\xa2\x65error\x6cFutureCursor\x67message\x75Cursor in the future.";

/// The seq of a frame; `None` where it has none or is no frame of the protocol.
pub(super) fn seq_of(frame: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Payload {
        seq: u64,
    }

    let mut frame = Deserializer::from_slice(frame);
    IgnoredAny::deserialize(&mut frame).ok()?;
    let payload = Payload::deserialize(&mut frame).ok()?;
    Some(payload.seq)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ipld_core::ipld::Ipld;

    use super::*;

    fn decode(frame: &[u8]) -> [BTreeMap<String, Ipld>; 2] {
        let mut frame = Deserializer::from_slice(frame);
        let objects = [(); 2].map(|()| BTreeMap::deserialize(&mut frame).unwrap());
        frame.end().unwrap();
        objects
    }

    #[test]
    fn the_messages_are_frames_of_the_protocol() {
        let [header, info] = decode(OUTDATED_CURSOR);
        assert_eq!(header["op"], Ipld::Integer(1));
        assert_eq!(header["t"], Ipld::String("#info".into()));
        assert_eq!(info["name"], Ipld::String("OutdatedCursor".into()));

        let [header, error] = decode(FUTURE_CURSOR);
        assert_eq!(header["op"], Ipld::Integer(-1));
        assert_eq!(error["error"], Ipld::String("FutureCursor".into()));
    }

    #[test]
    fn the_seq_is_found_among_links_bytes_and_nested_values() {
        let mut frame = b"\xa2\x61t\x67#commit\x62op\x01".to_vec();
        let link = "bafyreie5cvv4h45feadgeuwhbcutmh6t2ceseocckahdoe6uat64zmz454";
        let payload = BTreeMap::from([
            ("seq", Ipld::Integer(77)),
            ("ops", Ipld::List(vec![Ipld::Null, Ipld::Bytes(vec![1])])),
            ("commit", Ipld::Link(link.parse().unwrap())),
        ]);
        frame.extend(serde_ipld_dagcbor::to_vec(&payload).unwrap());
        assert_eq!(seq_of(&frame), Some(77));
    }

    #[test]
    fn what_has_no_seq_has_none() {
        assert_eq!(seq_of(OUTDATED_CURSOR), None);
        assert_eq!(seq_of(b""), None);
        assert_eq!(seq_of(b"garbage"), None);
    }
}
