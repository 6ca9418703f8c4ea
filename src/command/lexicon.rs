//! Indexes on the columns of the views of lexicons.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;

use super::CommandError;
use super::scope::{Act, Outcome, Run, Scope};
use crate::atproto::syntax::Nsid;
use crate::lexicon::{Column, TypedView};
use crate::store::StoreError;

/// How often it is looked whether an index is made.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// What becomes of an index: its name, or `None` if it was there.
type Made = Result<Option<String>, StoreError>;

/// The indexes that are being made, by the ids of their commands. A large one takes minutes, and an actor
/// may not have one thing in hand for so long.
#[derive(Clone, Default)]
pub struct IndexTasks(Arc<Mutex<BTreeMap<i64, JoinHandle<Made>>>>);

impl IndexTasks {
    /// The task of a command, if it has ended. Otherwise it is begun, or goes on.
    fn ended(
        &self,
        command: i64,
        begin: impl FnOnce() -> JoinHandle<Made>,
    ) -> Option<JoinHandle<Made>> {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = tasks.entry(command).or_insert_with(begin).is_finished();
        is_over.then(|| tasks.remove(&command)).flatten()
    }
}

/// Makes an index, or drops it.
pub(super) async fn index(
    run: &Run<'_>,
    collection: &Nsid,
    column: &str,
    is_dropped: bool,
) -> Result<Outcome, CommandError> {
    let (scope, store) = (run.scope, &run.scope.store);
    let (view, column) = find(scope, collection, column)?;
    if scope.live.is_none() && run.row.progress.is_none() {
        store.make_views(&scope.views).await?;
    }
    if is_dropped {
        let was_there = store.drop_index(view, column).await?;
        return Ok(done(column, None, was_there));
    }
    let begin = || {
        let (store, view, column) = (store.clone(), view.clone(), column.clone());
        tokio::spawn(async move { store.make_index(&view, &column).await })
    };
    let Some(task) = scope.index_tasks.ended(run.row.id, begin) else {
        return Ok(Outcome::Later {
            progress: json!({ "collection": collection, "column": column.name }),
            wait: LOOK_INTERVAL,
        });
    };
    // A task that panicked is begun again.
    let made = task.await.unwrap_or(Err(StoreError::Deadline))?;
    let was_there = made.is_none();
    Ok(done(column, made, was_there))
}

fn find<'a>(
    scope: &'a Scope,
    collection: &Nsid,
    column: &str,
) -> Result<(&'a TypedView, &'a Column), CommandError> {
    let unknown = || CommandError::NoColumn {
        collection: collection.clone(),
        column: column.to_owned(),
    };
    let mut views = scope.views.iter();
    let view = views.find(|view| view.collection == *collection);
    let view = view.ok_or_else(unknown)?;
    let mut columns = view.columns.iter();
    let column = columns.find(|known| known.name == column);
    Ok((view, column.ok_or_else(unknown)?))
}

fn done(column: &Column, index: Option<String>, was_there: bool) -> Outcome {
    let result = json!({ "column": column.name, "index": index, "was_there": was_there });
    Outcome::Done {
        act: Act {
            before: Some(json!({ "was_there": was_there })),
            after: Some(json!({ "index": index })),
        },
        result,
        asked: None,
    }
}
