//! One worker: it is put together from its options, and started.

mod assembly;
mod build;
mod children;
mod directory_report;
pub mod housekeeping;
mod judged_rules;
mod lexicon_views;
mod options;
mod running;

use std::net::TcpListener;
use std::sync::Arc;

pub use self::assembly::{Assembly, Parts};
pub use self::build::{authorities, backfill, lexicons, repositories, rules, source};
pub use self::children::Role;
pub use self::lexicon_views::make_views;
pub use self::options::{FilterOptions, NetworkOptions, Options, SourceOptions};
pub use self::running::{RunningWorker, WorkerError};
use crate::lexicon::LexiconErrors;
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

    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),

    #[error(transparent)]
    Worker(#[from] WorkerError),
}

/// Opens the database that `options` name, brings its schema up to date, and starts the actors.
///
/// # Errors
/// If the database cannot be opened, or a setting or a lexicon is invalid. A source that
/// cannot be reached is not an error: the worker tries again until it answers.
pub async fn start(
    options: Options,
    listener: Option<TcpListener>,
) -> Result<RunningWorker, StartError> {
    let lexicons = lexicons(&options)?;
    let failed = |error| StartError::Store {
        url: options.database_url.clone(),
        error,
    };
    let store = SqliteStore::open(&options.database_url)
        .await
        .map_err(failed)?;
    make_views(&store, &lexicons.views).await.map_err(failed)?;
    let source = source(&options)?;
    let rules = build::rules_with(&options, source.as_ref(), lexicons.schemas);
    let outdated = judged_rules::compare(&store, &rules)
        .await
        .map_err(failed)?;
    let store = Arc::new(store);
    let handle_resolver = build::handle_resolver(&options)?;
    let repositories = repositories(&options, &rules.schemas, store.clone())?;
    let assembly = Assembly::new(Parts {
        options,
        source,
        store: store.clone(),
        rules,
        repositories,
        listener,
        faults: Faults::default(),
    });
    if let (Some(repositories), Some(resolver)) = (&assembly.context.repositories, handle_resolver)
    {
        repositories.verify_handles(store, resolver);
    }
    let status = assembly.context.status.clone();
    status.update(|status| status.outdated_collections = outdated);
    Ok(RunningWorker::start(assembly).await?)
}
