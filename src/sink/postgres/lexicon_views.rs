//! The views of collections that lexicons describe.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor, Row};
use tokio::time::Instant;

use super::position;
use super::transaction::Connections;
use crate::lexicon::{Column, ColumnKind, TypedView};
use crate::sink::SinkError;
use crate::sink::lexicon_views::{Made, digest, warn_refused};

/// The columns that every view begins with. They are named by `FIXED_COLUMNS`.
const FIXED: &str = "uri, did, rkey, cid, rev, last_indexed_at AS indexed_at";

/// How long a view that has to be replaced is waited for. Its readers stand as long behind the sink.
const LOCK_TIMEOUT: &str = "1s";
/// How long views are waited for together. A step of the sink has 25 s.
const MOST_TIME: Duration = Duration::from_secs(8);
/// How often views are tried again that were being read.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);
/// The SQLSTATEs of what passes: `lock_not_available`, `deadlock_detected`, `query_canceled` and
/// `serialization_failure`.
const PASSING: [&str; 4] = ["55P03", "40P01", "57014", "40001"];

/// The views that a sink wants.
#[derive(Debug)]
pub(super) struct LexiconViews {
    sink: Arc<str>,
    wanted: Arc<[TypedView]>,
    /// They are as wanted, or cannot be.
    is_done: bool,
    tried_at: Option<Instant>,
    has_warned: bool,
}

/// A change of one view.
struct Replacement<'a> {
    name: &'a str,
    is_there: bool,
    new: Option<New<'a>>,
}

impl LexiconViews {
    pub(super) fn new(sink: Arc<str>, wanted: Arc<[TypedView]>) -> Self {
        Self {
            sink,
            wanted,
            is_done: false,
            tried_at: None,
            has_warned: false,
        }
    }

    /// Notes that the schema may be another one now.
    pub(super) fn doubt(&mut self) {
        self.is_done = false;
        self.tried_at = None;
    }

    /// Makes the schema have the views that are wanted, and no others that this sink has made, if that was not
    /// done: each in a transaction of its own, so that none keeps another away, nor the rows. A view that
    /// cannot be made is left as it is, with a line in the log. One that is being read is tried again later.
    ///
    /// # Errors
    /// If the database gives no answer, or `holder` is not the holder of the sink any more.
    pub(super) async fn bring(
        &mut self,
        connections: &mut Connections,
        holder: Option<&str>,
    ) -> Result<(), SinkError> {
        let is_early = |at: Instant| at.elapsed() < RETRY_INTERVAL;
        if self.is_done || self.tried_at.is_some_and(is_early) {
            return Ok(());
        }
        let began = Instant::now();
        self.tried_at = Some(began);
        let mut transaction = connections.begin().await?;
        let known = known(&mut transaction).await?;
        connections.commit(transaction).await?;
        let mut being_read = Vec::new();
        for replacement in replacements(&known, &self.wanted, &self.sink) {
            let name = replacement.name;
            if began.elapsed() >= MOST_TIME {
                being_read.push(name);
                continue;
            }
            let mut transaction = connections.begin().await?;
            if let Some(holder) = holder {
                position::check_holder(&mut transaction, &self.sink, holder).await?;
            }
            let replaced = replace(&mut transaction, name, replacement.new).await;
            let Err(error) = replaced else {
                connections.commit(transaction).await?;
                continue;
            };
            let sqlx::Error::Database(error) = error else {
                return Err(error.into());
            };
            connections.roll_back(transaction).await?;
            match error.code() {
                Some(code) if PASSING.contains(&&*code) => being_read.push(name),
                _ => warn_refused(&self.sink, name, &error),
            }
        }
        self.is_done = being_read.is_empty();
        if !self.is_done && !self.has_warned {
            tracing::warn!(
                sink = %self.sink,
                views = ?being_read,
                "transactions read views of lexicons, which stay as they are; the rows are delivered, and the \
                 views are replaced when no transaction reads them"
            );
        }
        self.has_warned = !self.is_done;
        Ok(())
    }
}

/// What has to be done, first what needs no lock. The order of the others is another one each time: where the
/// time is not enough for all, each is tried sooner or later.
fn replacements<'a>(
    known: &'a BTreeMap<String, Made>,
    wanted: &'a [TypedView],
    sink: &'a str,
) -> Vec<Replacement<'a>> {
    let is_wanted = |name: &str| wanted.iter().any(|view| view.name == name);
    let not_wanted = known
        .iter()
        .filter(|(name, made)| made.sink == sink && !is_wanted(name))
        .map(|(name, _)| Replacement {
            name,
            is_there: true,
            new: None,
        });
    let news = wanted.iter().filter_map(|view| {
        let new = New::of(view, sink);
        let made = known.get(&view.name);
        let is_as_wanted = made.is_some_and(|made| made.digest == new.digest);
        (!is_as_wanted).then_some(Replacement {
            name: &view.name,
            is_there: made.is_some(),
            new: Some(new),
        })
    });
    let mut replacements: Vec<_> = not_wanted.chain(news).collect();
    fastrand::shuffle(&mut replacements);
    replacements.sort_by_key(|replacement| replacement.is_there);
    replacements
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

/// Drops the view `name`, if it is one of lexicons, and makes the new one.
async fn replace(
    connection: &mut PgConnection,
    name: &str,
    new: Option<New<'_>>,
) -> Result<(), sqlx::Error> {
    let lock_timeout = format!("SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'");
    connection
        .execute(sqlx::raw_sql(AssertSqlSafe(lock_timeout)))
        .await?;
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
