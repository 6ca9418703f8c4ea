//! Several statements that are sent to the database in one trip.
//!
//! SQLite runs on a thread of its own. Each statement that is sent alone costs a trip to that
//! thread and back, which takes longer than writing a few rows. sqlx accepts a text of several
//! statements and binds the arguments to their anonymous placeholders in sequence. A missing
//! argument would silently be NULL, and an extra one would shift all that follow, so a script
//! counts them before it is sent.

use bytes::Bytes;
use futures_util::TryStreamExt;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{Arguments as _, AssertSqlSafe, Either, Executor};

use super::multi_row::MultiRow;
use crate::atproto::json::json_of_length;
use crate::store::plan::effect::{STATEMENT_BYTES, TRIP_BYTES};
use crate::store::plan::index_task::with_record;

/// A row with more bytes of arguments is a statement of its own. So of all rows that wait, no more than
/// one long one exists in the form in which it is written.
const LONG_ROW: usize = 64 << 10;

/// An argument. The long ones are shared with the effects, and take memory of their own only while
/// they are sent.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Integer(i64),
    Text(String),
    Blob(Bytes),
    /// The JSON of a record, given as DAG-CBOR.
    Json {
        cbor: Bytes,
        bytes: usize,
    },
    /// An index task, and the record that its text is without, as DAG-CBOR.
    Task {
        task: String,
        record: Bytes,
    },
}

/// A statement and its arguments.
#[derive(Debug)]
struct Statement {
    text: &'static str,
    arguments: Arguments,
}

#[derive(Debug)]
enum Arguments {
    /// One for each placeholder.
    Single(Vec<Value>),
    /// The values of the columns of rows, one row after the other.
    Rows(&'static MultiRow, Vec<Value>),
}

/// Statements and their arguments; see the module.
#[derive(Debug, Default)]
pub(super) struct Script {
    statements: Vec<Statement>,
}

/// The rows of each statement of a script.
pub(super) type Answers = Vec<Vec<SqliteRow>>;

/// A statement has more or fewer placeholders than arguments. It is a bug of the worker, and no fault
/// of the data: no effect may become a dead letter because of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{placeholders} placeholders and {arguments} arguments: {text}")]
struct Miscounted {
    placeholders: usize,
    arguments: usize,
    text: &'static str,
}

impl Script {
    /// Appends a statement. `text` has anonymous placeholders (`?`) only, and no `?` in a literal.
    pub(super) fn push(&mut self, text: &'static str, arguments: impl Into<Vec<Value>>) {
        let arguments = Arguments::Single(arguments.into());
        self.statements.push(Statement { text, arguments });
    }

    /// Appends statements that write `rows`, in their order. `values` turns each row into one value for
    /// each column.
    pub(super) fn push_rows<T>(
        &mut self,
        multi_row: &'static MultiRow,
        rows: &[T],
        mut values: impl FnMut(&T, &mut Vec<Value>),
    ) {
        let (mut waiting, mut weight) = (Vec::new(), 0);
        for row in rows {
            let before = waiting.len();
            values(row, &mut waiting);
            let of_row: usize = waiting[before..].iter().map(Value::weight).sum();
            if of_row > LONG_ROW {
                let long = waiting.split_off(before);
                self.push_many(multi_row, std::mem::take(&mut waiting));
                self.push(multi_row.one(), long);
                weight = 0;
                continue;
            }
            weight += of_row;
            if weight >= STATEMENT_BYTES {
                self.push_many(multi_row, std::mem::take(&mut waiting));
                weight = 0;
            }
        }
        self.push_many(multi_row, waiting);
    }

    fn push_many(&mut self, multi_row: &'static MultiRow, values: Vec<Value>) {
        if !values.is_empty() {
            self.statements.push(Statement {
                text: multi_row.many(),
                arguments: Arguments::Rows(multi_row, values),
            });
        }
    }

    pub(super) fn followed_by(mut self, other: Self) -> Self {
        self.statements.extend(other.statements);
        self
    }

    /// Each statement as a script of its own.
    pub(super) fn into_single(self) -> impl Iterator<Item = Self> {
        self.statements.into_iter().map(|statement| Self {
            statements: vec![statement],
        })
    }

    /// Runs all statements in one trip.
    pub(super) async fn run(
        self,
        connection: &mut SqliteConnection,
    ) -> Result<Answers, sqlx::Error> {
        let (text, arguments) = self.join()?;
        let mut answers = vec![Vec::new()];
        let query = sqlx::query_with(AssertSqlSafe(text), arguments);
        let mut stream = connection.fetch_many(query);
        while let Some(step) = stream.try_next().await? {
            match step {
                Either::Left(_ended) => answers.push(Vec::new()),
                Either::Right(row) => {
                    if let Some(rows) = answers.last_mut() {
                        rows.push(row);
                    }
                }
            }
        }
        // After the last statement.
        answers.pop();
        Ok(answers)
    }

