//! The RepositoriesActor: sees to repositories as wholes. It fetches those whose chain is broken, lets
//! through what had to wait for that or for a key, compares what a gap may have changed, and asks the
//! hosts of accounts that are said to be gone.
//!
//! All that it works on is in the tables, so it may die at any time: whoever takes its place begins
//! where it was.

mod compare;
mod fetch;
mod hearsay;
mod host_lanes;
mod queue;
mod turn;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, timeout};
use url::Url;

pub use self::host_lanes::HostLanes;
pub(super) use self::host_lanes::Refused;
pub use self::turn::TurnLog;
use super::Context;
use crate::fault::Point;
use crate::hosts::Hosts;
use crate::protocol::syntax::{Did, Nsid};
use crate::store::StoreError;
use crate::store::repos::{RepoChange, RepoEvent, RepoStore, Urgency};
use crate::supervision::address::Address;
use crate::supervision::backoff::Backoff;
use crate::supervision::progress::Progress;
use crate::verification::Verification;

/// How often it is looked for what has come due by time alone.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// How soon a repository is tried again; it doubles from there.
const RETRY_MIN: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(3600);
const RETRY_JITTER: f64 = 0.3;
/// How long nobody is seen to while the tables take nothing; it doubles from the first to the second.
const REST_MIN: Duration = Duration::from_millis(200);
const REST_MAX: Duration = Duration::from_secs(10);
/// All that is waited for in a turn has a deadline of its own. Should that ever not be so, here it ends.
const TURN_DEADLINE: Duration = Duration::from_secs(2 * 3600);
/// How long a repository is left alone at which a turn broke off.
const BROKEN_OFF_REST: Duration = Duration::from_secs(60);

/// What it takes to verify repositories, and to fetch them.
pub struct Repositories {
    pub verification: Verification,
    pub hosts: Arc<dyn Hosts>,
    pub store: Arc<dyn RepoStore>,
    /// How each host is spared.
    pub lanes: HostLanes,
    pub log: TurnLog,
    /// Where repositories that are fetched are put for the time being.
    pub folder: PathBuf,
    /// The source over HTTP, which is asked where an account's own host gives no answer.
    pub source_http: Url,
    pub address: Address<RepositoriesMessage>,
    pub backfill: Backfill,
    pub rest: Rest,
}

/// Where to look for repositories, and which.
#[derive(Clone, Debug)]
pub struct Backfill {
    /// Whether it is asked for.
    pub is_wanted: bool,
    pub directory: Url,
    pub collections: Vec<Nsid>,
}

/// Whether there is nothing to do.
#[derive(Debug, Default)]
pub struct Rest {
    /// The RepositoriesActor was called and has not come yet.
    is_called: AtomicBool,
    /// No repository is due, and nobody is at one.
    is_settled: AtomicBool,
    /// No repositories are being looked for.
    is_found: AtomicBool,
}

/// See the module.
pub struct RepositoriesActor;

#[derive(Debug)]
pub enum RepositoriesMessage {
    /// There may be something to see to.
    Look,
    /// A turn has ended.
    Reap,
    /// Time has passed.
    Tick,
}

pub struct RepositoriesState {
    context: Arc<Context>,
    progress: Progress,
    turns: JoinSet<Result<(), StoreError>>,
    in_hand: HashMap<Id, (Did, Task)>,
    /// Repositories at which a turn broke off, and until when they are left alone.
    broken_off: HashMap<Did, Instant>,
    /// Until when the tables are left alone, which took nothing.
    rest_until: Option<Instant>,
    backoff: Backoff,
}

/// What a turn is about. Each kind has places of its own, so that none of them holds up the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    Repository(Urgency),
    /// Whether an account is really gone.
    Hearsay,
}

impl Task {
    /// So many turns of this kind are taken at once.
    fn places(self) -> usize {
        match self {
            Self::Repository(Urgency::Waiting | Urgency::Broken) => 8,
            Self::Repository(Urgency::Doubted | Urgency::Backfill) | Self::Hearsay => 4,
        }
    }
}

