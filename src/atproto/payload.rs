//! The payloads of messages, with the types of their fields checked and nothing else.
//!
//! They belong to the envelope: keys may be in any order, and unknown ones are passed by. So they
//! are read like the skim reads them (`envelope_keys`), and both agree on
//! every frame.

use cid::Cid;

use super::cbor::{CborError, Reader};
use super::envelope_keys::EnvelopeKeys;
use super::syntax::Tid;

/// The largest number of operations in one commit.
pub(crate) const MAX_OPS: usize = 200;
/// The longest CAR of a commit, in bytes. The lexicon says 2,000,000; real servers use 2 MiB.
pub(crate) const MAX_BLOCKS: usize = 2 << 20;
/// The longest CAR of a `#sync`, in bytes.
pub(crate) const MAX_SYNC_BLOCKS: usize = 10_000;

/// A payload that does not match its lexicon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// The offset is counted from the start of the payload.
    #[error("{0}")]
    Cbor(#[from] CborError),
    #[error("the field {0:?} is missing")]
    Missing(&'static str),
}

/// `tooBig`, `rebase` and `blobs` are not read, so they may be absent.
pub(crate) struct CommitPayload<'a> {
    pub(crate) seq: u64,
    pub(crate) repo: &'a str,
    pub(crate) rev: &'a str,
    pub(crate) since: Option<&'a str>,
    pub(crate) time: &'a str,
    pub(crate) commit: Cid,
    pub(crate) prev_data: Option<Cid>,
    pub(crate) blocks: &'a [u8],
    pub(crate) ops: Vec<Op<'a>>,
}

#[derive(Clone, Copy)]
pub(crate) struct Op<'a> {
    pub(crate) action: &'a str,
    pub(crate) path: &'a str,
    pub(crate) cid: Option<Cid>,
    /// The CID before an update or a delete.
    pub(crate) prev: Option<Cid>,
}

pub(crate) struct SyncPayload<'a> {
    pub(crate) about: About<'a>,
    pub(crate) rev: &'a str,
    pub(crate) blocks: &'a [u8],
}

pub(crate) struct AccountPayload<'a> {
    pub(crate) about: About<'a>,
    pub(crate) active: bool,
    pub(crate) status: Option<&'a str>,
}

pub(crate) struct IdentityPayload<'a> {
    pub(crate) about: About<'a>,
    pub(crate) handle: Option<&'a str>,
}

/// What every message about an account has.
pub(crate) struct About<'a> {
    pub(crate) seq: u64,
    pub(crate) did: &'a str,
    pub(crate) time: &'a str,
}

/// The fields of [`About`] that were read so far.
#[derive(Default)]
struct AboutFields<'a> {
    seq: Option<u64>,
    did: Option<&'a str>,
    time: Option<&'a str>,
}

pub(crate) struct InfoPayload<'a> {
    pub(crate) name: &'a str,
    pub(crate) message: Option<&'a str>,
}

