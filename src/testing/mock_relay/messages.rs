//! The messages that the relay itself creates.

/// `#info`: the cursor is older than everything that the relay holds.
pub(super) const OUTDATED_CURSOR: &[u8] =
    b"\xa2\x61t\x65#info\x62op\x01\xa1\x64name\x6eOutdatedCursor";

/// The error frame for a cursor that the relay has not reached yet.
pub(super) const FUTURE_CURSOR: &[u8] =
    b"\xa1\x62op\x20\xa2\x65error\x6cFutureCursor\x67message\x75Cursor in the future.";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ipld_core::ipld::Ipld;
    use serde::Deserialize;
    use serde_ipld_dagcbor::de::Deserializer;

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
}
