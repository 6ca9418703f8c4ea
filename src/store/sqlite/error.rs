//! Tells what is wrong with the database from what is wrong with an effect.

use std::io;

use crate::fault::Injected;
use crate::store::StoreError;

/// The primary result codes that no waiting helps against: <https://www.sqlite.org/rescode.html>.
const SQLITE_TOOBIG: u32 = 18;
const SQLITE_CONSTRAINT: u32 = 19;
const SQLITE_MISMATCH: u32 = 20;

/// Whether the database refuses what was asked, and would refuse it again: a constraint, a trigger
/// that raises, a value that is too big or of the wrong type.
///
/// Everything else is the database's own trouble, a missing table and a corrupt page included: a
/// dead letter would not mend it.
pub(super) fn is_refusal(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            let extended = error.code().and_then(|code| code.parse::<u32>().ok());
            matches!(
                extended.map(|code| code & 0xff),
                Some(SQLITE_CONSTRAINT | SQLITE_MISMATCH | SQLITE_TOOBIG)
            )
        }
        sqlx::Error::Encode(_) => true,
        _ => false,
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Unavailable(error)
    }
}

impl From<Injected> for StoreError {
    fn from(injected: Injected) -> Self {
        sqlx::Error::from(injected).into()
    }
}

impl From<Injected> for sqlx::Error {
    fn from(injected: Injected) -> Self {
        Self::Io(io::Error::other(injected))
    }
}
