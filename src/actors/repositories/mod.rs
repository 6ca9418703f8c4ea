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

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::{Id, JoinError, JoinSet};
use url::Url;

pub use self::host_lanes::HostLanes;
pub use self::turn::TurnLog;
use super::Context;
use crate::fault::Point;
use crate::hosts::Hosts;
use crate::protocol::syntax::{Did, Nsid};
use crate::store::repos::RepoStore;
use crate::supervision::address::Address;
use crate::supervision::progress::Progress;
use crate::verification::Verification;

/// So many repositories are seen to at once.
const TURNS: usize = 8;
/// How often it is looked for what has come due by time alone.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// How soon a repository is tried again; it doubles from there.
const RETRY_MIN: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(3600);
const RETRY_JITTER: f64 = 0.3;

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
    /// Nothing is due, and nobody is at work.
    pub is_settled: AtomicBool,
}

/// Where to look for repositories, and which.
#[derive(Clone, Debug)]
pub struct Backfill {
    /// Whether it is asked for.
    pub is_wanted: bool,
    pub directory: Url,
    pub collections: Vec<Nsid>,
}

/// See the module.
pub struct RepositoriesActor;

#[derive(Debug)]
pub enum RepositoriesMessage {
    /// There may be something to see to.
    Look,
    /// A turn has ended.
    Reap,
}

pub struct RepositoriesState {
    context: Arc<Context>,
    progress: Progress,
    turns: JoinSet<()>,
    /// Whose turn it is.
    in_hand: HashMap<Id, Did>,
}

impl Repositories {
    /// Says that a repository waits for somebody to see to it.
    pub(super) fn wake(&self) {
        self.is_settled.store(false, Ordering::Release);
        // Where nobody is there, the successor looks when it starts.
        let _unheard = self.address.cast(RepositoriesMessage::Look);
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
        myself.cast(RepositoriesMessage::Look)?;
        myself.send_interval(LOOK_INTERVAL, || RepositoriesMessage::Look);
        Ok(RepositoriesState {
            context,
            progress,
            turns: JoinSet::new(),
            in_hand: HashMap::new(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let _busy = state.progress.busy();
        let faults = state.context.faults.clone();
        faults
            .pass(Point::RepositoriesMessage, myself.get_cell())
            .await?;
        state.reap();
        if let RepositoriesMessage::Look = message {
            state.reconcile_gaps().await;
        }
        state.fill(&myself).await;
        Ok(())
    }
}

impl RepositoriesState {
    fn reap(&mut self) {
        while let Some(ended) = self.turns.try_join_next_with_id() {
            let id = ended.as_ref().map_or_else(JoinError::id, |(id, ())| *id);
            let did = self.in_hand.remove(&id);
            if let Err(error) = ended {
                // It is still in the tables, and comes again.
                tracing::error!(did = did.map(|did| did.to_string()), %error, "a turn broke off");
            }
        }
    }

    async fn reconcile_gaps(&self) {
        let Some(repositories) = &self.context.repositories else {
            return;
        };
        match repositories.store.reconcile_gaps().await {
            Ok(reconciled) => {
                if let Some(repos) = reconciled.doubted {
                    tracing::info!(repos, "comparing every tracked repository after a gap");
                    // What was said of identities meanwhile was missed too.
                    repositories.verification.identities.forget_all();
                }
                for gap in reconciled.closed {
                    tracing::info!(gap = gap.id, resolution = gap.resolution, "closed a gap");
                }
            }
            // That the database takes nothing is told by those who write events to it.
            Err(error) => tracing::debug!(%error, "cannot look for gaps"),
        }
    }

    /// Begins as many turns as there is room for.
    async fn fill(&mut self, myself: &ActorRef<RepositoriesMessage>) {
        let Some(repositories) = &self.context.repositories else {
            return;
        };
        let in_hand: HashSet<Did> = self.in_hand.values().cloned().collect();
        let now = Timestamp::now();
        // Those in hand are among them.
        let Ok(due) = repositories.store.unsettled(now, 2 * TURNS).await else {
            return;
        };
        let Ok(hearsay) = repositories.store.hearsay(now, TURNS).await else {
            return;
        };
        let is_settled = due.is_empty() && hearsay.is_empty() && in_hand.is_empty();
        repositories.is_settled.store(is_settled, Ordering::Release);
        for hearsay in hearsay {
            let did = hearsay.did.clone();
            self.begin(myself, &in_hand, did, |context| async move {
                hearsay::see_to(&context, &hearsay).await;
            });
        }
        for repo in due {
            let did = repo.did.clone();
            self.begin(myself, &in_hand, did, |context| async move {
                turn::see_to(&context, &repo).await;
            });
        }
    }

    fn begin<F>(
        &mut self,
        myself: &ActorRef<RepositoriesMessage>,
        in_hand: &HashSet<Did>,
        did: Did,
        turn: impl FnOnce(Arc<Context>) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        if self.turns.len() >= TURNS || in_hand.contains(&did) || self.has(&did) {
            return;
        }
        let (turn, myself) = (turn(self.context.clone()), myself.clone());
        let begun = self.turns.spawn(async move {
            let _told = Told(myself);
            turn.await;
        });
        self.in_hand.insert(begun.id(), did);
    }

    fn has(&self, did: &Did) -> bool {
        self.in_hand.values().any(|in_hand| in_hand == did)
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
