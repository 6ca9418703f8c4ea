//! Reads the envelope of a commit that is written as most are: header, payload and operations have the keys
//! of the lexicon and no others, in canonical order.
//!
//! Nearly every frame of the network is such a commit of which nothing is wanted. Where a frame differs in
//! anything, [`read`] returns `None`, and the general skim decides. What `read` accepts, the general skim
//! reads in the same way.

use std::ops::Range;

use super::cbor::Reader;

/// `{"t": "#commit", "op": 1}`.
const HEADER: &[u8; 15] = b"\xa2\x61t\x67#commit\x62op\x01";
/// A tag, the head of the bytes, and the zero before a CID.
const LINK: &[u8; 5] = b"\xd8\x2a\x58\x25\x00";
/// The bytes of a CID under SHA-256.
const CID: usize = 36;
const NULL: &[u8; 1] = b"\xf6";

/// What a usual commit says.
#[derive(Debug, PartialEq)]
pub(super) struct UsualCommit<'a> {
    pub(super) seq: u64,
    pub(super) seq_span: Range<usize>,
    pub(super) repo: &'a str,
    pub(super) rev: &'a str,
    pub(super) time: &'a str,
    /// At the first operation.
    pub(super) operations: Reader<'a>,
    pub(super) count: usize,
    /// The path of the first operation.
    pub(super) first_path: Option<&'a str>,
    /// The start of the payload in the frame.
    pub(super) payload: usize,
}

/// Reads a commit in the usual layout.
#[inline]
pub(super) fn read(frame: &[u8]) -> Option<UsualCommit<'_>> {
    let mut reader = Reader::new(frame);
    reader.pass(HEADER)?;
    let payload = reader.position();
    // Older servers have no `prevData`.
    let has_prev_data = match reader.pairs().ok()? {
        11 => false,
        12 => true,
        _ => return None,
    };
    reader.pass(b"\x63ops")?;
    let count = reader.array().ok()?;
    let operations = reader.clone();
    let mut first_path = None;
    for _ in 0..count {
        let path = read_operation(&mut reader)?;
        first_path.get_or_insert(path);
    }
    reader.pass(b"\x63rev")?;
    let rev = reader.text().ok()?;
    reader.pass(b"\x63seq")?;
    let start = reader.position();
    let seq = reader.unsigned().ok()?;
    let seq_span = start..reader.position();
    reader.pass(b"\x64repo")?;
    let repo = reader.text().ok()?;
    reader.pass(b"\x64time")?;
    let time = reader.text().ok()?;
    reader.pass(b"\x65blobs\x80")?;
    reader.pass(b"\x65since")?;
    if reader.pass(NULL).is_none() {
        reader.pass_text()?;
    }
    reader.pass(b"\x66blocks")?;
    reader.bytes().ok()?;
    reader.pass(b"\x66commit")?;
    pass_link(&mut reader)?;
    reader.pass(b"\x66rebase")?;
    pass_flag(&mut reader)?;
    reader.pass(b"\x66tooBig")?;
    pass_flag(&mut reader)?;
    if has_prev_data {
        reader.pass(b"\x68prevData")?;
        pass_nullable_link(&mut reader)?;
    }
    reader.end().ok()?;
    Some(UsualCommit {
        seq,
        seq_span,
        repo,
        rev,
        time,
        operations,
        count,
        first_path,
        payload,
    })
}

/// Reads the path of an operation, and moves `reader` past it.
#[inline]
fn read_operation<'a>(reader: &mut Reader<'a>) -> Option<&'a str> {
    // `prev` is there where something was updated or deleted.
    let has_prev = match reader.pairs().ok()? {
        3 => false,
        4 => true,
        _ => return None,
    };
    reader.pass(b"\x63cid")?;
    pass_nullable_link(reader)?;
    reader.pass(b"\x64path")?;
    let path = reader.text().ok()?;
    if has_prev {
        reader.pass(b"\x64prev")?;
        pass_nullable_link(reader)?;
    }
    reader.pass(b"\x66action")?;
    reader.pass_text()?;
    Some(path)
}

#[inline]
fn pass_nullable_link(reader: &mut Reader<'_>) -> Option<()> {
    match reader.pass(NULL) {
        Some(()) => Some(()),
        None => pass_link(reader),
    }
}

#[inline]
fn pass_link(reader: &mut Reader<'_>) -> Option<()> {
    reader.pass(LINK)?;
    reader.pass_bytes(CID)
}

#[inline]
fn pass_flag(reader: &mut Reader<'_>) -> Option<()> {
    match reader.pass(b"\xf4") {
        Some(()) => Some(()),
        None => reader.pass(b"\xf5"),
    }
}

