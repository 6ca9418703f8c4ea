//! The BackfillActor: looks for the repositories that hold what is wanted, also where nothing has
//! come of them in the stream. Whom it finds, the RepositoriesActor fetches.
//!
//! How far it is stands in the tables, so whoever takes its place goes on from there.

use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::{NoSlot, Repositories};
use crate::actor::{ActorContext, Arguments};
use crate::delivery::backoff::Backoff;
use crate::net::http_client::NamedBy;
use crate::repo::host::{Host, HostError, Page};
use crate::store::StoreError;
use crate::store::repos::{Discovery, DiscoveryPage, RepoChange};
use crate::testing::fault::Point;

/// How often it is looked whether there is something to look for, because a command asks for it, or
/// a gap.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
const RETRY_MIN: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(300);
const RETRY_JITTER: f64 = 0.3;

/// See the module.
pub struct BackfillActor;

/// Ask for a page, where there is one to ask for.
#[derive(Debug)]
pub struct Step;

pub struct BackfillState {
    context: ActorContext<Repositories>,
    backoff: Backoff,
    has_begun: bool,
    /// The directory does not know who holds which collection, only who is there at all.
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
                    "cannot look for repositories; trying again later"
                );
                myself.send_after(delay, || Step);
            }
        }
        Ok(())
    }
}

/// Why there is no page.
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
            Self::RequestLimiter(NoSlot::CoolingDown(rest)) => *rest,
            _ => Duration::ZERO,
        }
    }
}

impl BackfillState {
    /// Asks for a page and notes it. Returns whether there may be another one.
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
        repositories.idleness.set_found(next.is_none());
        let Some(next) = next else {
            return Ok(false);
        };
        let mut page = match self.ask(repositories, &discoveries, next).await {
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
        };
        let change = RepoChange::Discovered(&noted);
        repositories.store.change(change).await?;
        if page.cursor.is_none() {
            tracing::info!(
                collection = %next.collection,
                repos = next.repos + page.dids.len() as u64,
                "found the repositories that hold a collection"
            );
        }
        repositories.wake();
        Ok(true)
    }

    async fn ask(
        &mut self,
        repositories: &Repositories,
        discoveries: &[Discovery],
        next: &Discovery,
    ) -> Result<Page, StepError> {
        let directory = Host {
            url: repositories.backfill.directory.clone(),
            named: NamedBy::Operator,
        };
        let (hosts, cursor) = (&repositories.hosts, next.cursor.as_deref());
        let limiter = repositories.host_limiters.of(&directory.url);
        let _turn = limiter.enter().await?;
        if !self.lists_all {
            let page = hosts.repos_by_collection(&directory, &next.collection, cursor);
            match limiter.record_response(page.await) {
                Err(HostError::NotSupported) => {
                    self.lists_all = true;
                    tracing::warn!(
                        directory = %directory.url,
                        "the directory does not know who holds a collection; \
                         fetching the repositories of all who are there"
                    );
                }
                page => return Ok(page?),
            }
        }
        // Who is there at all is listed once, for the first of the collections.
        let is_first = discoveries.first() == Some(next);
        Ok(match is_first {
            true => limiter.record_response(hosts.repos(&directory, cursor).await)?,
            false => Page {
                dids: Vec::new(),
                cursor: None,
            },
        })
    }
}
