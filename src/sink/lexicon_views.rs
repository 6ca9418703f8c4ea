//! What the sinks of tables have in common about the views of lexicons.

use std::fmt::Display;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

/// A view as its table has it.
pub(super) struct Made {
    pub(super) sink: String,
    pub(super) digest: String,
}

/// Tells one statement from another.
pub(super) fn digest(statement: &str) -> String {
    HEXLOWER.encode(&Sha256::digest(statement))
}

/// Logs that a database refuses to make or drop a view. The rows are more important.
pub(super) fn warn_refused(sink: &str, view: &str, reason: &impl Display) {
    tracing::warn!(
        sink,
        view,
        error = %reason,
        "the view of a lexicon could not be made or dropped, and stays as it is; the rows are delivered; \
         rename or drop what is in its way, then restart the worker"
    );
}
