//! The BackfillActor: runs the discoveries, which find the repositories that hold wanted records,
//! including those that the stream never mentioned. The RepositoriesActor fetches what it finds.
//!
//! Its progress is in the tables, so a successor continues from there.

use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::{NoSlot, Repositories};
use crate::actor::{ActorContext, Arguments};
use crate::delivery::backoff::Backoff;
use crate::net::http_client::NamedBy;
use crate::repo::host::{Host, HostError, Page};
use crate::store::StoreError;
use crate::store::repo_store::{Discovery, DiscoveryPage, RepoChange};
use crate::testing::fault::Point;

/// How often the actor checks for a new discovery, which a command or a gap starts.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
const RETRY_MIN: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(300);
const RETRY_JITTER: f64 = 0.3;

/// Runs the discoveries; see the module.
pub struct BackfillActor;

/// Fetch the next page, if a discovery is running.
#[derive(Debug)]
pub struct Step;

pub struct BackfillState {
    context: ActorContext<Repositories>,
    backoff: Backoff,
    has_begun: bool,
    /// The relay index cannot list repositories by collection, only all of them.
    lists_all: bool,
}

impl Actor for BackfillActor {
    type Msg = Step;
    type State = BackfillState;
    type Arguments = Arguments<Repositories>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let context =
            ActorContext::start(arguments, myself.get_cell(), Point::BackfillStart).await?;
        myself.cast(Step)?;
        Ok(BackfillState {
            context,
            backoff: Backoff::try_new(RETRY_MIN, RETRY_MAX, RETRY_JITTER, fastrand::Rng::new())?,
            has_begun: false,
            lists_all: false,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        Step: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let _busy = state.context.begin(Point::BackfillStep).await?;
        match state.step().await {
            Ok(true) => {
                state.backoff.reset();
                myself.cast(Step)?;
            }
            Ok(false) => {
                myself.send_after(LOOK_INTERVAL, || Step);
            }
            Err(error) => {
                let delay = state.backoff.next_delay().max(error.retry_after());
                tracing::warn!(
                    %error,
                    retry_in_ms = delay.as_millis() as u64,
                    "discovery of repositories failed; its position is kept, retrying later"
                );
                myself.send_after(delay, || Step);
            }
        }
        Ok(())
    }
}

/// Why a page could not be fetched or stored.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    RequestLimiter(#[from] NoSlot),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl StepError {
    fn retry_after(&self) -> Duration {
        match self {
            Self::Host(HostError::Throttled { retry_after }) => retry_after.unwrap_or_default(),
            Self::RequestLimiter(NoSlot::CoolingDown(remaining)) => *remaining,
            _ => Duration::ZERO,
        }
    }
}

impl BackfillState {
    /// Fetches a page and stores it. Returns whether there may be another page.
    async fn step(&mut self) -> Result<bool, StepError> {
        let repositories = &self.context.shared().clone();
        if repositories.backfill.is_wanted && !self.has_begun {
            let collections = &repositories.backfill.collections;
            if collections.is_empty() {
                tracing::warn!(
                    "no backfill: it needs full collection names; no pattern of `collections` \
                     matches a known lexicon"
                );
            }
            repositories
                .store
                .begin_discovery(collections, false)
                .await?;
            self.has_begun = true;
        }
        let discoveries = repositories.store.discoveries().await?;
        let next = discoveries.iter().find(|discovery| !discovery.is_over);
        repositories.idleness.set_discovered(next.is_none());
        let Some(next) = next else {
            return Ok(false);
        };
        let mut page = match self.fetch_page(repositories, &discoveries, next).await {
            Ok(page) => page,
            Err(error) => {
                let store = &repositories.store;
                store
                    .note_failed_page(&next.collection, &error.to_string())
                    .await?;
                return Err(error);
            }
        };
        let interest = repositories.interest();
        page.dids.retain(|did| interest.wants_did(did.as_str()));
        let noted = DiscoveryPage {
            collection: &next.collection,
            dids: &page.dids,
            cursor: page.cursor.as_deref(),
            pass: next.pass,
        };
        let change = RepoChange::Discovered(&noted);
        repositories.store.change(change).await?;
        if page.cursor.is_none() {
            tracing::info!(
                collection = %next.collection,
                repos = next.repos + page.dids.len() as u64,
                "discovery finished; the repositories that hold the collection are fetched next"
            );
        }
        repositories.wake();
        Ok(true)
    }

    async fn fetch_page(
        &mut self,
        repositories: &Repositories,
        discoveries: &[Discovery],
        next: &Discovery,
    ) -> Result<Page, StepError> {
        let relay_index = Host {
            url: repositories.backfill.relay_index.clone(),
            named: NamedBy::Operator,
        };
        let (hosts, cursor) = (&repositories.hosts, next.cursor.as_deref());
        let limiter = repositories.host_limiters.of(&relay_index.url);
        let _slot = limiter.enter().await?;
        if !self.lists_all {
            let page = hosts.repos_by_collection(&relay_index, &next.collection, cursor);
            match limiter.record_response(page.await) {
                Err(HostError::NotSupported) => {
                    self.lists_all = true;
                    tracing::warn!(
                        relay_index = %relay_index.url,
                        "the relay index has no listReposByCollection; \
                         all repositories that it lists are fetched"
                    );
                }
                page => return Ok(page?),
            }
        }
        // All repositories are listed once, for the first of the collections.
        let is_first = discoveries.first() == Some(next);
        Ok(match is_first {
            true => limiter.record_response(hosts.repos(&relay_index, cursor).await)?,
            false => Page {
                dids: Vec::new(),
                cursor: None,
            },
        })
    }
}