    /// The scripts whose arguments together are not longer than one trip takes.
    pub(super) fn into_trips(self) -> impl Iterator<Item = Self> {
        let mut statements = self.statements.into_iter().peekable();
        std::iter::from_fn(move || {
            let mut trip = Self::default();
            let mut weight = 0;
            while let Some(statement) = statements.next_if(|statement| {
                trip.statements.is_empty() || weight + statement.weight() <= TRIP_BYTES
            }) {
                weight += statement.weight();
                trip.statements.push(statement);
            }
            (!trip.statements.is_empty()).then_some(trip)
        })
    }

    fn join(self) -> Result<(String, SqliteArguments), sqlx::Error> {
        let mut text = String::new();
        let mut all = SqliteArguments::default();
        for statement in self.statements {
            statement
                .check()
                .map_err(|error| sqlx::Error::Protocol(error.to_string()))?;
            text.push_str(statement.text);
            text.push(';');
            match statement.arguments {
                Arguments::Single(arguments) => {
                    for argument in arguments {
                        argument.add_to(&mut all)?;
                    }
                }
                Arguments::Rows(multi_row, values) => {
                    let encoded = multi_row.encode(values)?;
                    for bytes in encoded.bytes {
                        all.add(bytes).map_err(sqlx::Error::Encode)?;
                    }
                    all.add(encoded.json).map_err(sqlx::Error::Encode)?;
                }
            }
        }
        Ok((text, all))
    }
}

/// The JSON of a record that was read before, so this cannot fail. If it does, that is a bug of the
/// worker, and no fault of the data.
fn json(cbor: &[u8], bytes: usize) -> Result<String, sqlx::Error> {
    json_of_length(cbor, bytes).map_err(|error| sqlx::Error::Protocol(error.to_string()))
}

impl Value {
    fn add_to(self, all: &mut SqliteArguments) -> Result<(), sqlx::Error> {
        let added = match self {
            Self::Null => all.add(None::<i64>),
            Self::Integer(number) => all.add(number),
            Self::Text(text) => all.add(text),
            Self::Blob(bytes) => all.add(Vec::from(bytes)),
            Self::Json { cbor, bytes } => all.add(json(&cbor, bytes)?),
            Self::Task { task, record } => all.add(with_record(&task, &record)),
        };
        added.map_err(sqlx::Error::Encode)
    }

    /// Appends its bytes; returns whether it has any, or is NULL.
    ///
    /// # Errors
    /// If it is a number, which is a bug of the worker.
    pub(super) fn push_bytes(self, bytes: &mut Vec<u8>) -> Result<bool, sqlx::Error> {
        match self {
            Self::Null => return Ok(false),
            Self::Integer(_) => {
                let error = "a number in a column of bytes";
                return Err(sqlx::Error::Protocol(error.to_owned()));
            }
            Self::Text(text) => bytes.extend_from_slice(text.as_bytes()),
            Self::Blob(blob) => bytes.extend_from_slice(&blob),
            Self::Json {
                cbor,
                bytes: length,
            } => {
                bytes.extend_from_slice(json(&cbor, length)?.as_bytes());
            }
            Self::Task { task, record } => {
                bytes.extend_from_slice(with_record(&task, &record).as_bytes());
            }
        }
        Ok(true)
    }

    /// The bytes that it takes while it is sent.
    fn weight(&self) -> usize {
        match self {
            Self::Null | Self::Integer(_) => size_of::<Self>(),
            Self::Text(text) => text.len(),
            Self::Blob(bytes) => bytes.len(),
            Self::Json { bytes, .. } => *bytes,
            // A record grows when it becomes JSON, most of them to less than twice its length.
            Self::Task { task, record } => task.len() + 2 * record.len(),
        }
    }
}

impl Statement {
    fn weight(&self) -> usize {
        let (Arguments::Single(values) | Arguments::Rows(_, values)) = &self.arguments;
        values.iter().map(Value::weight).sum()
    }

