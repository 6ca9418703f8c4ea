//! A Postgres schema for each test, and its tables compared with those of the worker's database.

mod bouncer;
mod server;
mod tables;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, Row};
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

pub use self::bouncer::{Bouncer, POOL_SIZE};
pub use self::server::OwnServer;
pub use self::tables::{assert_consumed, assert_follows, rows};
pub use crate::sink_tables::Rows;
use crate::skipped::skip;

/// A schema that no other test uses. It is dropped with the value.
pub struct Schema {
    server: String,
    pub name: String,
}

impl Schema {
    /// A new schema. `None` if there is no server: then the test is skipped, or fails where CI is set.
    pub async fn new() -> Option<Self> {
        let Some(server) = server::url().await else {
            let reason = "no Postgres answers, and none of Debian's packages is installed";
            assert!(std::env::var_os("CI").is_none(), "{reason}");
            skip(reason);
            return None;
        };
        Some(Self::at(&server))
    }

    /// A new schema at `server`.
    pub fn at(server: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Self {
            server: server.to_owned(),
            name: format!("huddle_{}_{number}", std::process::id()),
        }
    }

    /// The URL of a sink in this schema.
    pub fn url(&self) -> String {
        self.url_at(&self.server)
    }

    /// The URL of a sink that reaches the server at another address.
    pub fn url_at(&self, server: &str) -> String {
        self.url_with(server, "sslmode=disable")
    }

    /// The same with parameters that say how the connection is encrypted.
    pub fn url_with(&self, server: &str, parameters: &str) -> String {
        let name = &self.name;
        format!("{server}?schema={name}&application_name={name}&{parameters}")
    }

    /// A connection to the schema, as a reader's.
    pub async fn connect(&self) -> PgConnection {
        let mut connection = connect(&self.server).await;
        let path = format!("SET search_path = {}", self.name);
        connection.execute(AssertSqlSafe(path)).await.unwrap();
        connection
    }

    /// Runs statements that return nothing.
    pub async fn execute(&self, statements: &str) {
        let mut connection = self.connect().await;
        let statements = sqlx::raw_sql(AssertSqlSafe(statements.to_owned()));
        connection.execute(statements).await.unwrap();
    }

    /// The first column of a query, as text.
    pub async fn column(&self, query: &str) -> Vec<String> {
        let mut connection = self.connect().await;
        let query = sqlx::query(AssertSqlSafe(query.to_owned()));
        let rows = query.fetch_all(&mut connection).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Ends the connections of the sinks in this schema, as a restart of the server would. Returns how
    /// many there were.
    pub async fn end_sinks(&self) -> usize {
        let ended = format!(
            "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity \
             WHERE application_name = '{}'",
            self.name
        );
        self.column(&ended).await.len()
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let mut connection = connect(&server).await;
                let drop = format!("DROP SCHEMA IF EXISTS {name} CASCADE");
                let _dropped = connection.execute(AssertSqlSafe(drop)).await;
                let _closed = connection.close().await;
            });
        });
        let _failed = dropped.join();
    }
}

async fn connect(url: &str) -> PgConnection {
    let options = PgConnectOptions::from_str(url).unwrap();
    options.disable_statement_logging().connect().await.unwrap()
}
