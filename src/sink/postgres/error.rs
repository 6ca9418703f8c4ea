//! What an error of Postgres means for what was sent.

use crate::sink::SinkError;

/// The classes of SQLSTATE of which a repetition changes nothing: data exceptions, violated constraints,
/// a row that is changed twice, limits of the program.
const REFUSALS: [&str; 4] = ["22", "23", "21", "54"];

impl From<sqlx::Error> for SinkError {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code());
        let is_refusal = match (&code, &error) {
            (Some(code), _) => REFUSALS.iter().any(|class| code.starts_with(class)),
            (None, sqlx::Error::Encode(_)) => true,
            (None, _) => false,
        };
        match is_refusal {
            true => Self::Refused(error.to_string()),
            false => Self::unavailable(error),
        }
    }
}
