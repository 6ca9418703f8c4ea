//! The views of collections that lexicons describe.

use std::collections::BTreeMap;
use std::sync::Arc;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor, Row};

use super::transaction::SET_LOCK_TIMEOUT;
use crate::lexicon::{Column, ColumnKind, TypedView};
use crate::sink::SinkError;
use crate::sink::lexicon_views::{Made, digest, warn_refused};

/// The columns that every view begins with. They are named by `FIXED_COLUMNS`.
const FIXED: &str = "uri, did, rkey, cid, rev, last_indexed_at AS indexed_at";

/// How long a view that has to be replaced is waited for. Its readers stand as long behind the sink.
const LOCK_TIMEOUT: &str = "1s";
/// SQLSTATE `lock_not_available`.
const LOCKED: &str = "55P03";

/// The views that a sink wants.
#[derive(Debug)]
pub(super) struct LexiconViews {
    sink: Arc<str>,
    wanted: Arc<[TypedView]>,
    /// Some are not as wanted, because a transaction was reading one.
    has_old: bool,
}

impl LexiconViews {
    pub(super) fn new(sink: Arc<str>, wanted: Arc<[TypedView]>) -> Self {
        Self {
            sink,
            wanted,
            has_old: false,
        }
    }

    /// Makes the schema have the views that are wanted, and no others that this sink has made, in the
    /// transaction that is open. A view that cannot be made is left as it is, with a line in the log: the rows
    /// are more important.
    ///
    /// # Errors
    /// If the database gives no answer.
    pub(super) async fn bring(&mut self, connection: &mut PgConnection) -> Result<(), SinkError> {
        self.has_old = false;
        let known = known(connection).await?;
        let is_wanted = |name: &str| self.wanted.iter().any(|view| view.name == name);
        let not_wanted = known
            .iter()
            .filter(|(name, made)| *made.sink == *self.sink && !is_wanted(name))
            .map(|(name, _)| (name.as_str(), None));
        let news = self.wanted.iter().filter_map(|view| {
            let new = New::of(view, &self.sink);
            let made = known.get(&view.name);
            let is_there = made.is_some_and(|made| made.digest == new.digest);
            (!is_there).then_some((view.name.as_str(), Some(new)))
        });
        let changes: Vec<_> = not_wanted.chain(news).collect();
        for (name, new) in changes {
            match replace(connection, name, new).await {
                Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(LOCKED) => {
                    // Each one more would be waited for, and the rows meanwhile.
                    self.has_old = true;
                    tracing::warn!(
                        sink = %self.sink,
                        view = name,
                        "a transaction reads the view of a lexicon, which stays as it is; the rows are \
                         delivered, and the view is replaced when no transaction reads it"
                    );
                    return Ok(());
                }
                Err(sqlx::Error::Database(error)) => warn_refused(&self.sink, name, &error),
                replaced => replaced?,
            }
        }
        Ok(())
    }

    /// Does the same, if it has left views as they were because of their readers.
    ///
    /// # Errors
    /// As [`Self::bring`].
    pub(super) async fn bring_rest(
        &mut self,
        connection: &mut PgConnection,
    ) -> Result<(), SinkError> {
        match self.has_old {
            true => self.bring(connection).await,
            false => Ok(()),
        }
    }
}

/// The views that are there, by their names.
async fn known(connection: &mut PgConnection) -> Result<BTreeMap<String, Made>, SinkError> {
    let rows = sqlx::query(
        "SELECT name, sink, digest FROM lexicon_views WHERE to_regclass(name) IS NOT NULL",
    )
    .persistent(false)
    .fetch_all(connection)
    .await?;
    let known = rows.iter().map(|row| {
        let made = Made {
            sink: row.try_get(1)?,
            digest: row.try_get(2)?,
        };
        Ok((row.try_get(0)?, made))
    });
    Ok(known.collect::<Result<_, sqlx::Error>>()?)
}

/// A view to make.
struct New<'a> {
    view: &'a TypedView,
    /// The sink that makes it.
    sink: &'a str,
    statement: String,
    digest: String,
}

