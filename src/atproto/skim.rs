//! Reads the envelope of a frame in place: its kind, its repository and the paths that it touches.
//!
//! Most commits of the network are not wanted. So a skim does not allocate as a rule, does not read
//! `blocks` and does not check the text that it skips. The maps that it reads (header, payload,
//! operations) may have their keys in any order, but each only once
//! (`envelope_keys`). A skipped value only has to be well-formed, and may
//! contain 64-bit floats.
//!
//! Spec: <https://atproto.com/specs/event-stream> and the lexicon
//! `com.atproto.sync.subscribeRepos`.

use std::ops::Range;

use super::cbor::{CborError, Item, Reader};
use super::cbor_writer::Writer;
use super::envelope_keys::EnvelopeKeys;
use super::usual_commit::{self, UsualCommit};
use crate::telemetry::excerpt::excerpt;

/// The range of valid seqs. The protocol ends at 2^53 because JavaScript's integers do. 0 is the
/// position before the first event.
pub const SEQS: Range<u64> = 1..1 << 53;

/// The longest frame that is read from a source, in bytes.
///
/// The protocol allows 5,000,000. A longer frame is still read, so that the decoder can make it a
/// dead letter. If the connection were closed at such a frame, the frame would be sent again after
/// every reconnect.
pub const MAX_FRAME_BYTES: usize = 8 << 20;

/// The type of a message (`t` in the header).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Account,
    Commit,
    /// Retired; `#identity` replaces it.
    Handle,
    Identity,
    Info,
    Sync,
    /// Retired; `#account` with the status `deleted` replaces it.
    Tombstone,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Commit => "commit",
            Self::Handle => "handle",
            Self::Identity => "identity",
            Self::Info => "info",
            Self::Sync => "sync",
            Self::Tombstone => "tombstone",
        }
    }

    fn of_header(t: &str) -> Option<Self> {
        Some(match t {
            "#account" => Self::Account,
            "#commit" => Self::Commit,
            "#handle" => Self::Handle,
            "#identity" => Self::Identity,
            "#info" => Self::Info,
            "#sync" => Self::Sync,
            "#tombstone" => Self::Tombstone,
            _ => return None,
        })
    }
}

/// The result of skimming a frame.
#[derive(Clone, Debug)]
pub enum Skim<'a> {
    /// An error frame (`op` is -1): the server is about to end this stream.
    Error {
        name: &'a str,
        message: Option<&'a str>,
    },
    Message(Envelope<'a>),
    Unknown(UnknownFrame<'a>),
}

/// The fields that all messages share. A message may lack some of them.
#[derive(Clone, Debug)]
pub struct Envelope<'a> {
    pub kind: Kind,
    pub seq: Option<u64>,
    /// The bytes of the integer `seq` in the frame.
    pub seq_span: Option<Range<usize>>,
    /// The repository: `repo` of a commit, `did` of every other message. Not yet checked.
    pub did: Option<&'a str>,
    pub rev: Option<&'a str>,
    /// The time at which the server emitted the event, as the server wrote it.
    pub time: Option<&'a str>,
    paths: Paths<'a>,
    /// The start of the payload in the frame.
    payload: usize,
}

impl<'a> Envelope<'a> {
    /// The paths of a commit's operations (`collection/rkey`), in order; empty for other messages.
    pub fn paths(&self) -> Paths<'a> {
        self.paths.clone()
    }

    /// The bytes of the payload. `frame` must be the frame that was skimmed.
    pub(crate) fn payload<'f>(&self, frame: &'f [u8]) -> &'f [u8] {
        frame.get(self.payload..).unwrap_or_default()
    }
}

impl<'a> From<UsualCommit<'a>> for Envelope<'a> {
    fn from(commit: UsualCommit<'a>) -> Self {
        Self {
            kind: Kind::Commit,
            seq: Some(commit.seq),
            seq_span: Some(commit.seq_span),
            did: Some(commit.repo),
            rev: Some(commit.rev),
            time: Some(commit.time),
            paths: Paths {
                first: commit.first_path,
                operations: commit.operations,
                remaining: commit.count,
            },
            payload: commit.payload,
        }
    }
}

/// A frame with an `op` or a `t` that this worker does not know. The protocol says to ignore it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownFrame<'a> {
    pub op: i64,
    pub t: Option<&'a str>,
    /// The `seq`, if it is present as an unsigned integer.
    pub seq: Option<u64>,
    pub seq_span: Option<Range<usize>>,
}

/// The paths of a commit's operations.
#[derive(Clone, Debug)]
pub struct Paths<'a> {
    /// The path of the next operation, if it was kept.
    first: Option<&'a str>,
    operations: Reader<'a>,
    remaining: usize,
}

impl<'a> Paths<'a> {
    fn none() -> Self {
        Self {
            first: None,
            operations: Reader::new(&[]),
            remaining: 0,
        }
    }