impl<'a> CommitPayload<'a> {
    pub(crate) fn read(payload: &'a [u8]) -> Result<Self, PayloadError> {
        let (mut seq, mut repo, mut rev, mut since, mut time) = (None, None, None, None, None);
        let (mut commit, mut prev_data, mut blocks, mut ops) = (None, None, None, None);
        read_map(payload, |key, reader| {
            match key {
                b"seq" => seq = Some(reader.unsigned()?),
                b"repo" => repo = Some(reader.text()?),
                b"rev" => rev = Some(reader.text()?),
                b"since" => since = reader.nullable_text()?,
                b"time" => time = Some(reader.text()?),
                b"commit" => commit = Some(reader.link_to_block()?),
                b"prevData" => prev_data = reader.nullable_link()?,
                b"blocks" => blocks = Some(reader.bytes()?),
                b"ops" => ops = Some(read_ops(reader)?),
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        Ok(Self {
            seq: seq.ok_or(PayloadError::Missing("seq"))?,
            repo: repo.ok_or(PayloadError::Missing("repo"))?,
            rev: rev.ok_or(PayloadError::Missing("rev"))?,
            since,
            time: time.ok_or(PayloadError::Missing("time"))?,
            commit: commit.ok_or(PayloadError::Missing("commit"))?,
            prev_data,
            blocks: blocks.ok_or(PayloadError::Missing("blocks"))?,
            ops: ops.ok_or(PayloadError::Missing("ops"))?,
        })
    }
}

impl<'a> SyncPayload<'a> {
    pub(crate) fn read(payload: &'a [u8]) -> Result<Self, PayloadError> {
        let (mut about, mut rev, mut blocks) = (AboutFields::default(), None, None);
        read_map(payload, |key, reader| {
            match key {
                b"rev" => rev = Some(reader.text()?),
                b"blocks" => blocks = Some(reader.bytes()?),
                _ => about.read(key, reader)?,
            }
            Ok(())
        })?;
        Ok(Self {
            about: about.all()?,
            rev: rev.ok_or(PayloadError::Missing("rev"))?,
            blocks: blocks.ok_or(PayloadError::Missing("blocks"))?,
        })
    }
}

impl<'a> AccountPayload<'a> {
    pub(crate) fn read(payload: &'a [u8]) -> Result<Self, PayloadError> {
        let (mut about, mut active, mut status) = (AboutFields::default(), None, None);
        read_map(payload, |key, reader| {
            match key {
                b"active" => active = Some(reader.flag()?),
                b"status" => status = reader.nullable_text()?,
                _ => about.read(key, reader)?,
            }
            Ok(())
        })?;
        Ok(Self {
            about: about.all()?,
            active: active.ok_or(PayloadError::Missing("active"))?,
            status,
        })
    }
}

impl<'a> IdentityPayload<'a> {
    /// Reads the payload of `#identity`, or of the retired `#handle`.
    pub(crate) fn read(payload: &'a [u8]) -> Result<Self, PayloadError> {
        let (mut about, mut handle) = (AboutFields::default(), None);
        read_map(payload, |key, reader| {
            match key {
                b"handle" => handle = reader.nullable_text()?,
                _ => about.read(key, reader)?,
            }
            Ok(())
        })?;
        Ok(Self {
            about: about.all()?,
            handle,
        })
    }
}

impl<'a> About<'a> {
    /// Reads the payload of a message that has nothing else, the retired `#tombstone`.
    pub(crate) fn read(payload: &'a [u8]) -> Result<Self, PayloadError> {
        let mut about = AboutFields::default();
        read_map(payload, |key, reader| about.read(key, reader))?;
        about.all()
    }
}

impl<'a> AboutFields<'a> {
    /// Reads the value of `key`, or skips it.
    fn read(&mut self, key: &[u8], reader: &mut Reader<'a>) -> Result<(), PayloadError> {
        match key {
            b"seq" => self.seq = Some(reader.unsigned()?),
            b"did" => self.did = Some(reader.text()?),
            b"time" => self.time = Some(reader.text()?),
            _ => reader.skip()?,
        }
        Ok(())
    }

    fn all(self) -> Result<About<'a>, PayloadError> {
        Ok(About {
            seq: self.seq.ok_or(PayloadError::Missing("seq"))?,
            did: self.did.ok_or(PayloadError::Missing("did"))?,
            time: self.time.ok_or(PayloadError::Missing("time"))?,
        })
    }
}

impl<'a> InfoPayload<'a> {
    pub(crate) fn read(payload: &'a [u8]) -> Result<Self, PayloadError> {
        let (mut name, mut message) = (None, None);
        read_map(payload, |key, reader| {
            match key {
                b"name" => name = Some(reader.text()?),
                b"message" => message = reader.nullable_text()?,
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        Ok(Self {
            name: name.ok_or(PayloadError::Missing("name"))?,
            message,
        })
    }
}

/// Reads one map and nothing behind it. `field` reads or skips the value of each key.
fn read_map<'a>(
    bytes: &'a [u8],
    mut field: impl FnMut(&'a [u8], &mut Reader<'a>) -> Result<(), PayloadError>,
) -> Result<(), PayloadError> {
    let mut reader = Reader::new(bytes);
    let mut keys = EnvelopeKeys::of(&mut reader)?;
    while let Some(key) = keys.next(&mut reader)? {
        field(key, &mut reader)?;
    }
    Ok(reader.end()?)
}

fn read_ops<'a>(reader: &mut Reader<'a>) -> Result<Vec<Op<'a>>, PayloadError> {
    let count = reader.array()?;
    (0..count).map(|_| read_op(reader)).collect()
}

fn read_op<'a>(reader: &mut Reader<'a>) -> Result<Op<'a>, PayloadError> {
    let (mut action, mut path, mut cid, mut prev) = (None, None, None, None);
    let mut keys = EnvelopeKeys::of(reader)?;
    while let Some(key) = keys.next(reader)? {
        match key {
            b"action" => action = Some(reader.text()?),
            b"path" => path = Some(reader.text()?),
            // Of a record that is not wanted, these say nothing to us.
            b"cid" => cid = reader.nullable_opaque_link()?,
            b"prev" => prev = reader.nullable_opaque_link()?,
            _ => reader.skip()?,
        }
    }
    Ok(Op {
        action: action.ok_or(PayloadError::Missing("action"))?,
        path: path.ok_or(PayloadError::Missing("path"))?,
        cid,
        prev,
    })
}

/// The rev before a commit. It is not signed, so one that is no rev refuses nothing. Some servers
/// write `""` in the first commit, which has no rev before it.
pub(crate) fn since(text: Option<&str>) -> Option<Tid> {
    text.and_then(|text| Tid::parse(text).ok())
}
