//! Distinguishes a failure of the database from a refused effect.

use std::io;

use crate::store::StoreError;
use crate::testing::fault::Injected;

/// The primary result codes that a retry does not change: <https://www.sqlite.org/rescode.html>.
const SQLITE_CORRUPT: u32 = 11;
const SQLITE_TOOBIG: u32 = 18;
const SQLITE_CONSTRAINT: u32 = 19;
const SQLITE_MISMATCH: u32 = 20;
const SQLITE_NOTADB: u32 = 26;

/// Another connection has the lock.
const SQLITE_BUSY: u32 = 5;
const SQLITE_LOCKED: u32 = 6;

/// Whether the database refuses a statement, and would refuse it again: a constraint, a trigger
/// that raises, a value that is too big or of the wrong type.
///
/// All other errors are failures of the database, including a missing table and a corrupt page: a
/// dead letter would not help.
pub(super) fn is_refusal(error: &sqlx::Error) -> bool {
    let cannot_be_encoded = matches!(error, sqlx::Error::Encode(_));
    cannot_be_encoded
        || matches!(
            primary_code(error),
            Some(SQLITE_CONSTRAINT | SQLITE_MISMATCH | SQLITE_TOOBIG)
        )
}

/// What to do about a failure of the database, as the end of its text.
pub(in crate::store) fn remedy(error: &sqlx::Error) -> &'static str {
    match primary_code(error) {
        Some(SQLITE_BUSY | SQLITE_LOCKED) => {
            "; another program holds the lock of the file; end it, or wait until it is done"
        }
        _ => "",
    }
}

fn primary_code(error: &sqlx::Error) -> Option<u32> {
    let extended = error.as_database_error()?.code()?.parse::<u32>().ok()?;
    Some(extended & 0xff)
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match primary_code(&error) {
            Some(SQLITE_CORRUPT | SQLITE_NOTADB) => Self::Damaged(error),
            _ => Self::Unavailable(error),
        }
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