impl Rest {
    /// Whether nothing is due and nothing is being looked for.
    pub fn is_at_rest(&self) -> bool {
        self.is_settled.load(Ordering::Acquire) && self.is_found.load(Ordering::Acquire)
    }

    pub(super) fn set_found(&self, is_found: bool) {
        self.is_found.store(is_found, Ordering::Release);
    }
}

impl Repositories {
    /// Tells the tables what has become of a repository.
    async fn note(&self, did: &Did, event: RepoEvent<'_>) -> Result<(), StoreError> {
        self.store.change(RepoChange::Repo { did, event }).await?;
        Ok(())
    }

    /// Says that a repository waits for somebody to see to it. Saying it again before anybody has come
    /// does nothing more.
    pub(super) fn wake(&self) {
        self.rest.is_settled.store(false, Ordering::Release);
        let is_called = self.rest.is_called.swap(true, Ordering::AcqRel);
        if !is_called && self.address.cast(RepositoriesMessage::Look).is_err() {
            // Nobody is there; the successor looks when it starts.
            self.rest.is_called.store(false, Ordering::Release);
        }
    }
}

impl Actor for RepositoriesActor {
    type Msg = RepositoriesMessage;
    type State = RepositoriesState;
    type Arguments = (Arc<Context>, Progress);

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        (context, progress): Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let faults = &context.faults;
        faults
            .pass(Point::RepositoriesStart, myself.get_cell())
            .await?;
        myself.cast(RepositoriesMessage::Tick)?;
        myself.send_interval(LOOK_INTERVAL, || RepositoriesMessage::Tick);
        Ok(RepositoriesState {
            context,
            progress,
            turns: JoinSet::new(),
            in_hand: HashMap::new(),
            broken_off: HashMap::new(),
            rest_until: None,
            backoff: Backoff::try_new(REST_MIN, REST_MAX, RETRY_JITTER, fastrand::Rng::new())?,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let _busy = state.progress.busy();
        let context = state.context.clone();
        let Some(repositories) = &context.repositories else {
            return Ok(());
        };
        // Whatever comes from now on is a call of its own. One that a predecessor did not answer is, too.
        repositories.rest.is_called.store(false, Ordering::Release);
        context
            .faults
            .pass(Point::RepositoriesMessage, myself.get_cell())
            .await?;
        state.reap();
        if let RepositoriesMessage::Tick = message {
            reconcile_gaps(repositories).await;
        }
        if state.is_resting() {
            return Ok(());
        }
        if let Err(error) = state.fill(repositories, &myself).await {
            state.rest(&error);
        }
        Ok(())
    }
}

impl RepositoriesState {
    fn reap(&mut self) {
        while let Some(ended) = self.turns.try_join_next_with_id() {
            let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
            let did = self.in_hand.remove(&id).map(|(did, _)| did);
            match ended {
                Ok((_, Ok(()))) => self.backoff.reset(),
                Ok((_, Err(error))) => self.rest(&error),
                Err(error) => {
                    tracing::error!(did = did.as_ref().map(Did::as_str), %error, "a turn broke off");
                    let until = Instant::now() + BROKEN_OFF_REST;
                    self.broken_off.extend(did.map(|did| (did, until)));
                }
            }
        }
    }

    /// Leaves the tables alone for a while. That they take nothing is told by those who write events.
    fn rest(&mut self, error: &StoreError) {
        tracing::debug!(%error, "the database does not let repositories be seen to");
        self.rest_until = Some(Instant::now() + self.backoff.next_delay());
    }

    fn is_resting(&self) -> bool {
        self.rest_until.is_some_and(|until| Instant::now() < until)
    }