    /// Checks all operations and moves `reader` past them.
    fn read(reader: &mut Reader<'a>) -> Result<Self, SkimFault> {
        let remaining = reader.array()?;
        let operations = reader.clone();
        let mut first = None;
        for _ in 0..remaining {
            let path = read_path(reader)?;
            first.get_or_insert(path);
        }
        Ok(Self {
            first,
            operations,
            remaining,
        })
    }
}

impl<'a> Iterator for Paths<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.remaining = self.remaining.checked_sub(1)?;
        match self.first.take() {
            // As a rule there is no other one.
            Some(path) if self.remaining == 0 => Some(path),
            // Every operation was read once before, so this cannot fail.
            _ => read_path(&mut self.operations).ok(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining, Some(self.remaining))
    }
}

impl ExactSizeIterator for Paths<'_> {}

/// A frame whose envelope cannot be read, with the fields read before the error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fault}")]
pub struct SkimError {
    pub fault: SkimFault,
    pub kind: Option<Kind>,
    pub seq: Option<u64>,
    pub did: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SkimFault {
    /// The offset is counted from the start of the frame.
    #[error("{0}")]
    Cbor(#[from] CborError),
    #[error("the field {0:?} is missing")]
    Missing(&'static str),
}

impl<F: Into<SkimFault>> From<F> for SkimError {
    fn from(fault: F) -> Self {
        Self {
            fault: fault.into(),
            kind: None,
            seq: None,
            did: None,
        }
    }
}

/// The longest DID, in bytes.
const MAX_DID: usize = 2048;
/// The characters of a longer text that are kept of it.
const MAX_SHOWN_DID: usize = 100;

/// What a frame that is not decoded says of its repository. A text that is too long for a DID is cut,
/// and marked so that it does not become one by that.
pub(crate) fn unchecked_did(text: &str) -> String {
    match text.len() <= MAX_DID {
        true => text.to_owned(),
        false => format!("{}…", excerpt(text, MAX_SHOWN_DID)),
    }
}

/// Reads the envelope of a raw frame: a header map and then a payload map.
///
/// # Errors
/// If either map is not DAG-CBOR or has a key twice, if a field has another type than in its
/// lexicon, if an operation has no path, or if bytes follow the payload.
pub fn skim(frame: &[u8]) -> Result<Skim<'_>, SkimError> {
    match usual_commit::read(frame) {
        Some(commit) => Ok(Skim::Message(commit.into())),
        None => skim_any(frame),
    }
}

/// Reads the envelope of a frame in any layout.
pub(super) fn skim_any(frame: &[u8]) -> Result<Skim<'_>, SkimError> {
    let mut reader = Reader::new(frame);
    let (op, t) = read_header(&mut reader)?;
    match (op, t.and_then(Kind::of_header)) {
        (1, Some(kind)) => read_message(&mut reader, kind).map(Skim::Message),
        (1, None) if t.is_none() => Err(SkimFault::Missing("t").into()),
        (-1, _) => Ok(read_error(&mut reader)?),
        _ => Ok(Skim::Unknown(read_unknown(&mut reader, op, t)?)),
    }
}

/// The seq of a frame in its stream. `None` for an `#info`, for a frame without a valid seq, and
/// for a frame that cannot be skimmed.
pub fn seq_of(frame: &[u8]) -> Option<u64> {
    let seq = match skim(frame).ok()? {
        Skim::Message(envelope) if envelope.kind == Kind::Info => None,
        Skim::Message(envelope) => envelope.seq,
        Skim::Unknown(unknown) => unknown.seq,
        Skim::Error { .. } => None,
    };
    seq.filter(|seq| SEQS.contains(seq))
}

/// The frame with another `seq`, for a server that replays recorded frames.
///
/// # Errors
/// If the frame cannot be skimmed, or has no seq (`#info` and error frames have none).
pub fn splice_seq(frame: &[u8], seq: u64) -> Result<Vec<u8>, SkimError> {
    let span = match skim(frame)? {
        Skim::Error { .. } => None,
        Skim::Message(envelope) => envelope.seq_span,
        Skim::Unknown(unknown) => unknown.seq_span,
    };
    let span = span.ok_or(SkimFault::Missing("seq"))?;
    let mut number = Writer::default();
    number.unsigned(seq);
    Ok([&frame[..span.start], &number.finish(), &frame[span.end..]].concat())
}

fn read_header<'a>(reader: &mut Reader<'a>) -> Result<(i64, Option<&'a str>), SkimFault> {
    let (mut op, mut t) = (None, None);
    let mut keys = EnvelopeKeys::of(reader)?;
    while let Some(key) = keys.next(reader)? {
        match key {
            b"t" => t = Some(reader.text()?),
            b"op" => op = Some(reader.signed()?),
            _ => reader.skip()?,
        }
    }
    Ok((op.ok_or(SkimFault::Missing("op"))?, t))
}

