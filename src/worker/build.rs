//! Builds the parts of a worker from its options.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use super::options::{Options, SourceOptions};
use crate::atproto::pattern::Pattern;
use crate::atproto::syntax::Nsid;
use crate::command::{self, Scope, Tasks};
use crate::identity::{HandleResolver, Identities, Limits, Resolver};
use crate::lexicon::{LexiconErrors, Lexicons, Schemas};
use crate::net::dns::Dns;
use crate::net::http_client::Fetcher;
use crate::repo::host::{Deadlines, HttpHosts};
use crate::repo::published_lexicon::Authorities;
use crate::repo::{self, Backfill};
use crate::source::Source;
use crate::source::firehose::websocket::{InvalidSource, WebSocketOptions, WebSocketSource};
use crate::source::interest::Interest;
use crate::source::process::records::Rules;
use crate::source::process::verification::{Verification, Verify};
use crate::source::tracked::Tracked;
use crate::store::StoreError;
use crate::store::sqlite::SqliteStore;

/// The deadline of one identity lookup.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(15);

/// The deadline of a request to the host of a handle.
const HANDLE_DEADLINE: Duration = Duration::from_secs(5);

/// Builds the source that `options` names.
///
/// # Errors
/// If the source's settings are invalid.
pub fn source(options: &Options) -> Result<Arc<dyn Source>, InvalidSource> {
    let SourceOptions {
        url,
        connect_timeout,
        ping_interval,
    } = &options.source;
    let options = WebSocketOptions {
        connect_deadline: *connect_timeout,
        ping_interval: *ping_interval,
        ..WebSocketOptions::default()
    };
    Ok(Arc::new(WebSocketSource::try_new(url.clone(), options)?))
}

/// Builds what verification needs at the level of `options`, with the tables of `store`. `None` at
/// level `none`.
///
/// # Errors
/// If TLS cannot be set up.
pub fn repositories(
    options: &Options,
    schemas: &Schemas,
    store: Arc<SqliteStore>,
) -> Result<Option<repo::Parts>, rustls::Error> {
    if options.verify == Verify::None {
        return Ok(None);
    }
    let limits = Limits {
        capacity: options.network.identity_cache,
        plc_per_second: options.network.plc_requests_per_second,
        plc_in_flight: options.network.plc_parallelism,
        ..Limits::default()
    };
    let resolver = resolver(options)?;
    let source_http = http_url(&options.source.url);
    let backfill = backfill(options, schemas);
    let fetcher = Fetcher::new(options.network.allow_private_addresses)?;
    let host_clocks = fetcher.clocks();
    Ok(Some(repo::Parts {
        host_clocks,
        verification: Arc::new(Verification::new(
            options.verify,
            Identities::new(resolver, limits),
        )),
        hosts: Arc::new(HttpHosts::new(fetcher, Deadlines::default())),
        folder: store.folder(),
        identity_store: Some(store.clone()),
        store,
        source_http,
        backfill,
    }))
}

fn resolver(options: &Options) -> Result<Resolver, rustls::Error> {
    let network = &options.network;
    Resolver::new(
        network.plc_url.clone(),
        network.allow_private_addresses,
        RESOLVE_DEADLINE,
        network.plc_parallelism,
    )
}

/// How handles are verified. `None` if they are not: in a test network that names no DNS server, whose
/// handles the public DNS does not know.
///
/// # Errors
/// If TLS cannot be set up.
pub(super) fn handle_resolver(options: &Options) -> Result<Option<HandleResolver>, rustls::Error> {
    let network = &options.network;
    if network.allow_private_addresses && network.dns_servers.is_empty() {
        return Ok(None);
    }
    Ok(Some(HandleResolver::new(
        Dns::new(&network.dns_servers),
        Fetcher::new(network.allow_private_addresses)?,
        network.allow_private_addresses,
        HANDLE_DEADLINE,
    )))
}

