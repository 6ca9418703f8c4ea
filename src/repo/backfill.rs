//! The BackfillActor: runs the discoveries, which find the repositories that hold wanted records,
//! including those that the stream never mentioned. The RepositoriesActor fetches what it finds.
//!
//! Its progress is in the tables, so a successor continues from there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, timeout};

use super::backfill_plan::{Discovering, Summary};
use super::discovery::{Next, Searches, UNSUPPORTED_RETRY};
use super::isolation::Suspicion;
use super::{NoSlot, Repositories, set_aside};
use crate::actor::{ActorContext, Arguments};
use crate::delivery::backoff::InvalidBackoff;
use crate::net::http_client::{self, NamedBy};
use crate::repo::host::{Host, HostError, Page};
use crate::store::StoreError;
use crate::store::repo_store::{Discovery, DiscoveryPage, JobKey, RepoChange, Search};
use crate::testing::fault::Point;

/// How often the actor checks for a new discovery, which a command or a gap starts.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// The pause after the database failed.
const DATABASE_RETRY: Duration = Duration::from_secs(2);
/// The shortest pause before the next page.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);
/// How often a search that is set aside is looked at again.
const SET_ASIDE_LOOK: Duration = Duration::from_secs(60);
/// How many searches may wait for a page at once, so that one whose server does not answer does not
/// stop the others.
const PAGES_AT_ONCE: usize = 4;

/// Runs the discoveries; see the module.
pub struct BackfillActor;

/// Fetch the next page, if a discovery is running.
#[derive(Debug)]
pub struct Step;

pub struct BackfillState {
    context: ActorContext<Repositories>,
    searches: Searches,
    /// The pages that are under way: at most one of each search.
    pages: JoinSet<Result<Page, PageError>>,
    under_way: HashMap<Id, Asked>,
    /// Pages that came to an end, which is not noted yet.
    ended: Vec<JobKey>,
    /// Those of them that were stored.
    cleared: Vec<JobKey>,
    /// Those of them that missed a deadline.
    late: Vec<JobKey>,
    has_begun: bool,
    /// The relay index cannot list repositories by collection, only all of them.
    lists_all: bool,
}

/// A page that is asked for.
struct Asked {
    discovery: Discovery,
    listing: Listing,
    suspicion: Suspicion,
}

impl Asked {
    /// The key under which the page is noted. One is under way for each search.
    fn key(&self) -> JobKey {
        key_of(&self.discovery.search)
    }
}

