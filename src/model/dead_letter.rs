//! What could not be applied, kept for an operator.

use bytes::Bytes;

/// Something that could not be applied, kept for an operator.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    pub stage: Stage,
    /// The error message.
    pub error: String,
    /// The seq of the frame, if it could be read.
    pub seq: Option<u64>,
    pub did: Option<String>,
    pub uri: Option<String>,
    /// The index task as JSON (see `store::plan::index_task`), if there was one. It is without the
    /// record, which is `raw`; the row gets it with the record.
    pub task: Option<String>,
    /// The bytes at fault: the record, or the whole frame.
    pub raw: Bytes,
    /// How often it was tried.
    pub attempts: u32,
}

impl DeadLetter {
    /// The collection of the record, if it concerns one.
    pub fn collection(&self) -> Option<&str> {
        self.uri
            .as_deref()?
            .strip_prefix("at://")?
            .split('/')
            .nth(1)
    }
}

/// The stage that gave up on a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// The frame or an operation could not be decoded.
    Decode,
    /// The database refused it for good.
    Index,
    /// It killed every actor that processed it.
    Poison,
    /// A sink refused it for good.
    Sink,
    /// The lexicon of its collection refused it, or its `$type` is wrong.
    Validate,
    /// It is not proven to belong to its account's repository.
    Verify,
}

impl Stage {
    pub const ALL: [Self; 6] = [
        Self::Decode,
        Self::Index,
        Self::Poison,
        Self::Sink,
        Self::Validate,
        Self::Verify,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Index => "index",
            Self::Poison => "poison",
            Self::Sink => "sink",
            Self::Validate => "validate",
            Self::Verify => "verify",
        }
    }
}