impl<'a> New<'a> {
    fn of(view: &'a TypedView, sink: &'a str) -> Self {
        let statement = statement(view);
        Self {
            view,
            sink,
            digest: digest(&statement),
            statement,
        }
    }
}

/// Drops the view `name`, if it is one of lexicons, and makes the new one: all of it or nothing.
async fn replace(
    connection: &mut PgConnection,
    name: &str,
    new: Option<New<'_>>,
) -> Result<(), sqlx::Error> {
    let begin = format!("SAVEPOINT lexicon_view; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'");
    connection
        .execute(sqlx::raw_sql(AssertSqlSafe(begin)))
        .await?;
    let replaced = try_replace(connection, name, new).await;
    // The setting ends with the savepoint that is rolled back to, and stays with one that is released.
    let end = match &replaced {
        Ok(()) => format!("RELEASE SAVEPOINT lexicon_view; {SET_LOCK_TIMEOUT}"),
        Err(_) => "ROLLBACK TO SAVEPOINT lexicon_view".to_owned(),
    };
    connection
        .execute(sqlx::raw_sql(AssertSqlSafe(end)))
        .await?;
    replaced
}

async fn try_replace(
    connection: &mut PgConnection,
    name: &str,
    new: Option<New<'_>>,
) -> Result<(), sqlx::Error> {
    let forgotten = sqlx::query("DELETE FROM lexicon_views WHERE name = $1")
        .bind(name)
        .persistent(false)
        .execute(&mut *connection)
        .await?;
    if forgotten.rows_affected() > 0 {
        // A view's name has only letters, digits and underscores.
        let drop = format!("DROP VIEW IF EXISTS \"{name}\"");
        connection
            .execute(sqlx::raw_sql(AssertSqlSafe(drop)))
            .await?;
    }
    if let Some(new) = new {
        connection
            .execute(sqlx::raw_sql(AssertSqlSafe(new.statement)))
            .await?;
        sqlx::query(
            "INSERT INTO lexicon_views (name, collection, sink, digest) VALUES ($1, $2, $3, $4)",
        )
        .bind(name)
        .bind(new.view.collection.as_str())
        .bind(new.sink)
        .bind(new.digest)
        .persistent(false)
        .execute(connection)
        .await?;
    }
    Ok(())
}

/// The statement that makes `view`. It shows what `visible_records` shows, except invalid records.
fn statement(view: &TypedView) -> String {
    let mut columns = FIXED.to_owned();
    for column in &view.columns {
        columns += &format!(",\n    {} AS {}", expression(column), column.name);
    }
    format!(
        "CREATE VIEW {} AS\nSELECT\n    {columns}\nFROM visible_records\nWHERE collection = '{}' AND \
         validity <> 'invalid'",
        view.name, view.collection
    )
}

/// The value of a column. It is NULL where the record's value is of another type: a record may have been
/// validated by another schema, or by none.
fn expression(column: &Column) -> String {
    let mut value = format!("record -> '{}'", column.property.replace('\'', "''"));
    if let Some(part) = column.kind.part() {
        value += &format!(" -> '{part}'");
    }
    let when = |types: &str, shown: String| {
        format!("CASE WHEN jsonb_typeof({value}) IN ({types}) THEN {shown} END")
    };
    let text = format!("({value} #>> '{{}}')");
    match column.kind {
        ColumnKind::Boolean => when("'boolean'", format!("({value})::boolean::int::smallint")),
        ColumnKind::Datetime => when("'string'", format!("lexicon_moment({text})")),
        // An integer without a sign may need more than 63 bits.
        ColumnKind::Integer => when(
            "'number'",
            format!(
                "CASE WHEN ({value})::numeric <= 9223372036854775807 THEN ({value})::bigint END"
            ),
        ),
        ColumnKind::Json => when("'array', 'object'", format!("({value})")),
        ColumnKind::Bytes
        | ColumnKind::Link
        | ColumnKind::RefCid
        | ColumnKind::RefUri
        | ColumnKind::Text => when("'string'", format!("{text} COLLATE \"C\"")),
    }
}
