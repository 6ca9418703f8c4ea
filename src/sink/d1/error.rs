//! What an answer of D1 means for what was sent.
//!
//! Most errors of SQL have one code, 7500, and some have status 500. So their text decides. An error that
//! is not known counts as one that passes: then the sink stands and says so, and no change is lost.

use crate::sink::SinkError;
use crate::sink::cloudflare::Failure;

/// The constraint of `sink_guard`: another process holds the position, or it was moved.
const GUARD: &str = "sink_position_is_held";

/// Faults of a row, or of its size. A repetition changes nothing.
const REFUSALS: [&str; 10] = [
    "constraint failed",
    "SQLITE_CONSTRAINT",
    "SQLITE_MISMATCH",
    "SQLITE_TOOBIG",
    "datatype mismatch",
    "string or blob too big",
    "integer overflow",
    "malformed JSON",
    "statement too long",
    "too many columns",
];

/// Faults of a statement that makes or drops a view, such as a name that is taken. Of other statements the
/// same codes say that a table is missing, so no row is at fault.
const DEFINITION_FAULTS: [&str; 2] = ["SQLITE_ERROR", "SQLITE_AUTH"];

/// The request as a whole is too large.
const TOO_LARGE: u16 = 413;
const THROTTLED: u16 = 429;

pub(super) fn sink_error(failure: Failure) -> SinkError {
    let says = |text: &str| failure.words.contains(text);
    // An answer without a status is a text of this process.
    let Some(status) = failure.status else {
        return failure.unavailable();
    };
    if says(GUARD) {
        return SinkError::Superseded;
    }
    if status != THROTTLED && (status == TOO_LARGE || REFUSALS.iter().any(|text| says(text))) {
        return SinkError::Refused(failure.to_string());
    }
    failure.unavailable()
}

/// The same for a request that makes or drops a view.
pub(super) fn definition_error(failure: Failure) -> SinkError {
    let is_answered = failure.status.is_some_and(|status| status != THROTTLED);
    let says = |text: &&str| failure.words.contains(*text);
    match is_answered && DEFINITION_FAULTS.iter().any(says) {
        true => SinkError::Refused(failure.to_string()),
        false => sink_error(failure),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn class(status: u16, words: &str) -> &'static str {
        let failure = Failure {
            status: Some(status),
            retry_after: Some(Duration::from_secs(7)),
            codes: vec![7500],
            words: words.to_owned(),
        };
        match sink_error(failure) {
            SinkError::Refused(_) => "refused",
            SinkError::Superseded => "superseded",
            SinkError::Unavailable { retry_after, .. } => {
                assert_eq!(retry_after, Some(Duration::from_secs(7)));
                "unavailable"
            }
        }
    }

    #[test]
    fn each_error_of_d1_has_a_class() {
        for (status, words, expected) in [
            (
                400,
                "CHECK constraint failed: sink_position_is_held: SQLITE_CONSTRAINT",
                "superseded",
            ),
            (
                500,
                "D1_ERROR: CHECK constraint failed: sink_position_is_held",
                "superseded",
            ),
            (
                400,
                "UNIQUE constraint failed: records.uri: SQLITE_CONSTRAINT",
                "refused",
            ),
            (400, "string or blob too big: SQLITE_TOOBIG", "refused"),
            (
                500,
                "D1_ERROR: statement too long: SQLITE_TOOBIG",
                "refused",
            ),
            (413, "Payload Too Large", "refused"),
            (
                400,
                "no such table: sink_guard at offset 12: SQLITE_ERROR",
                "unavailable",
            ),
            (400, "Exceeded maximum DB size", "unavailable"),
            (
                429,
                "Please wait and consider throttling your request speed",
                "unavailable",
            ),
            (500, "D1_ERROR: Network connection lost.", "unavailable"),
            (
                500,
                "D1 DB is overloaded. Too many requests queued.",
                "unavailable",
            ),
            (
                500,
                "D1 DB storage operation exceeded timeout which caused object to be reset.",
                "unavailable",
            ),
            (
                500,
                "Cannot resolve D1 DB due to transient issue on remote node.",
                "unavailable",
            ),
            (503, "", "unavailable"),
            (401, "Authentication error", "unavailable"),
            (
                403,
                "The given account is not valid or is not authorized",
                "unavailable",
            ),
            (404, "The database could not be found", "unavailable"),
            (400, "what is not known", "unavailable"),
        ] {
            assert_eq!(class(status, words), expected, "{status} {words}");
        }
    }

    #[test]
    fn a_view_is_refused_by_any_fault_of_its_sql_and_by_nothing_else() {
        let is_refused = |status, words: &str| {
            let failure = Failure {
                status,
                retry_after: None,
                codes: vec![7500],
                words: words.to_owned(),
            };
            matches!(definition_error(failure), SinkError::Refused(_))
        };
        for words in [
            "table community_example_event already exists at offset 12: SQLITE_ERROR",
            "use DROP TABLE to delete table community_example_event: SQLITE_ERROR",
            "not authorized: SQLITE_AUTH",
            "too many columns in result set: SQLITE_ERROR",
        ] {
            assert!(is_refused(Some(400), words), "{words}");
            assert!(!is_refused(Some(429), words), "{words}");
            assert!(!is_refused(None, words), "{words}");
        }
        for words in [
            "D1_ERROR: Network connection lost.",
            "",
            "what is not known",
        ] {
            assert!(!is_refused(Some(500), words), "{words}");
        }
    }
}
