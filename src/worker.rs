//! One worker, put together from its configuration.

use std::net::TcpListener;
use std::sync::Arc;

use crate::actors::{Context, Parts};
use crate::config::Config;
use crate::fault::Faults;
use crate::filter::interest::Interest;
use crate::filter::rules::Rules;
use crate::lexicon::{SchemaError, Schemas};
use crate::source::Source;
use crate::source::websocket::{InvalidSource, WebSocketOptions, WebSocketSource};
use crate::store::StoreError;
use crate::store::sqlite::SqliteStore;
use crate::supervision::tree::{Tree, TreeError};

/// Why a worker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the embedded lexicons cannot be read: {0}")]
    Schemas(#[from] SchemaError),

    #[error("the source cannot be followed: {0}")]
    Source(#[from] InvalidSource),

    #[error("the database {url} cannot be opened: {error}")]
    Store { url: String, error: StoreError },

    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// Opens the database that `config` names, brings its schema up to date, and starts the tree.
///
/// # Errors
/// Where the database cannot be opened. A source that cannot be reached is no error: it is tried
/// again for as long as it takes.
pub async fn start(config: Config, listener: Option<TcpListener>) -> Result<Tree, StartError> {
    let store = SqliteStore::open(&config.database_url)
        .await
        .map_err(|error| StartError::Store {
            url: config.database_url.clone(),
            error,
        })?;
    let source = Arc::new(source(&config)?);
    let rules = rules(&config, source.as_ref())?;
    let context = Context::new(Parts {
        config,
        source,
        store: Arc::new(store),
        rules,
        listener,
        faults: Faults::default(),
    });
    Ok(Tree::start(context).await?)
}

/// The source that `config` names.
///
/// # Errors
/// Where its settings make no source.
pub fn source(config: &Config) -> Result<WebSocketSource, InvalidSource> {
    let options = WebSocketOptions {
        connect_deadline: config.connect_timeout,
        ping_interval: config.ping_interval,
        ..WebSocketOptions::default()
    };
    WebSocketSource::try_new(config.source_url.clone(), options)
}

/// The rules that `config` sets for events of `source`.
///
/// # Errors
/// Where the lexicons of this program are not what they should be.
pub fn rules(config: &Config, source: &dyn Source) -> Result<Rules, SchemaError> {
    let interest = Interest::new(config.collections.iter().cloned())
        .allowing(config.dids_allow.iter().cloned())
        .denying(config.dids_deny.iter().cloned());
    Ok(Rules {
        source: source.id().clone(),
        interest: Arc::new(interest),
        schemas: Schemas::embedded()?,
        policies: config.validation.clone(),
    })
}