fn read_message<'a>(reader: &mut Reader<'a>, kind: Kind) -> Result<Envelope<'a>, SkimError> {
    let mut envelope = Envelope {
        kind,
        seq: None,
        seq_span: None,
        did: None,
        rev: None,
        time: None,
        paths: Paths::none(),
        payload: reader.position(),
    };
    match read_payload(reader, &mut envelope) {
        Ok(()) => Ok(envelope),
        Err(fault) => Err(SkimError {
            fault,
            kind: Some(kind),
            seq: envelope.seq,
            did: envelope.did.map(unchecked_did),
        }),
    }
}

fn read_payload<'a>(reader: &mut Reader<'a>, envelope: &mut Envelope<'a>) -> Result<(), SkimFault> {
    let is_commit = envelope.kind == Kind::Commit;
    let mut keys = EnvelopeKeys::of(reader)?;
    while let Some(key) = keys.next(reader)? {
        match key {
            b"did" if !is_commit => envelope.did = Some(reader.text()?),
            b"ops" if is_commit => envelope.paths = Paths::read(reader)?,
            b"repo" if is_commit => envelope.did = Some(reader.text()?),
            b"rev" => envelope.rev = Some(reader.text()?),
            b"seq" => {
                let start = reader.position();
                envelope.seq = Some(reader.unsigned()?);
                envelope.seq_span = Some(start..reader.position());
            }
            b"time" => envelope.time = Some(reader.text()?),
            _ => reader.skip()?,
        }
    }
    Ok(reader.end()?)
}

/// Reads the path of one operation and moves `reader` past the operation.
fn read_path<'a>(reader: &mut Reader<'a>) -> Result<&'a str, SkimFault> {
    let mut path = None;
    let mut keys = EnvelopeKeys::of(reader)?;
    while let Some(key) = keys.next(reader)? {
        match key {
            b"path" => path = Some(reader.text()?),
            _ => reader.skip()?,
        }
    }
    path.ok_or(SkimFault::Missing("path"))
}

fn read_error<'a>(reader: &mut Reader<'a>) -> Result<Skim<'a>, SkimFault> {
    let (mut name, mut message) = (None, None);
    let mut keys = EnvelopeKeys::of(reader)?;
    while let Some(key) = keys.next(reader)? {
        match key {
            b"error" => name = Some(reader.text()?),
            b"message" => message = Some(reader.text()?),
            _ => reader.skip()?,
        }
    }
    reader.end()?;
    Ok(Skim::Error {
        name: name.ok_or(SkimFault::Missing("error"))?,
        message,
    })
}

