//! The HandlesActor: verifies the handles of accounts of which records are kept, a few at a time.
//!
//! A handle is its account's if the account's document declares it, and DNS or the handle's host name
//! the account. It is checked again after a day, or earlier where it was not verified, and at once when
//! another one is told. Its progress is in the tables.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::actor::{ActorContext, Arguments};
use crate::identity::{HandleResolver, Identities, Resolution};
use crate::model::HandleStatus;
use crate::store::StoreError;
use crate::store::handle_store::{HandleCheck, HandleStore, UncheckedHandle};
use crate::store::repo_store::RepoChange;
use crate::testing::fault::Point;

/// Handles that are checked at the same time.
const AT_ONCE: usize = 4;
/// The pause before the next ones.
const PAUSE: Duration = Duration::from_secs(1);
/// The pause after all accounts were looked at, and after the database failed.
const REST: Duration = Duration::from_secs(5);

/// When a handle is checked again.
const AFTER_VERIFIED: Duration = Duration::from_secs(24 * 3600);
const AFTER_INVALID: Duration = Duration::from_secs(6 * 3600);
const AFTER_UNKNOWN: Duration = Duration::from_secs(15 * 60);
/// So that accounts that were found together are not checked together for ever.
const JITTER: f64 = 0.2;

/// Verifies handles; see the module.
pub struct HandlesActor;

/// What verifying a handle takes.
pub struct HandleVerifier {
    pub store: Arc<dyn HandleStore>,
    pub identities: Identities,
    pub resolver: HandleResolver,
}

/// Check the next handles.
#[derive(Debug)]
pub struct CheckNext;

pub struct HandlesState {
    context: ActorContext<HandleVerifier>,
    /// The DID up to which accounts were looked at.
    after: String,
}

/// Why a step failed.
enum StepError {
    Store(StoreError),
    /// By the plan of a test.
    Injected(ActorProcessingErr),
}

impl From<StoreError> for StepError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Actor for HandlesActor {
    type Msg = CheckNext;
    type State = HandlesState;
    type Arguments = Arguments<HandleVerifier>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let context =
            ActorContext::start(arguments, myself.get_cell(), Point::HandlesStart).await?;
        myself.cast(CheckNext)?;
        Ok(HandlesState {
            context,
            after: String::new(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        CheckNext: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let _busy = state.context.begin(Point::HandlesStep).await?;
        let wait = match state.step().await {
            Ok(wait) => wait,
            Err(StepError::Injected(error)) => return Err(error),
            Err(StepError::Store(error)) => {
                tracing::warn!(
                    %error,
                    retry_in_s = REST.as_secs(),
                    "the database failed; handles stay as they are, and are checked again"
                );
                REST
            }
        };
        myself.send_after(wait, || CheckNext);
        Ok(())
    }
}

impl HandlesState {
    /// Checks the next handles that are due. Returns the pause after it.
    async fn step(&mut self) -> Result<Duration, StepError> {
        let store = &self.context.store;
        let page = store.unchecked_handles(&self.after, Timestamp::now(), AT_ONCE);
        let page = page.await?;
        let checks = page.accounts.iter().map(|due| self.context.check(due));
        let checks = join_all(checks).await;
        self.pass(Point::HandlesChecked).await?;
        for check in checks {
            store.change(RepoChange::HandleChecked(&check)).await?;
            self.pass(Point::HandlesNoted).await?;
        }
        let is_over = page.through.is_none();
        self.after = page.through.unwrap_or_default();
        Ok(match is_over {
            true => REST,
            false => PAUSE,
        })
    }

    async fn pass(&self, point: Point) -> Result<(), StepError> {
        self.context.pass(point).await.map_err(StepError::Injected)
    }
}

impl HandleVerifier {
    async fn check(&self, due: &UncheckedHandle) -> HandleCheck {
        let claimed = match self.identities.in_background().get(&due.did).await {
            Ok(identity) => Some(identity.handle.clone()),
            Err(error) if error.is_unknown() => None,
            Err(_) => Some(None),
        };
        let status = match &claimed {
            None => HandleStatus::Unknown,
            Some(None) => HandleStatus::Invalid,
            Some(Some(handle)) => match self.resolver.resolve(handle).await {
                Resolution::Did(did) if did == due.did => HandleStatus::Verified,
                Resolution::Did(_) | Resolution::Nothing => HandleStatus::Invalid,
                Resolution::Unknown => HandleStatus::Unknown,
            },
        };
        let now = Timestamp::now();
        HandleCheck {
            did: due.did.clone(),
            known: due.handle.clone(),
            claimed: claimed.flatten(),
            status,
            checked_at: now,
            check_at: now
                .saturating_add(jittered(after(status)))
                .unwrap_or(Timestamp::MAX),
        }
    }
}

fn after(status: HandleStatus) -> Duration {
    match status {
        HandleStatus::Invalid => AFTER_INVALID,
        HandleStatus::Unknown => AFTER_UNKNOWN,
        HandleStatus::Verified => AFTER_VERIFIED,
    }
}

fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(1.0 - JITTER * fastrand::f64())
}
