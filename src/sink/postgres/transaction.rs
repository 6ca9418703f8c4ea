//! The connection of a sink, and its transactions.
//!
//! A transaction takes the connection and gives it back only after its commit. In every other case (an
//! error, a future that was dropped) the connection is closed, and Postgres rolls back.

use std::sync::Arc;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor};

use super::options::PostgresOptions;
use crate::sink::SinkError;

#[derive(Debug)]
pub(super) struct Connections {
    options: PostgresOptions,
    name: Arc<str>,
    idle: Option<PgConnection>,
    begin: String,
    /// The operator was told that the connection is not encrypted.
    has_warned: bool,
}

impl Connections {
    pub(super) fn new(options: PostgresOptions, name: Arc<str>) -> Self {
        Self {
            begin: begin(&options.schema),
            options,
            name,
            idle: None,
            has_warned: false,
        }
    }

    pub(super) fn schema(&self) -> &str {
        &self.options.schema
    }

    /// Begins a transaction. It has the tables alone among all sinks of the schema.
    pub(super) async fn begin(&mut self) -> Result<PgConnection, SinkError> {
        let mut connection = match self.idle.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let begin = sqlx::raw_sql(AssertSqlSafe(self.begin.clone()));
        connection.execute(begin).await?;
        Ok(connection)
    }

    async fn connect(&mut self) -> Result<PgConnection, SinkError> {
        let (connection, is_safe) = self.options.connect().await?;
        if !is_safe && !self.has_warned {
            self.has_warned = true;
            tracing::warn!(
                sink = %self.name,
                url = %self.options,
                "the connection to the sink is not encrypted; set sslmode=require or verify-full in \
                 its URL, or sslmode=disable if the network is trusted"
            );
        }
        Ok(connection)
    }

    pub(super) async fn commit(&mut self, mut transaction: PgConnection) -> Result<(), SinkError> {
        transaction.execute(sqlx::raw_sql("COMMIT")).await?;
        self.idle = Some(transaction);
        Ok(())
    }

    pub(super) async fn roll_back(
        &mut self,
        mut transaction: PgConnection,
    ) -> Result<(), SinkError> {
        transaction.execute(sqlx::raw_sql("ROLLBACK")).await?;
        self.idle = Some(transaction);
        Ok(())
    }
}

/// The statements that begin a transaction, sent in one trip.
///
/// Two workers may write into one schema. Their transactions take turns, so that neither reads what the
/// other is about to change, and none waits for a row of the other. A process that is stopped amid a
/// transaction keeps the others waiting for some seconds only.
fn begin(schema: &str) -> String {
    format!(
        "BEGIN; SET LOCAL search_path = \"{schema}\"; \
         SET LOCAL idle_in_transaction_session_timeout = '8s'; \
         SET LOCAL lock_timeout = '20s'; SET LOCAL statement_timeout = '20s'; \
         SELECT pg_advisory_xact_lock(hashtextextended('huddle-firehose sink {schema}', 0))"
    )
}
