//! The views of collections that lexicons describe, and the indexes on their columns.

mod statements;

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection};

use super::{SqliteStore, now};
use crate::lexicon::{Column, TypedView};
use crate::store::StoreError;

/// What became of the views and indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ViewChanges {
    /// The views that were made, or made anew.
    pub made: Vec<String>,
    /// The views whose lexicons are gone.
    pub dropped: Vec<String>,
    /// The indexes that were made anew.
    pub made_indexes: Vec<String>,
    /// The indexes whose columns are gone.
    pub dropped_indexes: Vec<String>,
}

/// A view or an index as its table has it.
#[derive(sqlx::FromRow)]
struct Made {
    name: String,
    collection: String,
    digest: String,
}

impl SqliteStore {
    /// Makes the database have `views`, and no other views of lexicons, in one transaction. Indexes on
    /// their columns are made anew where the columns have changed.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`] if the database has something else of that name.
    pub async fn make_views(&self, views: &[TypedView]) -> Result<ViewChanges, StoreError> {
        let mut changes = ViewChanges::default();
        if views.is_empty() && self.has_no_views().await? {
            return Ok(changes);
        }
        let mut transaction = self.writer.begin().await?;
        bring_views(&mut transaction, views, &mut changes).await?;
        bring_indexes(&mut transaction, views, &mut changes).await?;
        transaction.commit().await?;
        Ok(changes)
    }

    async fn has_no_views(&self) -> Result<bool, StoreError> {
        let query = "SELECT count(*) FROM lexicon_views";
        let views: i64 = sqlx::query_scalar(query).fetch_one(self.reader()).await?;
        Ok(views == 0)
    }

    /// Makes an index on a column of `view`. Returns its name; `None` if it is there already.
    ///
    /// It has a connection of its own: while a large index is made, transactions find the database locked,
    /// as by another process, and are tried again.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`] if the database has something else of that name.
    pub async fn make_index(
        &self,
        view: &TypedView,
        column: &Column,
    ) -> Result<Option<String>, StoreError> {
        let name = statements::index_name(view, column);
        let mut connection = self.writer.another_connection().await?;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        let known = load(
            &mut transaction,
            "SELECT name, collection, digest FROM lexicon_indexes",
        )
        .await?;
        if known.iter().any(|known| known.name == name) {
            transaction.rollback().await?;
            return Ok(None);
        }
        refuse_taken(&mut transaction, &name, view).await?;
        create_index(&mut transaction, view, column).await?;
        transaction.commit().await?;
        connection.close().await?;
        Ok(Some(name))
    }

    /// Drops the index on a column of `view`. Returns whether there was one.
    pub async fn drop_index(&self, view: &TypedView, column: &Column) -> Result<bool, StoreError> {
        let name = statements::index_name(view, column);
        let mut transaction = self.writer.begin().await?;
        let forgotten = sqlx::query("DELETE FROM lexicon_indexes WHERE name = ?")
            .bind(&name)
            .execute(&mut *transaction)
            .await?;
        let is_known = forgotten.rows_affected() > 0;
        if is_known {
            run(&mut transaction, format!("DROP INDEX IF EXISTS {name}")).await?;
        }
        transaction.commit().await?;
        Ok(is_known)
    }

    /// The statement that makes `view`, for an operator.
    pub fn view_statement(view: &TypedView) -> String {
        statements::view(view)
    }

    /// The columns of `collection` that have an index.
    pub async fn indexed_columns(&self, collection: &str) -> Result<Vec<String>, StoreError> {
        let query = "SELECT column_name FROM lexicon_indexes WHERE collection = ? ORDER BY 1";
        let columns = sqlx::query_scalar(query).bind(collection);
        Ok(columns.fetch_all(self.reader()).await?)
    }

    /// The views of lexicons, each with the number of its rows.
    pub async fn count_view_rows(&self) -> Result<Vec<(String, i64)>, StoreError> {
        let names: Vec<String> = sqlx::query_scalar("SELECT name FROM lexicon_views ORDER BY name")
            .fetch_all(self.reader())
            .await?;
        let mut counts = Vec::new();
        for name in names {
            let query = AssertSqlSafe(format!("SELECT count(*) FROM {}", quoted(&name)));
            let rows = sqlx::query_scalar(query).fetch_one(self.reader()).await?;
            counts.push((name, rows));
        }
        Ok(counts)
    }
}

/// Drops all views of lexicons, before migrations: a migration may drop what they read. The next start
/// makes them again.
pub(super) async fn drop_all(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let table = "SELECT count(*) FROM sqlite_master WHERE name = 'lexicon_views'";
    let tables: i64 = sqlx::query_scalar(table)
        .fetch_one(&mut *connection)
        .await?;
    if tables == 0 {
        return Ok(());
    }
    let mut transaction = connection.begin().await?;
    for view in load(
        &mut transaction,
        "SELECT name, collection, digest FROM lexicon_views",
    )
    .await?
    {
        drop_view(&mut transaction, &view.name).await?;
    }
    Ok(transaction.commit().await?)
}