/// Where published lexicons are found.
///
/// # Errors
/// If TLS cannot be set up.
pub fn authorities(options: &Options) -> Result<Authorities, rustls::Error> {
    let fetcher = Fetcher::new(options.network.allow_private_addresses)?;
    Ok(Authorities {
        dns: Dns::new(&options.network.dns_servers),
        resolver: resolver(options)?,
        hosts: HttpHosts::new(fetcher, Deadlines::default()),
    })
}

/// How a backfill with these options finds accounts.
pub fn backfill(options: &Options, schemas: &Schemas) -> Backfill {
    let patterns = &options.filter.collections;
    let relay_index = options.network.relay_index.clone();
    Backfill {
        is_wanted: options.backfill,
        discovery: options.backfill_discovery,
        relay_index: relay_index.unwrap_or_else(|| http_url(&options.source.url)),
        collections: collections(patterns, schemas),
        unsearchable: unsearchable(patterns, schemas),
        dids: options.filter.dids_allow.clone(),
    }
}

/// The collections that a backfill can search for: those that `patterns` name in full, and known
/// ones that match a pattern.
fn collections(patterns: &[Pattern], schemas: &Schemas) -> Vec<Nsid> {
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

/// The `patterns` that match no collection that a backfill can search for.
fn unsearchable(patterns: &[Pattern], schemas: &Schemas) -> Vec<String> {
    let collections = collections(patterns, schemas);
    let is_searched = |pattern: &Pattern| {
        collections
            .iter()
            .any(|nsid| pattern.matches(nsid.as_str()))
    };
    let unsearchable = patterns.iter().filter(|pattern| !is_searched(pattern));
    unsearchable.map(ToString::to_string).collect()
}

/// The HTTP URL of the server whose stream is at `url`.
fn http_url(url: &Url) -> Url {
    let mut http = url.clone();
    let scheme = match url.scheme() {
        "wss" => "https",
        _ => "http",
    };
    // It fails only between web schemes and others. The configuration allows only web schemes.
    let _set = http.set_scheme(scheme);
    http.set_path("/");
    http
}

/// Builds what commands are carried out with, while no pipeline runs.
///
/// # Errors
/// If the database fails, or holds a setting that this version does not know.
pub async fn scope(
    options: &Options,
    schemas: &Schemas,
    store: Arc<SqliteStore>,
) -> Result<Scope, StoreError> {
    let configured = options.kept();
    let kept = command::in_force(&store, &configured).await?;
    Ok(Scope {
        store,
        verify: options.verify,
        configured,
        schemas: schemas.clone(),
        views: Arc::default(),
        index_tasks: Tasks::default(),
        backfill: backfill(&options.clone().keeping(kept), schemas),
        is_logged: true,
        live: None,
    })
}

/// Reads the lexicon documents of the program, and those in the folder that `options` name.
///
/// # Errors
/// If a document is invalid.
pub fn lexicons(options: &Options) -> Result<Lexicons, LexiconErrors> {
    Lexicons::load(options.lexicons.as_deref())
}

/// Builds the rules that `options` sets for events of `source`.
///
/// # Errors
/// If a lexicon document is invalid.
pub fn rules(options: &Options, source: &dyn Source) -> Result<Rules, LexiconErrors> {
    Ok(rules_with(options, source, lexicons(options)?.schemas))
}

/// Builds the rules that `options` sets for events of `source`, with `schemas`.
pub fn rules_with(options: &Options, source: &dyn Source, schemas: Schemas) -> Rules {
    let interest = Interest::new(options.filter.collections.iter().cloned())
        .allowing(options.filter.dids_allow.iter().cloned())
        .denying(options.filter.dids_deny.iter().cloned());
    let interest = match options.verify {
        Verify::None => interest,
        Verify::Commit => interest.with_evidence(),
        Verify::Chain | Verify::Lenient => {
            interest
                .with_evidence()
                .tracking(Arc::new(match options.backfill {
                    true => Tracked::with_announced(),
                    false => Tracked::default(),
                }))
        }
    };
    Rules {
        source: source.id().clone(),
        interest: Arc::new(interest),
        schemas,
        policies: options.validation.clone(),
    }
}