fn read_unknown<'a>(
    reader: &mut Reader<'a>,
    op: i64,
    t: Option<&'a str>,
) -> Result<UnknownFrame<'a>, SkimFault> {
    let (mut seq, mut seq_span) = (None, None);
    let mut keys = EnvelopeKeys::of(reader)?;
    while let Some(key) = keys.next(reader)? {
        let before = reader.clone();
        match (key, reader.item()?) {
            (b"seq", Item::Unsigned(value)) => {
                seq = Some(value);
                seq_span = Some(before.position()..reader.position());
            }
            _ => {
                *reader = before;
                reader.skip()?;
            }
        }
    }
    reader.end()?;
    Ok(UnknownFrame {
        op,
        t,
        seq,
        seq_span,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atproto::cbor::CborFault;

    /// A frame from hex. The spaces are for readability.
    fn frame(hex: &str) -> Vec<u8> {
        data_encoding::HEXLOWER
            .decode(hex.replace(' ', "").as_bytes())
            .unwrap()
    }

    /// `{t: "#identity", op: 1} {did: "did:x:y", seq: 7}`
    const IDENTITY: &str = "a2 6174 69 236964656e74697479 626f70 01 \
                            a2 63646964 67 6469643a783a79 63736571 07";

    fn envelope(frame: &[u8]) -> Envelope<'_> {
        match skim(frame).unwrap() {
            Skim::Message(envelope) => envelope,
            other => panic!("not a message: {other:?}"),
        }
    }

    #[test]
    fn a_message_gives_kind_did_and_seq() {
        let frame = frame(IDENTITY);
        let envelope = envelope(&frame);
        assert_eq!(envelope.kind, Kind::Identity);
        assert_eq!(envelope.did, Some("did:x:y"));
        assert_eq!(envelope.seq, Some(7));
        assert_eq!(envelope.time, None);
        assert_eq!(envelope.paths().len(), 0);
    }

    #[test]
    fn minus_one_is_an_error_frame() {
        // {op: -1} {error: "Oops"}
        let frame = frame("a1 626f70 20 a1 656572726f72 64 4f6f7073");
        let Skim::Error { name, message } = skim(&frame).unwrap() else {
            panic!("not an error frame");
        };
        assert_eq!((name, message), ("Oops", None));
    }

    #[test]
    fn an_unknown_type_keeps_its_seq() {
        // {t: "#new", op: 1} {seq: 24, "what": {"nested": [1]}}
        let frame = frame(
            "a2 6174 64 236e6577 626f70 01 a2 63736571 1818 6477686174 a1 666e6573746564 8101",
        );
        let Skim::Unknown(unknown) = skim(&frame).unwrap() else {
            panic!("not unknown");
        };
        assert_eq!(unknown.t, Some("#new"));
        assert_eq!(unknown.seq, Some(24));
    }

    #[test]
    fn an_unknown_op_is_no_error() {
        // {t: "#commit", op: 2} {}
        let frame = frame("a2 6174 67 23636f6d6d6974 626f70 02 a0");
        assert!(matches!(skim(&frame), Ok(Skim::Unknown(unknown)) if unknown.op == 2));
    }

    #[test]
    fn a_message_without_a_type_is_refused() {
        let error = skim(&frame("a1 626f70 01 a0")).unwrap_err();
        assert_eq!(error.fault, SkimFault::Missing("t"));
    }

    #[test]
    fn keys_may_be_in_any_order() {
        // {op: 1, t: "#identity"} {seq: 7, did: "did:x:y"}
        let frame = frame(
            "a2 626f70 01 6174 69 236964656e74697479 \
             a2 63736571 07 63646964 67 6469643a783a79",
        );
        let envelope = envelope(&frame);
        assert_eq!(envelope.kind, Kind::Identity);
        assert_eq!(envelope.did, Some("did:x:y"));
        assert_eq!(envelope.seq, Some(7));
    }

    #[test]
    fn a_repeated_key_is_refused() {
        let header = "a2 6174 69 236964656e74697479 626f70 01";
        for payload in [
            "a2 63736571 07 63736571 08",
            "a3 63736571 07 63646964 6178 63736571 07",
        ] {
            let error = skim(&frame(&format!("{header} {payload}"))).unwrap_err();
            let SkimFault::Cbor(cbor) = error.fault else {
                panic!("{error:?}");
            };
            assert_eq!(cbor.fault, CborFault::KeyRepeated);
            assert_eq!(
                error.seq,
                Some(7),
                "the fields read before the error are kept"
            );
        }
        // {op: 1, t: "#identity", op: 1} {}
        let header = frame("a3 626f70 01 6174 69 236964656e74697479 626f70 01 a0");
        assert!(skim(&header).is_err());
    }

    #[test]
    fn bytes_behind_the_payload_are_refused() {
        let mut frame = frame(IDENTITY);
        frame.push(0);
        let error = skim(&frame).unwrap_err();
        assert_eq!(error.to_string(), "bytes after the end at byte 35");
        assert_eq!(error.did.as_deref(), Some("did:x:y"));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let frame = frame(IDENTITY);
        for end in 0..frame.len() {
            assert!(skim(&frame[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_spliced_seq_is_minimal_and_changes_nothing_else() {
        let original = frame(IDENTITY);
        for seq in [
            0,
            23,
            24,
            255,
            256,
            65_535,
            65_536,
            0xffff_ffff,
            0x1_0000_0000,
            u64::MAX,
        ] {
            let spliced = splice_seq(&original, seq).unwrap();
            assert_eq!(envelope(&spliced).seq, Some(seq));
            assert_eq!(splice_seq(&spliced, 7).unwrap(), original);
        }
    }

    #[test]
    fn a_seq_outside_the_valid_range_is_no_position() {
        let identity = frame(IDENTITY);
        // {t: "#new", op: 1} {seq: 24}
        let unknown = frame("a2 6174 64 236e6577 626f70 01 a1 63736571 1818");
        for (seq, position) in [
            (1, Some(1)),
            ((1 << 53) - 1, Some((1 << 53) - 1)),
            (0, None),
            (1 << 53, None),
            (u64::MAX, None),
        ] {
            for frame in [&identity, &unknown] {
                assert_eq!(seq_of(&splice_seq(frame, seq).unwrap()), position);
            }
        }
        // {t: "#info", op: 1} {seq: 7, name: "x"}
        let info = frame("a2 6174 65 23696e666f 626f70 01 a2 63736571 07 646e616d65 6178");
        assert_eq!(seq_of(&info), None);
    }

    #[test]
    fn a_frame_without_seq_can_not_be_spliced() {
        // {t: "#info", op: 1} {name: "x"}
        let frame = frame("a2 6174 65 23696e666f 626f70 01 a1 646e616d65 6178");
        let error = splice_seq(&frame, 1).unwrap_err();
        assert_eq!(error.fault, SkimFault::Missing("seq"));
    }
}
