//! The views of collections that lexicons describe.

use std::collections::BTreeMap;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor, Row};

use crate::lexicon::{Column, ColumnKind, TypedView};
use crate::sink::SinkError;
use crate::sink::lexicon_views::{Made, digest, warn_refused};

/// The columns that every view begins with. They are named by `FIXED_COLUMNS`.
const FIXED: &str = "uri, did, rkey, cid, rev, last_indexed_at AS indexed_at";

/// Makes the schema have `views`, and no other views that this sink has made, in the transaction that is
/// open. A view that cannot be made is left as it is, with a line in the log: the rows are more important.
///
/// # Errors
/// If the database gives no answer.
pub(super) async fn bring(
    connection: &mut PgConnection,
    sink: &str,
    views: &[TypedView],
) -> Result<(), SinkError> {
    let known = known(connection).await?;
    let is_wanted = |name: &str| views.iter().any(|view| view.name == name);
    for (name, made) in &known {
        if made.sink == sink && !is_wanted(name) {
            let dropped = replace(connection, name, None).await;
            forgive(sink, name, dropped)?;
        }
    }
    for view in views {
        let statement = statement(view);
        let digest = digest(&statement);
        let is_there = known
            .get(&view.name)
            .is_some_and(|made| made.digest == digest);
        if !is_there {
            let new = New {
                view,
                sink,
                statement,
                digest,
            };
            let made = replace(connection, &view.name, Some(new)).await;
            forgive(sink, &view.name, made)?;
        }
    }
    Ok(())
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

/// Drops the view `name`, if it is one of lexicons, and makes the new one: all of it or nothing.
async fn replace(
    connection: &mut PgConnection,
    name: &str,
    new: Option<New<'_>>,
) -> Result<(), sqlx::Error> {
    connection
        .execute(sqlx::raw_sql("SAVEPOINT lexicon_view"))
        .await?;
    let replaced = try_replace(connection, name, new).await;
    let end = match &replaced {
        Ok(()) => "RELEASE SAVEPOINT lexicon_view",
        Err(_) => "ROLLBACK TO SAVEPOINT lexicon_view",
    };
    connection.execute(sqlx::raw_sql(end)).await?;
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

/// Logs that the database has refused a view. Other errors are the sink's.
fn forgive(sink: &str, view: &str, outcome: Result<(), sqlx::Error>) -> Result<(), SinkError> {
    match outcome {
        Err(sqlx::Error::Database(error)) => {
            warn_refused(sink, view, &error);
            Ok(())
        }
        outcome => Ok(outcome?),
    }
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
