//! Creates the tables of a Postgres sink, and brings them up to date.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor, Row};

use crate::sink::SinkError;

/// In their order. A migration that was released stays as it is.
const MIGRATIONS: [(i32, &str); 2] = [
    (
        1,
        include_str!("../../../migrations/postgres/0001_tables.sql"),
    ),
    (
        2,
        include_str!("../../../migrations/postgres/0002_handles_and_lexicons.sql"),
    ),
];

const TABLE: &str = "CREATE TABLE IF NOT EXISTS sink_migrations ( \
     version integer NOT NULL PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())";

/// Applies the migrations that are missing, in the transaction that is open.
pub(super) async fn migrate(connection: &mut PgConnection, schema: &str) -> Result<(), SinkError> {
    // What exists already needs no right to create it.
    let known = "SELECT to_regclass('sink_migrations') IS NOT NULL";
    let is_known: bool = sqlx::query(known)
        .persistent(false)
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?;
    if !is_known {
        let create = format!("CREATE SCHEMA IF NOT EXISTS \"{schema}\"");
        let exists = "SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $1)";
        let exists: bool = sqlx::query(exists)
            .bind(schema)
            .persistent(false)
            .fetch_one(&mut *connection)
            .await?
            .try_get(0)?;
        if !exists {
            connection
                .execute(sqlx::raw_sql(AssertSqlSafe(create)))
                .await?;
        }
        connection.execute(sqlx::raw_sql(TABLE)).await?;
    }
    let applied: Option<i32> = sqlx::query("SELECT max(version) FROM sink_migrations")
        .persistent(false)
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?;
    let applied = applied.unwrap_or_default();
    let newest = MIGRATIONS.last().map_or(0, |(version, _)| *version);
    if applied > newest {
        return Err(SinkError::unavailable(format_args!(
            "its tables are those of a newer version ({applied}; this version knows {newest})"
        )));
    }
    for (version, text) in MIGRATIONS {
        if version > applied {
            connection.execute(sqlx::raw_sql(text)).await?;
            sqlx::query("INSERT INTO sink_migrations (version) VALUES ($1)")
                .bind(version)
                .persistent(false)
                .execute(&mut *connection)
                .await?;
        }
    }
    Ok(())
}
