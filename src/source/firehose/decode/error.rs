//! Why a frame could not be decoded. The text goes into its dead letter.

use std::convert::Infallible;

use bytes::Bytes;

use crate::atproto::car::CarError;
use crate::atproto::payload::PayloadError;
use crate::atproto::skim::{Kind, SkimFault};
use crate::atproto::syntax::SyntaxError;
use crate::atproto::verify::VerifyError;
use crate::model::{DeadLetter, Stage};

/// A frame that cannot be decoded as a whole, with the fields that could be read.
#[derive(Debug, thiserror::Error)]
#[error("{fault}")]
pub struct DecodeError {
    /// `None` if the header could not be read.
    pub kind: Option<Kind>,
    pub seq: Option<u64>,
    /// The repository that the frame names. Not checked, and cut if it is too long for a DID.
    pub did: Option<String>,
    pub fault: Fault,
}

impl DecodeError {
    /// The dead letter of the frame.
    pub fn dead_letter(&self, frame: &Bytes) -> DeadLetter {
        DeadLetter {
            stage: match self.fault {
                Fault::Proof(_) => Stage::Verify,
                _ => Stage::Decode,
            },
            error: self.to_string(),
            seq: self.seq,
            did: self.did.clone(),
            uri: None,
            task: None,
            raw: frame.clone(),
            attempts: 1,
        }
    }
}

/// What is wrong with a frame.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("{name} has {found} {unit}, {limit} are allowed")]
    Limit {
        name: &'static str,
        found: usize,
        limit: usize,
        unit: &'static str,
    },
    #[error("commit block: {0}")]
    Commit(#[from] CommitFault),
    #[error(transparent)]
    Car(#[from] CarError),
    #[error("payload: {0}")]
    Payload(#[from] PayloadError),
    #[error(transparent)]
    Proof(#[from] VerifyError),
    #[error("seq {0} is not within 1..2^53")]
    Seq(u64),
    #[error("frame: {0}")]
    Skim(#[from] SkimFault),
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
}

/// What is wrong with the commit block of a commit.
#[derive(Debug, thiserror::Error)]
pub enum CommitFault {
    #[error("its bytes do not hash to its CID")]
    Address,
    #[error("its {0} is not the envelope's")]
    Differs(&'static str),
    #[error("not in the CAR")]
    Missing,
    #[error("the CAR's root is another block")]
    Root,
    #[error(transparent)]
    Unreadable(#[from] serde_ipld_dagcbor::DecodeError<Infallible>),
    #[error("version {0}; only version 3 is known")]
    Version(u64),
}