    /// Begins as many turns as there are places for.
    async fn fill(
        &mut self,
        repositories: &Repositories,
        myself: &ActorRef<RepositoriesMessage>,
    ) -> Result<(), StoreError> {
        let now = Timestamp::now();
        self.broken_off.retain(|_, until| Instant::now() < *until);
        for urgency in Urgency::ALL {
            let task = Task::Repository(urgency);
            let Some(limit) = self.limit(task) else {
                continue;
            };
            for repo in repositories.store.due(urgency, now, limit).await? {
                let did = repo.did.clone();
                self.begin(myself, task, did, |context| async move {
                    turn::see_to(&context, urgency, &repo).await
                });
            }
        }
        if let Some(limit) = self.limit(Task::Hearsay) {
            for hearsay in repositories.store.hearsay(now, limit).await? {
                let did = hearsay.did.clone();
                self.begin(myself, Task::Hearsay, did, |context| async move {
                    hearsay::see_to(&context, &hearsay).await
                });
            }
        }
        let is_settled = self.in_hand.is_empty();
        repositories
            .rest
            .is_settled
            .store(is_settled, Ordering::Release);
        Ok(())
    }

    /// How many to ask for, so that there are enough beside those that are left alone; `None` where no
    /// place is free.
    fn limit(&self, task: Task) -> Option<usize> {
        let is_free = self.taken(task) < task.places();
        is_free.then(|| task.places() + self.in_hand.len() + self.broken_off.len())
    }

    fn taken(&self, task: Task) -> usize {
        self.in_hand
            .values()
            .filter(|(_, other)| *other == task)
            .count()
    }

    fn begin<F>(
        &mut self,
        myself: &ActorRef<RepositoriesMessage>,
        task: Task,
        did: Did,
        turn: impl FnOnce(Arc<Context>) -> F,
    ) where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        let is_in_hand = self.in_hand.values().any(|(in_hand, _)| *in_hand == did);
        let is_left_alone = is_in_hand || self.broken_off.contains_key(&did);
        if is_left_alone || self.taken(task) >= task.places() {
            return;
        }
        let (turn, myself) = (turn(self.context.clone()), myself.clone());
        let begun = self.turns.spawn(async move {
            let _told = Told(myself);
            timeout(TURN_DEADLINE, turn)
                .await
                .unwrap_or(Err(StoreError::Deadline))
        });
        self.in_hand.insert(begun.id(), (did, task));
    }
}

async fn reconcile_gaps(repositories: &Repositories) {
    match repositories.store.reconcile_gaps().await {
        Ok(reconciled) => {
            if let Some(repos) = reconciled.doubted {
                tracing::info!(repos, "comparing every tracked repository after a gap");
                // What was said of identities meanwhile was missed too.
                repositories.verification.identities.doubt_all();
            }
            for gap in reconciled.closed {
                tracing::info!(gap = gap.id, resolution = gap.resolution, "closed a gap");
            }
        }
        // That the database takes nothing is told by those who write events to it.
        Err(error) => tracing::debug!(%error, "cannot look for gaps"),
    }
}

/// Tells the actor of the end of a turn, whatever end it comes to.
struct Told(ActorRef<RepositoriesMessage>);

impl Drop for Told {
    fn drop(&mut self) {
        // Where nobody is there, the turns have gone with it.
        let _unheard = self.0.cast(RepositoriesMessage::Reap);
    }
}

/// When to try again what was tried so often in vain, and not before `asked_for`.
fn retry_at(attempts: u32, asked_for: Option<Duration>) -> Timestamp {
    let doubled = RETRY_MIN
        .saturating_mul(1 << attempts.min(20))
        .min(RETRY_MAX);
    let jittered = doubled.mul_f64(1.0 + RETRY_JITTER * fastrand::f64());
    let delay = jittered.max(asked_for.unwrap_or_default());
    SignedDuration::try_from(delay)
        .ok()
        .and_then(|delay| Timestamp::now().checked_add(delay).ok())
        .unwrap_or(Timestamp::MAX)
}