#[cfg(test)]
mod tests {
    use ipld_core::{ipld, ipld::Ipld};
    use proptest::prelude::*;

    use super::*;
    use crate::atproto::skim::{Skim, skim_any};

    fn cbor(value: &Ipld) -> Vec<u8> {
        serde_ipld_dagcbor::to_vec(value).unwrap()
    }

    fn link() -> Ipld {
        let mut bytes = vec![0x01, 0x71, 0x12, 0x20];
        bytes.extend([7; 32]);
        Ipld::Link(cid::Cid::try_from(bytes).unwrap())
    }

    fn operation(action: &str, cid: Ipld, prev: Option<Ipld>) -> Ipld {
        let mut operation = ipld!({ "action": action, "cid": cid, "path": "app.example.post/é" });
        if let (Ipld::Map(fields), Some(prev)) = (&mut operation, prev) {
            fields.insert("prev".to_owned(), prev);
        }
        operation
    }

    /// A commit with `count` operations of each kind.
    fn payload(count: usize, since: Ipld, prev_data: Option<Ipld>) -> Ipld {
        let each = [
            operation("create", link(), None),
            operation("update", link(), Some(link())),
            operation("delete", Ipld::Null, Some(link())),
        ];
        let operations: Vec<Ipld> = each.iter().cycle().take(count * 3).cloned().collect();
        let mut payload = ipld!({
            "seq": 26_653_242_499_u64, "rebase": false, "tooBig": false, "repo": "did:plc:ann",
            "commit": link(), "rev": "3jzfcijpj2z2a", "since": since,
            "blocks": Ipld::Bytes(vec![9; 300]), "ops": operations, "blobs": Vec::<Ipld>::new(),
            "time": "2026-07-04T14:38:07.877Z",
        });
        if let (Ipld::Map(fields), Some(prev_data)) = (&mut payload, prev_data) {
            fields.insert("prevData".to_owned(), prev_data);
        }
        payload
    }

    fn frame(payload: &Ipld) -> Vec<u8> {
        [HEADER.to_vec(), cbor(payload)].concat()
    }

    fn usual() -> Vec<Vec<u8>> {
        let since = || Ipld::String("3jzfcijpj2z29".to_owned());
        vec![
            frame(&payload(0, Ipld::Null, None)),
            frame(&payload(1, since(), Some(link()))),
            frame(&payload(2, since(), Some(Ipld::Null))),
        ]
    }

    /// Whether the general skim says the same of what is read here.
    fn agrees(frame: &[u8]) -> bool {
        let Some(found) = read(frame) else {
            return true;
        };
        let Ok(Skim::Message(envelope)) = skim_any(frame) else {
            return false;
        };
        format!("{envelope:?}") == format!("{:?}", crate::atproto::skim::Envelope::from(found))
    }

    #[test]
    fn a_commit_of_the_reference_server_is_read_as_the_general_skim_reads_it() {
        for frame in usual() {
            assert!(read(&frame).is_some());
            assert!(agrees(&frame));
        }
    }

    #[test]
    fn every_truncation_and_every_byte_behind_the_end_is_left_to_the_general_skim() {
        for frame in usual() {
            for end in 0..frame.len() {
                assert_eq!(read(&frame[..end]), None, "cut at {end}");
            }
            assert_eq!(read(&[frame, vec![0]].concat()), None);
        }
    }

    #[test]
    fn another_field_or_order_is_left_to_the_general_skim() {
        let Ipld::Map(fields) = payload(1, Ipld::Null, None) else {
            panic!("not a map");
        };
        for name in fields.keys() {
            let mut without = fields.clone();
            without.remove(name);
            assert_eq!(read(&frame(&Ipld::Map(without))), None, "{name}");
        }
        let mut more = fields.clone();
        more.insert("new".to_owned(), Ipld::Null);
        assert_eq!(read(&frame(&Ipld::Map(more))), None);
        let swapped = b"\xa2\x62op\x01\x61t\x67#commit";
        let other_order = [swapped.to_vec(), cbor(&Ipld::Map(fields))].concat();
        assert_eq!(read(&other_order), None);
        assert!(skim_any(&other_order).is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        /// Bytes are changed, removed and added anywhere.
        #[test]
        fn whatever_is_accepted_here_is_accepted_and_read_alike_by_the_general_skim(
            which in 0_usize..3,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..8), 1..4),
        ) {
            let mut frame = usual().swap_remove(which);
            for (at, byte, kind) in changes {
                let at = at.index(frame.len());
                match kind {
                    0 => _ = frame.remove(at),
                    1 => frame.insert(at, byte),
                    2 => frame[at] ^= 1 << (byte & 7),
                    _ => frame[at] = byte,
                }
            }
            prop_assert!(agrees(&frame));
        }
    }
}