fn key_of(search: &Search) -> JobKey {
    JobKey {
        did: search.as_str().to_owned(),
        job: "page".to_owned(),
    }
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
            searches: Searches::default(),
            pages: JoinSet::new(),
            under_way: HashMap::new(),
            ended: Vec::new(),
            cleared: Vec::new(),
            late: Vec::new(),
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
            Ok(None) => myself.cast(Step)?,
            Ok(Some(wait)) => {
                myself.send_after(wait, || Step);
            }
            Err(StepError::Store(error)) => {
                tracing::debug!(
                    %error,
                    "the database failed; the position of the discovery is kept, retrying in 2 s"
                );
                myself.send_after(DATABASE_RETRY, || Step);
            }
            Err(StepError::Backoff(error)) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Backoff(#[from] InvalidBackoff),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a page could not be fetched.
#[derive(Debug, thiserror::Error)]
enum PageError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    RequestLimiter(#[from] NoSlot),
    #[error("the relay index has no listReposByCollection")]
    NoCollections,
    #[error("the task that reads the page panicked")]
    Panicked,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PageError {
    /// Whether the server does not have the method, which will not change soon.
    fn is_unsupported(&self) -> bool {
        match self {
            Self::Host(HostError::NotSupported) => true,
            Self::Host(HostError::Unavailable(http_client::FetchError::Status {
                status, ..
            })) => *status == 404,
            _ => false,
        }
    }

    /// How long to wait, if the server was not asked at all.
    fn wait(&self) -> Option<Duration> {
        match self {
            Self::RequestLimiter(no_slot) => Some(no_slot.wait()),
            Self::Host(error) => error.wait(),
            Self::NoCollections | Self::Panicked | Self::Store(_) => None,
        }
    }

    fn retry_after(&self) -> Duration {
        match self {
            Self::Host(HostError::Throttled { retry_after }) => retry_after.unwrap_or_default(),
            _ if self.is_unsupported() => UNSUPPORTED_RETRY,
            _ => Duration::ZERO,
        }
    }
}

impl BackfillState {
    /// Asks for the pages that are due, and stores one that has arrived. Returns how long to wait for
    /// the next one; `None` if there may be one at once.
    async fn step(&mut self) -> Result<Option<Duration>, StepError> {
        let repositories = &self.context.shared().clone();
        if repositories.is_backfill_paused() {
            // Nothing that waits for the searches waits for these.
            repositories.idleness.set_discovered(true);
            return Ok(Some(LOOK_INTERVAL));
        }
        if repositories.backfill.is_wanted && !self.has_begun {
            self.begin(repositories).await?;
        }
        let discoveries = repositories.store.discoveries().await?;
        // A search that cannot be made is nothing to wait for.
        let is_discovered = discoveries
            .iter()
            .all(|discovery| discovery.is_over || discovery.unsupported.is_some());
        repositories.idleness.set_discovered(is_discovered);
        if !is_discovered && let Some(wait) = repositories.stream_start.wait(Instant::now()) {
            return Ok(Some(wait));
        }
        repositories.isolation.load(&*repositories.store).await?;
        let (planned, wait) = self.plan_pages(repositories, &discoveries);
        self.start_pages(repositories, planned).await?;
        let wait = wait.clamp(SHORTEST_WAIT, LOOK_INTERVAL);
        if self.pages.is_empty() {
            return Ok(Some(wait));
        }
        if let Ok(Some(arrived)) = timeout(wait, self.pages.join_next_with_id()).await {
            let (id, page) = match arrived {
                Ok((id, page)) => (id, page),
                Err(error) => (error.id(), Err(PageError::Panicked)),
            };
            if let Some(asked) = self.under_way.remove(&id) {
                let has_page = page.is_ok();
                let concluded = self.conclude(repositories, &asked.discovery, page).await;
                self.note_end(repositories, &asked, has_page, &concluded);
                concluded?;
            }
        }
        Ok(None)
    }

    /// Chooses the pages that are due. Returns also when to look again.
    fn plan_pages(
        &mut self,
        repositories: &Repositories,
        discoveries: &[Discovery],
    ) -> (Vec<Asked>, Duration) {
        let now = Instant::now();
        let mut planned: Vec<Asked> = Vec::new();
        while self.pages.len() + planned.len() < PAGES_AT_ONCE {
            let is_idle = |discovery: &&Discovery| {
                let mut asked = self.under_way.values().chain(&planned);
                !asked.any(|asked| asked.discovery.search == discovery.search)
            };
            let idle: Vec<Discovery> = discoveries.iter().filter(is_idle).cloned().collect();
            let discovery = match self.searches.next(&idle, now) {
                Next::Fetch(next) => next.clone(),
                Next::Wait(until) => return (planned, until.duration_since(now)),
                Next::AllOver => return (planned, LOOK_INTERVAL),
            };
            let search = &discovery.search;
            let suspicion = repositories
                .isolation
                .suspicion(&key_of(search), Timestamp::now());
            let mut others = self.under_way.values().chain(&planned);
            let is_other_suspected = others.any(|other| other.suspicion == Suspicion::Suspected);
            let wait = match suspicion {
                Suspicion::SetAside => Some(SET_ASIDE_LOOK),
                Suspicion::Suspected if is_other_suspected => Some(LOOK_INTERVAL),
                _ => None,
            };
            if let Some(wait) = wait {
                self.searches.put_off(search, now + wait);
                continue;
            }
            // All repositories are listed once, for the first of the collections.
            let is_first = discoveries.first().map(|first| &first.search) == Some(search);
            let listing = match (self.lists_all, is_first) {
                (false, _) => Listing::OfCollections,
                (true, true) => Listing::All,
                (true, false) => Listing::Nothing,
            };
            planned.push(Asked {
                discovery,
                listing,
                suspicion,
            });
        }
        (planned, LOOK_INTERVAL)
    }

    /// Notes which pages begin and which have ended, and asks for them. A suspected one is noted when
    /// it begins.
    async fn start_pages(
        &mut self,
        repositories: &Arc<Repositories>,
        planned: Vec<Asked>,
    ) -> Result<(), StoreError> {
        let unsuspected = planned
            .iter()
            .filter(|asked| asked.suspicion == Suspicion::None);
        let started: Vec<JobKey> = unsuspected.map(Asked::key).collect();
        if !started.is_empty() || !self.ended.is_empty() {
            let (ended, cleared) = (&self.ended, &self.cleared);
            let store = &repositories.store;
            store.note_jobs(&started, ended, cleared).await?;
            repositories
                .isolation
                .note_late(std::mem::take(&mut self.late));
            self.ended.clear();
            self.cleared.clear();
        }
        for asked in planned {
            if let Suspicion::Condemned(offence) = asked.suspicion {
                set_aside::set_aside_search(
                    repositories,
                    &asked.discovery.search,
                    &asked.key(),
                    offence,
                )
                .await?;
                continue;
            }
            let repositories = Arc::clone(repositories);
            let (next, listing, key) = (asked.discovery.clone(), asked.listing, asked.key());
            let is_suspected = asked.suspicion == Suspicion::Suspected;
            let started = self.pages.spawn(async move {
                let page = fetch_page(&repositories, &next, listing);
                if !is_suspected {
                    return page.await;
                }
                let (store, isolation) = (&*repositories.store, &repositories.isolation);
                let page = async { Ok(page.await) };
                isolation.run_alone(store, key, page).await?
            });
            self.under_way.insert(started.id(), asked);
        }
        Ok(())
    }

    /// Records that a page came to an end, which is noted with the next one. A search for which there
    /// was no page stays suspected.
    fn note_end(
        &mut self,
        repositories: &Repositories,
        asked: &Asked,
        has_page: bool,
        concluded: &Result<(), StepError>,
    ) {
        let key = asked.key();
        if has_page && concluded.is_ok() {
            repositories.isolation.clear_suspicion(&key);
            self.cleared.push(key.clone());
        }
        match concluded {
            Err(StepError::Store(StoreError::Deadline)) => self.late.push(key.clone()),
            _ => repositories.isolation.clear_lateness(&key),
        }
        self.ended.push(key);
    }

    /// Stores the page that `asked` asked for, or notes why there is none.
    async fn conclude(
        &mut self,
        repositories: &Repositories,
        asked: &Discovery,
        page: Result<Page, PageError>,
    ) -> Result<(), StepError> {
        let error = match page {
            Ok(page) => return Ok(self.note(repositories, asked, page).await?),
            Err(PageError::NoCollections) => {
                if !std::mem::replace(&mut self.lists_all, true) {
                    tracing::warn!(
                        relay_index = %repositories.backfill.relay_index,
                        "the relay index has no listReposByCollection; all repositories that it \
                         lists are fetched, as with backfill_discovery = repos"
                    );
                }
                return Ok(());
            }
            Err(PageError::Store(error)) => return Err(error.into()),
            Err(error) => error,
        };
        let now = Instant::now();
        if let Some(wait) = error.wait() {
            self.searches.put_off(&asked.search, now + wait);
            return Ok(());
        }
        let delay = self
            .searches
            .fail(&asked.search, error.retry_after(), now)?;
        self.report(repositories, asked, &error, delay);
        let (store, is_unsupported) = (&repositories.store, error.is_unsupported());
        store
            .note_failed_page(&asked.search, &error.to_string(), is_unsupported)
            .await?;
        Ok(())
    }

    /// Starts the searches that the configuration asks for, and says what they can find.
    async fn begin(&mut self, repositories: &Repositories) -> Result<(), StoreError> {
        let backfill = &repositories.backfill;
        let Summary { does, cannot } = backfill.summary();
        match cannot {
            Some(cannot) => tracing::warn!("{does}; {cannot}"),
            None => tracing::info!("{does}"),
        }
        // The list of accounts is the setting's, which may have changed.
        let anew = backfill.discovery == Discovering::Dids;
        repositories
            .store
            .begin_discovery(&backfill.searches(), anew)
            .await?;
        self.has_begun = true;
        Ok(())
    }

    fn report(
        &self,
        repositories: &Repositories,
        failed: &Discovery,
        error: &PageError,
        delay: Duration,
    ) {
        let relay_index = &repositories.backfill.relay_index;
        let search = failed.search.as_str();
        if error.is_unsupported() {
            tracing::warn!(
                search,
                %error,
                "{relay_index} does not tell which repositories there are, so none are searched for; \
                 set directory_url to a server that knows listReposByCollection or listRepos, or set \
                 backfill_discovery = dids and dids_allow; it is asked again in an hour"
            );
        } else {
            tracing::warn!(
                search,
                %error,
                retry_in_ms = delay.as_millis() as u64,
                "a search for repositories failed; its position is kept, other searches go on, \
                 retrying later"
            );
        }
    }

    /// Stores a page.
    async fn note(
        &mut self,
        repositories: &Repositories,
        next: &Discovery,
        mut page: Page,
    ) -> Result<(), StoreError> {
        let asked_with = next.cursor.as_deref();
        let now = Instant::now();
        if let Some(endless) = self.searches.succeed(&next.search, &page, asked_with, now) {
            tracing::warn!(
                search = next.search.as_str(),
                cursor = page.cursor,
                reason = endless.as_str(),
                "the list of repositories has no end; the search ends here, what it found is kept, \
                 and repositories may be missing"
            );
            page.cursor = None;
        }
        let interest = repositories.interest();
        page.dids.retain(|did| interest.wants_did(did.as_str()));
        let noted = DiscoveryPage {
            search: &next.search,
            dids: &page.dids,
            cursor: page.cursor.as_deref(),
            pass: next.pass,
        };
        let change = RepoChange::Discovered(&noted);
        repositories.store.change(change).await?;
        if page.cursor.is_none() {
            tracing::info!(
                search = next.search.as_str(),
                repos = next.repos + page.dids.len() as u64,
                "a search for repositories finished; those that it found are fetched next"
            );
        }
        repositories.wake();
        Ok(())
    }
}

/// What a search by collection lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listing {
    /// The repositories with the collection.
    OfCollections,
    /// All repositories, because the relay index has no list by collection.
    All,
    /// Nothing, because the search of another collection lists all repositories.
    Nothing,
}

async fn fetch_page(
    repositories: &Repositories,
    next: &Discovery,
    listing: Listing,
) -> Result<Page, PageError> {
    let relay_index = Host {
        url: repositories.backfill.relay_index.clone(),
        named: NamedBy::Operator,
    };
    let (hosts, cursor) = (&repositories.hosts, next.cursor.as_deref());
    let last = |dids| Page { dids, cursor: None };
    let collection = match (&next.search, listing) {
        (Search::AllowedDids, _) => return Ok(last(repositories.backfill.dids.clone())),
        (Search::Collection(_), Listing::Nothing) => return Ok(last(Vec::new())),
        (Search::Collection(collection), Listing::OfCollections) => Some(collection),
        (Search::Collection(_), Listing::All) | (Search::AllRepos, _) => None,
    };
    let limiter = repositories.host_limiters.of(&relay_index.url);
    let permit = limiter.enter().await?;
    let Some(collection) = collection else {
        return Ok(permit.record(hosts.repos(&relay_index, cursor).await)?);
    };
    let page = hosts.repos_by_collection(&relay_index, collection, cursor);
    match permit.record(page.await) {
        Err(HostError::NotSupported) => Err(PageError::NoCollections),
        page => Ok(page?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_the_server_does_not_have_is_asked_for_again_in_an_hour() {
        let status = |status| {
            let retry_after = None;
            let error = http_client::FetchError::Status {
                status,
                retry_after,
            };
            PageError::from(HostError::Unavailable(error))
        };
        for lacking in [HostError::NotSupported.into(), status(404)] {
            assert!(lacking.is_unsupported(), "{lacking}");
            assert_eq!(lacking.retry_after(), UNSUPPORTED_RETRY);
        }
        for passing in [status(500), HostError::Invalid(String::new()).into()] {
            assert!(!passing.is_unsupported(), "{passing}");
            assert_eq!(passing.retry_after(), Duration::ZERO);
        }
    }
}
