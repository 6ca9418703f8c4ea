//! The views of collections that lexicons describe. D1 speaks the SQL of the worker's own database, so
//! they are the same.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use super::client::Database;
use super::statement::Statement;
use crate::lexicon::TypedView;
use crate::sink::SinkError;
use crate::store::sqlite::SqliteStore;

const MADE: &str = "SELECT name, sink, digest FROM lexicon_views ORDER BY name";
const NAMES: &str = "SELECT name FROM sqlite_master ORDER BY name";
const FORGET: &str = "DELETE FROM lexicon_views WHERE name = ?1";
const NOTE: &str = "INSERT INTO lexicon_views (name, collection, sink, digest, made_at) \
     VALUES (?1, ?2, ?3, ?4, strftime('%Y-%m-%dT%H:%M:%fZ'))";

/// A view as its table has it.
struct Made {
    sink: String,
    digest: String,
}

/// Makes the database have `views`, and no other views that this sink has made. A view that cannot be made
/// is left out, with a line in the log: the rows are more important.
///
/// # Errors
/// If the database gives no answer.
pub(super) async fn bring(
    database: &mut Database,
    sink: &str,
    views: &[TypedView],
) -> Result<(), SinkError> {
    let (made, names) = read(database).await?;
    for (name, known) in &made {
        if known.sink == sink && !views.iter().any(|view| view.name == *name) {
            database.run(&drops(name)).await?;
        }
    }
    for view in views {
        let statement = SqliteStore::view_statement(view);
        let digest = HEXLOWER.encode(&Sha256::digest(&statement));
        let known = made.get(&view.name);
        let exists = names.contains(&view.name);
        if exists && known.is_some_and(|known| known.digest == digest) {
            continue;
        }
        if exists && known.is_none() {
            tell(sink, view, "the database has something else of that name");
            continue;
        }
        let mut batch = drops(&view.name);
        batch.push(Statement::new(statement, []));
        let note = [&view.name, view.collection.as_str(), sink, &digest];
        batch.push(Statement::new(NOTE, note.map(str::to_owned)));
        match database.run(&batch).await {
            Err(SinkError::Refused(reason)) => tell(sink, view, &reason),
            outcome => drop(outcome?),
        }
    }
    Ok(())
}

/// The views of lexicons by their names, and the names of everything.
async fn read(database: &mut Database) -> Result<(BTreeMap<String, Made>, Vec<String>), SinkError> {
    let rows = database
        .run(&[Statement::new(MADE, []), Statement::new(NAMES, [])])
        .await?;
    let [made, names] = rows.as_slice() else {
        return Err(SinkError::unavailable("an answer without its rows"));
    };
    let sinks = made.column("sink").into_iter().zip(made.column("digest"));
    let made = made.column("name").into_iter().zip(sinks);
    let made = made.map(|(name, (sink, digest))| {
        let made = Made {
            sink: sink.to_owned(),
            digest: digest.to_owned(),
        };
        (name.to_owned(), made)
    });
    let names = names.column("name").into_iter().map(str::to_owned);
    Ok((made.collect(), names.collect()))
}

fn drops(name: &str) -> Vec<Statement> {
    // A view's name has only letters, digits and underscores.
    let drop = format!("DROP VIEW IF EXISTS \"{name}\"");
    vec![
        Statement::new(drop, []),
        Statement::new(FORGET, [name.to_owned()]),
    ]
}

fn tell(sink: &str, view: &TypedView, reason: &str) {
    tracing::warn!(
        sink,
        view = view.name,
        reason,
        "the view of a lexicon cannot be made; the rows are delivered; mend that, then restart the worker"
    );
}
