//! The views of collections that lexicons describe. D1 speaks the SQL of the worker's own database, so
//! they are the same.

use std::collections::{BTreeMap, BTreeSet};

use super::client::Database;
use super::statement::Statement;
use crate::lexicon::TypedView;
use crate::sink::SinkError;
use crate::sink::lexicon_views::{Made, digest, warn_refused};
use crate::store::sqlite::SqliteStore;

const MADE: &str = "SELECT name, sink, digest FROM lexicon_views ORDER BY name";
const NAMES: &str = "SELECT name FROM sqlite_master ORDER BY name";
const FORGET: &str = "DELETE FROM lexicon_views WHERE name = ?1";
const NOTE: &str = "INSERT INTO lexicon_views (name, collection, sink, digest, made_at) \
     VALUES (?1, ?2, ?3, ?4, strftime('%Y-%m-%dT%H:%M:%fZ'))";

/// Makes the database have `views`, and no other views that this sink has made. A view that cannot be made
/// or dropped is left as it is, with a line in the log: the rows are more important.
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
            let dropped = database.define(&drops(name)).await;
            forgive(sink, name, dropped)?;
        }
    }
    for view in views {
        let statement = SqliteStore::view_statement(view);
        let digest = digest(&statement);
        let known = made.get(&view.name);
        let exists = names.contains(&view.name);
        if exists && known.is_some_and(|known| known.digest == digest) {
            continue;
        }
        if exists && known.is_none() {
            let reason = "the database has something else of that name";
            warn_refused(sink, &view.name, &reason);
            continue;
        }
        let mut batch = drops(&view.name);
        batch.push(Statement::new(statement, []));
        let note = [&view.name, view.collection.as_str(), sink, &digest];
        batch.push(Statement::new(NOTE, note.map(str::to_owned)));
        let made = database.define(&batch).await;
        forgive(sink, &view.name, made)?;
    }
    Ok(())
}

/// Logs that the database has refused a view. Other errors are the sink's.
fn forgive(sink: &str, view: &str, outcome: Result<(), SinkError>) -> Result<(), SinkError> {
    match outcome {
        Err(SinkError::Refused(reason)) => {
            warn_refused(sink, view, &reason);
            Ok(())
        }
        outcome => outcome,
    }
}

/// The views of lexicons by their names, and the names of everything, in lower case as those of views are:
/// to D1 a name is the same in any case.
async fn read(
    database: &mut Database,
) -> Result<(BTreeMap<String, Made>, BTreeSet<String>), SinkError> {
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
    let names = names
        .column("name")
        .into_iter()
        .map(str::to_ascii_lowercase);
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