async fn bring_views(
    connection: &mut SqliteConnection,
    views: &[TypedView],
    changes: &mut ViewChanges,
) -> Result<(), StoreError> {
    let known = load(
        connection,
        "SELECT name, collection, digest FROM lexicon_views",
    )
    .await?;
    let wanted: BTreeSet<&str> = views.iter().map(|view| view.name.as_str()).collect();
    for known in &known {
        if !wanted.contains(known.name.as_str()) {
            drop_view(connection, &known.name).await?;
            changes.dropped.push(known.name.clone());
        }
    }
    let known: BTreeMap<&str, &Made> = known.iter().map(|made| (&*made.name, made)).collect();
    for view in views {
        let statement = statements::view(view);
        let digest = digest_of(&statement);
        match known.get(view.name.as_str()) {
            Some(known) if known.digest == digest && exists(connection, &view.name).await? => {
                continue;
            }
            Some(_) => drop_view(connection, &view.name).await?,
            None => refuse_taken(connection, &view.name, view).await?,
        }
        run(connection, statement).await?;
        sqlx::query(
            "INSERT INTO lexicon_views (name, collection, digest, made_at) VALUES (?, ?, ?, ?)",
        )
        .bind(&view.name)
        .bind(view.collection.as_str())
        .bind(digest)
        .bind(now())
        .execute(&mut *connection)
        .await?;
        changes.made.push(view.name.clone());
    }
    Ok(())
}

/// An index of a lexicon that is gone for now stays, so that it is not made again and again when
/// commands run with and without the lexicon. It is of no use to any view meanwhile.
async fn bring_indexes(
    connection: &mut SqliteConnection,
    views: &[TypedView],
    changes: &mut ViewChanges,
) -> Result<(), StoreError> {
    let known = load(
        connection,
        "SELECT name, collection, digest FROM lexicon_indexes",
    )
    .await?;
    for known in known {
        let Some(view) = views
            .iter()
            .find(|view| view.collection.as_str() == known.collection)
        else {
            continue;
        };
        let mut columns = view.columns.iter();
        let column = columns.find(|column| statements::index_name(view, column) == known.name);
        let is_current = |column| digest_of(&statements::index(view, column)) == known.digest;
        if column.is_some_and(is_current) && exists(connection, &known.name).await? {
            continue;
        }
        run(
            connection,
            format!("DROP INDEX IF EXISTS {}", quoted(&known.name)),
        )
        .await?;
        sqlx::query("DELETE FROM lexicon_indexes WHERE name = ?")
            .bind(&known.name)
            .execute(&mut *connection)
            .await?;
        match column {
            Some(column) => {
                create_index(connection, view, column).await?;
                changes.made_indexes.push(known.name);
            }
            None => changes.dropped_indexes.push(known.name),
        }
    }
    Ok(())
}

async fn create_index(
    connection: &mut SqliteConnection,
    view: &TypedView,
    column: &Column,
) -> Result<(), StoreError> {
    let statement = statements::index(view, column);
    let digest = digest_of(&statement);
    run(connection, statement).await?;
    let insert = "INSERT INTO lexicon_indexes (name, collection, column_name, digest, made_at) \
                  VALUES (?, ?, ?, ?, ?)";
    sqlx::query(insert)
        .bind(statements::index_name(view, column))
        .bind(view.collection.as_str())
        .bind(&column.name)
        .bind(digest)
        .bind(now())
        .execute(&mut *connection)
        .await?;
    Ok(())
}

async fn load(
    connection: &mut SqliteConnection,
    query: &'static str,
) -> Result<Vec<Made>, StoreError> {
    Ok(sqlx::query_as(query).fetch_all(connection).await?)
}

async fn drop_view(connection: &mut SqliteConnection, name: &str) -> Result<(), StoreError> {
    run(connection, format!("DROP VIEW IF EXISTS {}", quoted(name))).await?;
    sqlx::query("DELETE FROM lexicon_views WHERE name = ?")
        .bind(name)
        .execute(&mut *connection)
        .await?;
    Ok(())
}

/// Refuses to make something of `view` where the database has something else of that name.
async fn refuse_taken(
    connection: &mut SqliteConnection,
    name: &str,
    view: &TypedView,
) -> Result<(), StoreError> {
    // SQLite keeps names that begin so for itself.
    match name.starts_with("sqlite_") || exists(connection, name).await? {
        false => Ok(()),
        true => Err(StoreError::NameTaken {
            name: name.to_owned(),
            collection: view.collection.to_string(),
        }),
    }
}

async fn exists(connection: &mut SqliteConnection, name: &str) -> Result<bool, StoreError> {
    let query = "SELECT count(*) FROM sqlite_master WHERE lower(name) = ?";
    let found: i64 = sqlx::query_scalar(query)
        .bind(name)
        .fetch_one(connection)
        .await?;
    Ok(found > 0)
}

/// Runs a statement that was made of names.
async fn run(connection: &mut SqliteConnection, statement: String) -> Result<(), StoreError> {
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(connection)
        .await?;
    Ok(())
}

/// A name that a hand may have written into a table.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn digest_of(statement: &str) -> String {
    HEXLOWER.encode(&Sha256::digest(statement))
}