    fn check(&self) -> Result<(), Miscounted> {
        let (placeholders, arguments) = match &self.arguments {
            Arguments::Single(values) => {
                let placeholders = self.text.bytes().filter(|byte| *byte == b'?').count();
                (placeholders, values.len())
            }
            // The arguments are made of whole rows.
            Arguments::Rows(multi_row, values) => {
                let columns = multi_row.columns();
                (values.len().div_ceil(columns) * columns, values.len())
            }
        };
        let text = self.text;
        match placeholders == arguments {
            true => Ok(()),
            false => Err(Miscounted {
                placeholders,
                arguments,
                text,
            }),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self::Blob(Bytes::copy_from_slice(bytes))
    }
}

impl From<&Bytes> for Value {
    fn from(bytes: &Bytes) -> Self {
        Self::Blob(bytes.clone())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<bool> for Value {
    fn from(is_so: bool) -> Self {
        Self::Integer(i64::from(is_so))
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Integer(i64::from(number))
    }
}

/// No seq reaches 2^63: the protocol limits them to 2^53.
impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Integer(super::integer(number))
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// A list as one argument, so that one statement accepts lists of any length.
pub(super) fn json_array<'a>(texts: impl IntoIterator<Item = &'a str>) -> Value {
    let array = serde_json::Value::from_iter(texts);
    Value::Text(array.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use sqlx::sqlite::SqliteConnectOptions;
    use sqlx::{ConnectOptions, Row};

    use super::*;
    use crate::store::sqlite::error::is_refusal;

    static PAIRS: LazyLock<MultiRow> =
        LazyLock::new(|| MultiRow::new("INSERT INTO pairs", &["a", "b"], ""));

    async fn connection() -> SqliteConnection {
        let mut connection = SqliteConnectOptions::new().connect().await.unwrap();
        let table = "CREATE TABLE pairs (a INTEGER PRIMARY KEY, b INTEGER)";
        connection.execute(table).await.unwrap();
        connection
    }

    async fn pairs(connection: &mut SqliteConnection) -> Vec<(i64, i64)> {
        sqlx::query_as("SELECT a, b FROM pairs ORDER BY a")
            .fetch_all(connection)
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn each_statement_has_its_own_arguments_and_its_own_rows() {
        let mut connection = connection().await;
        let mut script = Script::default();
        script.push(
            "INSERT INTO pairs VALUES (?, ?)",
            [1_i64.into(), 2_i64.into()],
        );
        script.push("SELECT a FROM pairs WHERE b = ?", [Value::Integer(2)]);
        script.push("SELECT a FROM pairs WHERE b = ?", [Value::Integer(3)]);
        script.push("SELECT ?, ?", ["four".into(), Value::Null]);
        let answers = script.run(&mut connection).await.unwrap();
        assert_eq!(answers[0].len(), 0);
        assert_eq!(answers[1][0].get::<i64, _>(0), 1);
        assert_eq!(answers[2].len(), 0);
        assert_eq!(answers[3][0].get::<String, _>(0), "four");
        assert_eq!(answers[3][0].get::<Option<String>, _>(1), None);
    }

    /// sqlx binds NULL where an argument is missing.
    #[tokio::test]
    async fn a_script_with_an_argument_too_few_or_too_many_is_not_sent() {
        let mut connection = connection().await;
        for arguments in [vec![], vec![Value::Integer(1)], vec![Value::Integer(1); 3]] {
            let mut script = Script::default();
            script.push("INSERT INTO pairs VALUES (7, 8)", []);
            script.push("INSERT INTO pairs VALUES (?, ?)", arguments);
            let error = script.run(&mut connection).await.unwrap_err();
            assert!(!is_refusal(&error), "a dead letter would not help");
            assert!(error.to_string().contains("2 placeholders"), "{error}");
        }
        assert_eq!(pairs(&mut connection).await, []);
    }

    #[tokio::test]
    async fn a_statement_that_fails_is_the_last_one() {
        let mut connection = connection().await;
        let mut script = Script::default();
        for (a, b) in [(1_i64, 1_i64), (1, 2), (3, 3)] {
            script.push("INSERT INTO pairs VALUES (?, ?)", [a.into(), b.into()]);
        }
        assert!(script.run(&mut connection).await.is_err());
        assert_eq!(pairs(&mut connection).await, [(1, 1)]);
    }

    /// Holds invariant 4.8.
    #[tokio::test]
    async fn long_rows_are_sent_one_by_one_and_short_ones_together() {
        static TEXTS: LazyLock<MultiRow> =
            LazyLock::new(|| MultiRow::new("INSERT INTO pairs", &["a", "b"], ""));
        let mut script = Script::default();
        let lengths = [10, 10, TRIP_BYTES, TRIP_BYTES, 10, 10];
        script.push_rows(&TEXTS, &lengths, |length, values| {
            values.extend([Value::Null, "x".repeat(*length).into()]);
        });
        script.push("SELECT 1", []);
        let trips: Vec<usize> = script
            .into_trips()
            .map(|trip| trip.statements.len())
            .collect();
        assert_eq!(trips, [1, 1, 1, 2]);
    }

    /// Holds invariant 4.12.
    #[test]
    fn short_rows_beyond_the_bytes_of_a_trip_take_another() {
        let mut script = Script::default();
        let rows = vec![(); 9 << 10];
        script.push_rows(&PAIRS, &rows, |(), values| {
            values.extend([Value::Null, "x".repeat(1000).into()]);
        });
        assert_eq!(script.into_trips().count(), 3);
    }

    #[tokio::test]
    async fn rows_of_several_tables_are_written_by_one_script() {
        let mut connection = connection().await;
        let rows: Vec<i64> = (0..133).collect();
        for _ in 0..2 {
            let mut script = Script::default();
            script.push("DELETE FROM pairs WHERE a >= ?", [Value::Integer(0)]);
            script.push_rows(&PAIRS, &rows, |row, values| {
                values.extend([(*row).into(), (*row * 2).into()]);
            });
            script.push(
                "UPDATE pairs SET b = ? WHERE a = ?",
                [(-1_i64).into(), 7_i64.into()],
            );
            script.run(&mut connection).await.unwrap();
        }
        let written = pairs(&mut connection).await;
        let expected = |a: i64| if a == 7 { -1 } else { a * 2 };
        assert_eq!(
            written,
            rows.iter().map(|a| (*a, expected(*a))).collect::<Vec<_>>()
        );
    }
}
