//! One worker, put together from its configuration.

pub mod housekeeping;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::atproto::pattern::Pattern;
use crate::atproto::syntax::Nsid;
use crate::config::{Config, Verify};
use crate::identity::{Identities, Limits, Resolver};
use crate::lexicon::{SchemaError, Schemas};
use crate::net::http_client::Fetcher;
use crate::pipeline::{Context, Parts};
use crate::repo::host::{Deadlines, HttpHosts};
use crate::repo::{Backfill, HostLimiters, Idleness, JobLog, Repositories};
use crate::source::Source;
use crate::source::firehose::websocket::{InvalidSource, WebSocketOptions, WebSocketSource};
use crate::source::interest::Interest;
use crate::source::process::records::Rules;
use crate::source::process::verification::Verification;
use crate::source::tracked::Tracked;
use crate::store::StoreError;
use crate::store::sqlite::SqliteStore;
use crate::supervisor::address::Address;
use crate::supervisor::tree::{Tree, TreeError};
use crate::testing::fault::Faults;

/// How long it may take to look an identity up.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(15);

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
    let store = Arc::new(store);
    let repositories = repositories(&config, &rules.schemas, store.clone())?;
    let context = Context::new(Parts {
        config,
        source,
        store,
        rules,
        repositories,
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

/// What it takes to verify as much as `config` says, with the tables of `store`; `None` where nothing
/// is to be verified.
///
/// # Errors
/// Where TLS can't be set up.
pub fn repositories(
    config: &Config,
    schemas: &Schemas,
    store: Arc<SqliteStore>,
) -> Result<Option<Repositories>, rustls::Error> {
    if config.verify == Verify::None {
        return Ok(None);
    }
    let resolver = Resolver::new(
        config.plc_url.clone(),
        config.allow_private_addresses,
        RESOLVE_DEADLINE,
    )?;
    let source_http = over_http(&config.source_url);
    let backfill = Backfill {
        is_wanted: config.backfill,
        directory: config
            .directory_url
            .clone()
            .unwrap_or_else(|| source_http.clone()),
        collections: collections(&config.collections, schemas),
    };
    let fetcher = Fetcher::new(config.allow_private_addresses)?;
    Ok(Some(Repositories {
        verification: Verification::new(
            config.verify,
            Identities::new(resolver, Limits::default()),
        ),
        hosts: Arc::new(HttpHosts::new(fetcher, Deadlines::default())),
        folder: store.folder(),
        store,
        host_limiters: HostLimiters::default(),
        log: JobLog::default(),
        source_http,
        backfill,
        address: Address::default(),
        idleness: Idleness::default(),
    }))
}

/// The collections that can be looked for: those that are named, and those that are known below a
/// prefix.
pub fn collections(patterns: &[Pattern], schemas: &Schemas) -> Vec<Nsid> {
    let named = patterns.iter().filter_map(|pattern| match pattern {
        Pattern::Exact(nsid) => Nsid::parse(nsid).ok(),
        Pattern::Prefix(_) => None,
    });
    let known = schemas.collections().into_iter().filter(|known| {
        let mut patterns = patterns.iter();
        patterns.any(|pattern| pattern.matches(known.as_str()))
    });
    let collections: BTreeSet<Nsid> = named.chain(known).collect();
    collections.into_iter().collect()
}

/// Where a server that is followed at `url` is asked.
fn over_http(url: &Url) -> Url {
    let mut http = url.clone();
    let scheme = match url.scheme() {
        "wss" => "https",
        _ => "http",
    };
    // Refused only between schemes of different kinds, which these are not.
    let _kept = http.set_scheme(scheme);
    http.set_path("/");
    http
}

/// The rules that `config` sets for events of `source`.
///
/// # Errors
/// Where the lexicons of this program are not what they should be.
pub fn rules(config: &Config, source: &dyn Source) -> Result<Rules, SchemaError> {
    let interest = Interest::new(config.collections.iter().cloned())
        .allowing(config.dids_allow.iter().cloned())
        .denying(config.dids_deny.iter().cloned());
    let interest = match config.verify {
        Verify::None => interest,
        Verify::Commit => interest.with_evidence(),
        Verify::Chain | Verify::Lenient => interest
            .with_evidence()
            .tracking(Arc::new(Tracked::default())),
    };
    Ok(Rules {
        source: source.id().clone(),
        interest: Arc::new(interest),
        schemas: Schemas::embedded()?,
        policies: config.validation.clone(),
    })
}
