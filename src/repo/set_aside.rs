//! Sets a job aside at which several runs ended, or that is never done in time.

use std::time::Duration;

use jiff::Timestamp;

use super::isolation::Offence;
use super::{Repositories, in_future};
use crate::atproto::syntax::Did;
use crate::model::{DeadLetter, Stage};
use crate::store::StoreError;
use crate::store::plan::effect::{Effect, Recheck, RecheckReason};
use crate::store::repo_store::{
    JobKey, JobKind, ParkedCommit, Replay, RepoChange, RepoEvent, Resync, ResyncCause,
    ResyncFailure, Search, WaitsFor,
};

/// How long a job is set aside. Then it is tried once more.
const SET_ASIDE_FOR: Duration = Duration::from_secs(24 * 3600);

/// Sets aside the job `key`. A parked commit becomes a dead letter, and what
/// is behind it is tried again. Anything else is not tried for a day.
pub(super) async fn set_aside(
    repositories: &Repositories,
    key: &JobKey,
    did: &Did,
    kind: Option<JobKind>,
    offence: Offence,
) -> Result<(), StoreError> {
    let store = &*repositories.store;
    if kind == Some(JobKind::Replay)
        && let Some(parked) = store.first_parked(did).await?
    {
        give_up(repositories, &parked, offence).await?;
        tracing::error!(
            %did,
            reason = %offence,
            bytes = parked.frame.len(),
            "a parked commit cannot be replayed; kept unread as a dead letter, its repository is compared with its host"
        );
        return Ok(());
    }
    let until = in_future(SET_ASIDE_FOR);
    if matches!(kind, Some(JobKind::Resync | JobKind::Backfill)) {
        refuse(repositories, did, offence, until).await?;
    }
    repositories.isolation.set_aside(store, key, until).await?;
    tracing::error!(
        %did,
        job = key.job,
        reason = %offence,
        %until,
        "a job is set aside; it is not tried before that time, and everything else goes on"
    );
    Ok(())
}

/// Sets aside a search at whose page several runs ended, or that is never stored in time. Nothing
/// waits for it meanwhile. Its position is kept.
pub(super) async fn set_aside_search(
    repositories: &Repositories,
    search: &Search,
    key: &JobKey,
    offence: Offence,
) -> Result<(), StoreError> {
    let store = &*repositories.store;
    let until = in_future(SET_ASIDE_FOR);
    store
        .note_failed_page(search, &offence.to_string(), true)
        .await?;
    repositories.isolation.set_aside(store, key, until).await?;
    tracing::error!(
        search = search.as_str(),
        reason = %offence,
        %until,
        "a search for repositories is set aside; its position is kept, it is not tried before that \
         time, and everything else goes on"
    );
    Ok(())
}

/// Keeps a parked commit unread.
async fn give_up(
    repositories: &Repositories,
    parked: &ParkedCommit,
    offence: Offence,
) -> Result<(), StoreError> {
    let (stage, attempts) = match offence {
        Offence::EndsRuns(runs) => (Stage::Poison, runs),
        Offence::IsLate(attempts) => (Stage::Index, attempts),
    };
    let letter = DeadLetter {
        stage,
        error: offence.to_string(),
        seq: None,
        did: Some(parked.did.to_string()),
        uri: None,
        task: None,
        raw: parked.frame.clone(),
        attempts,
    };
    let recheck = Recheck {
        did: parked.did.clone(),
        reason: RecheckReason::Refused { is_wanted: true },
    };
    let effects = [
        Effect::DeadLetter(Box::new(letter)),
        Effect::Recheck(recheck),
    ];
    let change = RepoChange::Replayed(Replay::of_one(parked, &effects));
    repositories.store.change(change).await?;
    repositories.note_dead_letters(&effects);
    Ok(())
}

/// Notes an attempt that failed, so that the operator finds it among the others.
async fn refuse(
    repositories: &Repositories,
    did: &Did,
    offence: Offence,
    until: Timestamp,
) -> Result<(), StoreError> {
    repositories.note(did, RepoEvent::BeginResync).await?;
    let resync = Resync {
        did: did.clone(),
        cause: ResyncCause::Refused,
        host: None,
        started_at: Timestamp::now(),
        outcome: Err(ResyncFailure {
            error: offence.to_string(),
            is_throttled: false,
            is_gone: false,
            waits_for: WaitsFor::Account,
            retry_at: until,
        }),
    };
    repositories.metrics.failed_resyncs(false).increment(1);
    repositories.note(did, RepoEvent::EndResync(&resync)).await
}
