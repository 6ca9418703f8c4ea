//! One worker: it is put together from its options, and started.

mod assembly;
mod build;
mod children;
mod directory_report;
mod doors;
pub mod housekeeping;
mod options;
mod running;

use std::sync::Arc;

pub use self::assembly::{Assembly, ControlParts, Parts};
pub use self::build::{backfill, repositories, rules, scope, source};
pub use self::children::Role;
pub use self::doors::{AdminDoor, Doors};
pub use self::options::{FilterOptions, NetworkOptions, Options, SourceOptions};
pub use self::running::{RunningWorker, WorkerError};
use crate::command::{self, Scope};
use crate::lexicon::{SchemaError, Schemas};
use crate::source::firehose::websocket::InvalidSource;
use crate::store::StoreError;
use crate::store::sqlite::SqliteStore;
use crate::testing::fault::Faults;

/// Why a worker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the embedded lexicons cannot be read: {0}")]
    Schemas(#[from] SchemaError),

    #[error("the source cannot be followed: {0}")]
    Source(#[from] InvalidSource),

    #[error("the database {url} cannot be opened: {error}")]
    Store { url: String, error: StoreError },

    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),

    #[error(transparent)]
    Worker(#[from] WorkerError),
}

/// Opens the database that `options` name, brings its schema up to date, carries out the commands that
/// need no worker, and starts the actors.
///
/// # Errors
/// If the database cannot be opened, or a setting or an embedded lexicon is invalid. A source that
/// cannot be reached is not an error: the worker tries again until it answers.
pub async fn start(options: Options, doors: impl Into<Doors>) -> Result<RunningWorker, StartError> {
    let doors = doors.into();
    let store = SqliteStore::open(&options.database_url).await;
    let store = Arc::new(store.map_err(|error| opened(&options, error))?);
    let schemas = Schemas::embedded()?;
    let prepared = prepare(&options, &schemas, store.clone()).await;
    let scope = prepared.map_err(|error| opened(&options, error))?;
    let kept = command::in_force(&store, &scope.configured).await;
    let kept = kept.map_err(|error| opened(&options, error))?;
    let options = options.keeping(kept);
    let source = source(&options)?;
    let rules = rules(&options, source.as_ref())?;
    let repositories = repositories(&options, &rules.schemas, store.clone())?;
    let assembly = Assembly::new(Parts {
        options,
        source,
        store,
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
    Ok(RunningWorker::start(assembly).await?)
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
