//! The errors of verification.

use cid::Cid;

use super::Level;
use crate::atproto::car::CarError;
use crate::atproto::key::SignatureError;
use crate::atproto::mst::{ProofError, ProofFault};
use crate::atproto::payload::PayloadError;
use crate::atproto::signed_commit::CommitBlockError;
use crate::atproto::syntax::{SyntaxError, Tid};

/// The most characters of a path in an error. No key of a tree is longer.
const MAX_SHOWN_PATH: usize = 1024;

/// Why a commit or a `#sync` is refused.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    // The message
    #[error("payload: {0}")]
    Payload(#[from] PayloadError),
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    #[error("{found} bytes of blocks, {limit} are allowed")]
    BlocksSize { found: usize, limit: usize },
    #[error(transparent)]
    Car(#[from] CarError),

    // The commit block
    #[error("the CAR's root is not the commit")]
    Root,
    #[error("the commit block is missing")]
    CommitMissing,
    #[error("the commit block does not hash to its CID")]
    CommitAddress,
    #[error("commit block: {0}")]
    CommitBlock(#[from] CommitBlockError),
    #[error("the commit is of another repository than the message")]
    Did,
    #[error("the commit has another rev than the message")]
    Rev,
    #[error("the rev {0} is more than 5 minutes in the future")]
    FutureRev(Tid),
    #[error(transparent)]
    Signature(#[from] SignatureError),

    // The operations
    #[error("{0} operations, more than the protocol allows")]
    OpCount(usize),
    #[error("{path:?}: an action that the protocol does not know")]
    Action { path: String },
    #[error("{path:?}: two operations that do not follow from each other")]
    DuplicatePath { path: String },
    #[error("{path:?}: created or updated, but to nothing")]
    WithoutCid { path: String },
    #[error("{path:?}: deleted, but with a new value")]
    DeleteWithCid { path: String },

    // The tree
    #[error("tree: {0}")]
    Tree(ProofError),
    #[error("{path:?}: created or updated, but not in the tree")]
    NotInTree { path: String },
    #[error("{path:?}: the tree has another value")]
    Value { path: String },
    #[error("{path:?}: deleted, but still in the tree")]
    StillPresent { path: String },

    // The chain
    #[error("the commit does not say which tree was before it")]
    PrevDataMissing,
    #[error("{path:?}: updated or deleted, but nothing was before")]
    WithoutPrev { path: String },
    #[error("{path:?}: created, but something was before")]
    CreateWithPrev { path: String },
    #[error("tree before the commit: {0}")]
    Inversion(ProofError),
    #[error("undoing the operations gives the tree {found}, but prevData says {prev_data}")]
    PrevData {
        prev_data: Box<Cid>,
        found: Box<Cid>,
    },
}

impl VerifyError {
    /// A stable short name, used as a metric label.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Payload(_) => "payload",
            Self::Syntax(_) => "syntax",
            Self::BlocksSize { .. } => "blocks_size",
            Self::Car(CarError::Truncated { .. }) => "car_truncated",
            Self::Car(_) => "car",
            Self::Root => "car_root",
            Self::CommitMissing => "commit_missing",
            Self::CommitAddress => "commit_address",
            Self::CommitBlock(CommitBlockError::Version(_)) => "commit_version",
            Self::CommitBlock(_) => "commit_block",
            Self::Did => "did",
            Self::Rev => "rev",
            Self::FutureRev(_) => "rev_future",
            Self::Signature(SignatureError::HighS) => "signature_high_s",
            Self::Signature(SignatureError::Length(_) | SignatureError::Range) => "signature_form",
            Self::Signature(SignatureError::Mismatch) => "signature",
            Self::OpCount(_) => "op_count",
            Self::Action { .. } => "op_action",
            Self::DuplicatePath { .. } => "op_duplicate_path",
            Self::WithoutCid { .. } => "op_without_cid",
            Self::DeleteWithCid { .. } => "op_delete_with_cid",
            Self::Tree(error) => match error.fault {
                ProofFault::Missing => "node_missing",
                ProofFault::Address => "node_address",
                ProofFault::Memory { .. } | ProofFault::Node(_) => "node_format",
                ProofFault::Empty
                | ProofFault::Layer { .. }
                | ProofFault::Order
                | ProofFault::TooDeep => "node_place",
            },
            Self::NotInTree { .. } => "op_not_in_tree",
            Self::Value { .. } => "op_value",
            Self::StillPresent { .. } => "op_still_present",
            Self::PrevDataMissing => "prev_data_missing",
            Self::WithoutPrev { .. } => "op_without_prev",
            Self::CreateWithPrev { .. } => "op_create_with_prev",
            Self::Inversion(error) if error.fault == ProofFault::Missing => {
                "inversion_node_missing"
            }
            Self::Inversion(_) => "inversion_node",
            Self::PrevData { .. } => "prev_data",
        }
    }

    /// The lowest level that detects this error. Errors of [`Level::Chain`] occur only for commits
    /// that have passed [`Level::Commit`].
    pub fn level(&self) -> Level {
        match self {
            Self::PrevDataMissing
            | Self::WithoutPrev { .. }
            | Self::CreateWithPrev { .. }
            | Self::Inversion(_)
            | Self::PrevData { .. } => Level::Chain,
            _ => Level::Commit,
        }
    }
}

/// A path, shortened for errors.
pub(super) fn shown(path: &str) -> String {
    path.chars().take(MAX_SHOWN_PATH).collect()
}
