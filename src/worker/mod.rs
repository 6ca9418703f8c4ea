//! One worker: it is put together from its options, and started.

mod assembly;
mod build;
mod children;
mod directory_report;
mod doors;
pub mod housekeeping;
mod judged_rules;
mod lexicon_views;
mod options;
mod running;

use std::path::PathBuf;
use std::sync::Arc;

pub use self::assembly::{Assembly, ControlParts, Parts};
pub use self::build::{
    authorities, backfill, lexicons, repositories, rules, rules_with, scope, source,
};
pub use self::children::Role;
pub use self::doors::{AdminDoor, Doors};
pub use self::lexicon_views::make_views;
pub use self::options::{FilterOptions, NetworkOptions, Options, SourceOptions};
pub use self::running::{RunningWorker, WorkerError};
use crate::command::{self, Scope};
use crate::lexicon::{LexiconErrors, Schemas};
use crate::source::firehose::websocket::InvalidSource;
use crate::store::StoreError;
use crate::store::sqlite::SqliteStore;
use crate::testing::fault::Faults;

/// Why a worker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Lexicons(#[from] LexiconErrors),

    #[error("the source cannot be followed: {0}")]
    Source(#[from] InvalidSource),

    #[error("the database {url} cannot be used: {error}")]
    Store { url: String, error: StoreError },

    #[error("changes_token_file: {path}: {reason}", path = path.display())]
    Token { path: PathBuf, reason: String },

    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),

    #[error(transparent)]
    Worker(#[from] WorkerError),
}

/// The fewest characters of a token, so that it is not guessed.
const SHORTEST_TOKEN: usize = 16;

fn changes_token(options: &Options) -> Result<Option<String>, StartError> {
    let Some(path) = &options.changes_token_file else {
        return Ok(None);
    };
    let refuse = |reason: String| StartError::Token {
        path: path.clone(),
        reason,
    };
    let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    let token = text.trim();
    match token.len() >= SHORTEST_TOKEN {
        true => Ok(Some(token.to_owned())),
        false => Err(refuse(format!(
            "the token has {} characters; it needs {SHORTEST_TOKEN} at least, such as those of \
             `openssl rand -hex 16`",
            token.len()
        ))),
    }
}

/// Opens the database that `options` name, brings its schema up to date, carries out the commands that
/// need no worker, and starts the actors.
///
/// # Errors
/// If the database cannot be opened, or a setting or a lexicon is invalid. A source that
/// cannot be reached is not an error: the worker tries again until it answers.
pub async fn start(options: Options, doors: impl Into<Doors>) -> Result<RunningWorker, StartError> {
    let doors = doors.into();
    let lexicons = lexicons(&options)?;
    let store = SqliteStore::open(&options.database_url).await;
    let store = Arc::new(store.map_err(|error| opened(&options, error))?);
    let changes_token = changes_token(&options)?;
    let made = make_views(&store, &lexicons.views).await;
    made.map_err(|error| opened(&options, error))?;
    let prepared = prepare(&options, &lexicons.schemas, store.clone()).await;
    let mut scope = prepared.map_err(|error| opened(&options, error))?;
    scope.views = lexicons.views.into();
    let url = options.database_url.clone();
    let options = in_force(options, &store).await;
    let options = options.map_err(|error| StartError::Store { url, error })?;
    let source = source(&options)?;
    let rules = build::rules_with(&options, source.as_ref(), lexicons.schemas);
    let compared = judged_rules::compare(&*store, &rules).await;
    let outdated = compared.map_err(|error| opened(&options, error))?;
    let handle_resolver = build::handle_resolver(&options)?;
    let repositories = repositories(&options, &rules.schemas, store.clone())?;
    let assembly = Assembly::new(Parts {
        options,
        source,
        feed: Some(store.clone()),
        views: scope.views.clone(),
        changes_token,
        store: store.clone(),
        rules,
        repositories,
        listener: doors.endpoints,
        control: Some(ControlParts {
            scope,
            socket: doors.control,
            admin: doors.admin,
        }),
        faults: Faults::default(),
    });
    if let (Some(repositories), Some(resolver)) = (&assembly.context.repositories, handle_resolver)
    {
        repositories.verify_handles(store, resolver);
    }
    let status = assembly.context.status.clone();
    status.update(|status| status.set_outdated(outdated));
    Ok(RunningWorker::start(assembly).await?)
}

/// `options` with the settings that were changed at run time, as far as they are in force.
///
/// # Errors
/// If the database fails, or holds a setting that this version does not know.
pub async fn in_force(options: Options, store: &SqliteStore) -> Result<Options, StoreError> {
    let kept = command::in_force(store, &options.kept()).await?;
    Ok(options.keeping(kept))
}

/// Carries out the commands that come before the start. Returns what later ones are carried out with.
async fn prepare(
    options: &Options,
    schemas: &Schemas,
    store: Arc<SqliteStore>,
) -> Result<Scope, StoreError> {
    command::adopt(&store, &options.kept()).await?;
    let before = scope(options, schemas, store.clone()).await?;
    command::carry_out_before_start(&before, &Faults::default()).await?;
    // They may have changed settings.
    scope(options, schemas, store).await
}

fn opened(options: &Options, error: StoreError) -> StartError {
    StartError::Store {
        url: options.database_url.clone(),
        error,
    }
}
