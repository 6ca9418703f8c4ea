//! Indexes on the columns of the views of lexicons.

use serde_json::json;

use super::CommandError;
use super::scope::{Act, Outcome, Run, Scope};
use super::tasks::LOOK_INTERVAL;
use crate::atproto::syntax::Nsid;
use crate::lexicon::{Column, TypedView};
use crate::store::StoreError;

/// What becomes of an index: its name, or `None` if it was there.
pub(super) type Made = Result<Option<String>, StoreError>;

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
        async move { store.make_index(&view, &column).await }
    };
    let Some(made) = scope.index_tasks.result_of(run.row.id, begin).await else {
        return Ok(Outcome::Later {
            progress: json!({ "collection": collection, "column": column.name }),
            wait: LOOK_INTERVAL,
        });
    };
    let made = made.map_err(|_panicked| CommandError::Panicked)??;
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
