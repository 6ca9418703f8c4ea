//! A Postgres sink beside a bare client that upserts the same rows into the same tables.

use std::time::Duration;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Executor, Row};
use test_support::postgres::Schema;
use tokio::time::Instant;

use crate::round::Round;
use crate::{runtime, sink_feed};

/// The records of a transaction, as many as one of the sink has.
const BATCH: usize = 1_000;
/// The tables of readers, and the column by which a row is known.
const TABLES: [(&str, &str); 3] = [
    ("records", "uri"),
    ("offers_index", "uri"),
    ("accounts", "did"),
];

/// A column, with the type that it has.
struct Column {
    name: String,
    kind: String,
}

/// A value as it is sent: bytes and numbers as they are, everything else as text.
enum Values {
    Bytes(Vec<Option<Vec<u8>>>),
    Numbers(Vec<Option<i64>>),
    Texts(Vec<Option<String>>),
}

/// Rows of one table, by columns.
struct Rows {
    statement: String,
    columns: Vec<Values>,
}

pub(crate) fn measure() -> Round {
    let filled = sink_feed::filled();
    runtime().block_on(async {
        let schemas = [Schema::new().await.unwrap(), Schema::new().await.unwrap()];
        let worker = sink_feed::deliver(&schemas[0].url()).await;
        let transactions = read(&schemas[0]).await;
        let bare = write(&schemas, &transactions).await;
        let count = "SELECT count(*)::text FROM records";
        assert_eq!(
            schemas[0].column(count).await,
            schemas[1].column(count).await
        );
        Round {
            events: filled.changes.len() as u64,
            bare: Some(bare),
            worker,
        }
    })
}

/// The rows that the sink has written, in transactions.
async fn read(schema: &Schema) -> Vec<Vec<Rows>> {
    let mut connection = schema.connect().await;
    let mut transactions: Vec<Vec<Rows>> = Vec::new();
    for (table, key) in TABLES {
        let columns = columns(&mut connection, table).await;
        let shown: Vec<String> = columns.iter().map(Column::select).collect();
        let select = format!("SELECT {} FROM {table} ORDER BY {key}", shown.join(", "));
        let rows = connection.fetch_all(AssertSqlSafe(select)).await.unwrap();
        for (number, rows) in rows.chunks(BATCH).enumerate() {
            if transactions.len() <= number {
                transactions.push(Vec::new());
            }
            transactions[number].push(Rows {
                statement: upsert(table, key, &columns),
                columns: columns
                    .iter()
                    .enumerate()
                    .map(|(index, column)| column.values(index, rows))
                    .collect(),
            });
        }
    }
    transactions
}

async fn columns(connection: &mut PgConnection, table: &str) -> Vec<Column> {
    let query = "SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute \
         WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
    let rows = sqlx::query(query)
        .bind(table)
        .fetch_all(connection)
        .await
        .unwrap();
    let column = |row: &PgRow| Column {
        name: row.get(0),
        kind: row.get(1),
    };
    rows.iter().map(column).collect()
}

impl Column {
    fn select(&self) -> String {
        match self.sent_as() {
            "text" => format!("{}::text", self.name),
            "bigint" => format!("{}::bigint", self.name),
            _ => self.name.clone(),
        }
    }

    fn sent_as(&self) -> &'static str {
        match self.kind.as_str() {
            "bytea" => "bytea",
            "bigint" | "smallint" | "integer" => "bigint",
            _ => "text",
        }
    }

    fn values(&self, index: usize, rows: &[PgRow]) -> Values {
        match self.sent_as() {
            "bytea" => Values::Bytes(rows.iter().map(|row| row.get(index)).collect()),
            "bigint" => Values::Numbers(rows.iter().map(|row| row.get(index)).collect()),
            _ => Values::Texts(rows.iter().map(|row| row.get(index)).collect()),
        }
    }
}

fn upsert(table: &str, key: &str, columns: &[Column]) -> String {
    let list = |text: &dyn Fn((usize, &Column)) -> String| {
        columns
            .iter()
            .enumerate()
            .map(text)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let names = list(&|(_, column)| column.name.clone());
    let values = list(&|(_, column)| format!("{}::{}", column.name, column.kind));
    let arrays = list(&|(index, column)| format!("${}::{}[]", index + 1, column.sent_as()));
    let updates = list(&|(_, column)| format!("{0} = excluded.{0}", column.name));
    format!(
        "INSERT INTO {table} ({names}) SELECT {values} FROM UNNEST({arrays}) AS item ({names}) \
         ON CONFLICT ({key}) DO UPDATE SET {updates}"
    )
}

/// The time to write `transactions` into the second schema, whose tables are made like those of the first.
async fn write(schemas: &[Schema; 2], transactions: &[Vec<Rows>]) -> Duration {
    let [from, into] = schemas;
    let mut statements = format!("CREATE SCHEMA {};", into.name);
    for (table, _) in TABLES {
        let like = format!(
            "CREATE TABLE {}.{table} (LIKE {}.{table} INCLUDING ALL);",
            into.name, from.name
        );
        statements.push_str(&like);
    }
    from.execute(&statements).await;
    let mut connection = into.connect().await;
    let started = Instant::now();
    for transaction in transactions {
        connection.execute("BEGIN").await.unwrap();
        for rows in transaction {
            let mut query = sqlx::query(AssertSqlSafe(rows.statement.clone()));
            for values in &rows.columns {
                query = match values {
                    Values::Bytes(values) => query.bind(values),
                    Values::Numbers(values) => query.bind(values),
                    Values::Texts(values) => query.bind(values),
                };
            }
            query.execute(&mut connection).await.unwrap();
        }
        connection.execute("COMMIT").await.unwrap();
    }
    started.elapsed()
}
