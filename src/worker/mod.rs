//! One worker: it is put together from its options, and started.

mod assembly;
mod build;
mod children;
mod directory_report;
pub mod housekeeping;
mod options;
mod running;

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;

pub use self::assembly::{Assembly, Parts};
pub use self::build::{backfill, repositories, rules, source};
pub use self::children::Role;
pub use self::options::{FilterOptions, NetworkOptions, Options, SourceOptions};
pub use self::running::{RunningWorker, WorkerError};
use crate::lexicon::SchemaError;
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

/// Opens the database that `options` name, brings its schema up to date, and starts the actors.
///
/// # Errors
/// If the database cannot be opened, or a setting or an embedded lexicon is invalid. A source that
/// cannot be reached is not an error: the worker tries again until it answers.
pub async fn start(
    options: Options,
    listener: Option<TcpListener>,
) -> Result<RunningWorker, StartError> {
    let store = SqliteStore::open(&options.database_url)
        .await
        .map_err(|error| StartError::Store {
            url: options.database_url.clone(),
            error,
        })?;
    let changes_token = changes_token(&options)?;
    let source = source(&options)?;
    let rules = rules(&options, source.as_ref())?;
    let store = Arc::new(store);
    let repositories = repositories(&options, &rules.schemas, store.clone())?;
    let assembly = Assembly::new(Parts {
        options,
        source,
        feed: Some(store.clone()),
        changes_token,
        store,
        rules,
        repositories,
        listener,
        faults: Faults::default(),
    });
    Ok(RunningWorker::start(assembly).await?)
}
