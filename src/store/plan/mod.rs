//! Decides what a transaction writes. The input is what the tables hold and a task. The output is
//! the rows to write and to delete. Nothing here knows a database.
//!
//! A transaction has three steps. It reads what [`Needs`] names, [`plan`] decides, and the
//! [`ChangeSet`] is written. The only writer holds the write lock throughout, so what was read
//! stays true.

mod account;
mod batch;
mod chain;
mod change_set;
mod dead_letters;
mod draft;
pub mod effect;
mod gaps;
pub mod index_task;
mod parked;
mod records;
mod repository;
mod resync_cause;
mod task;
mod view;

#[cfg(test)]
mod tests;

use jiff::{SignedDuration, Timestamp};

pub use self::account::{AccountRow, AsOf};
pub use self::change_set::{ChangeSet, Written};
pub use self::dead_letters::Fingerprint;
pub use self::gaps::GapRow;
pub use self::parked::{ParkedNeeds, ParkedView};
pub use self::records::RecordWrite;
pub(crate) use self::repository::REST;
pub use self::repository::{Contents, RepoEvent, RepoRow, RepoState, transition};
pub use self::resync_cause::ResyncCause;
pub use self::task::{
    DiscoveryPage, DueHandle, HandleAnswer, HostStatus, ParkedCommit, RepoChange, Resync,
    ResyncFailure, SnapshotPart, Task, UnconfirmedStatus,
};
pub use self::view::{HeldRecord, Needs, View};

use self::account::Confirmed;
use self::batch::{Batch, Origin};
use self::draft::Draft;
use self::view::confirmed_uris;
use crate::atproto::syntax::Did;
use crate::model::SourceId;
use crate::store::datetime::sortable;
use crate::store::plan::effect::Effect;

/// The shortest time before the host of an inactive account that commits is asked for its status
/// again.
const STATUS_QUESTION_SPACING: SignedDuration = SignedDuration::from_mins(1);
/// How long after it refused a repository a host is asked about the account. It is longer than a
/// short overload, in which hosts give wrong answers.
const SUSPICION_DELAY: SignedDuration = SignedDuration::from_secs(30);
/// How long after an event a handle is taken from its document, so that many events in a short time
/// are one look-up.
const HANDLE_DELAY: SignedDuration = SignedDuration::from_secs(2);

/// Decides what `task` writes, given the tables as `view` shows them.
///
/// # Errors
/// Returns the keys of parked frames that have to be read first, where the task parks commits and
/// `view.parked` is `None`.
pub fn plan<'a>(
    view: &'a View,
    task: &Task<'a>,
    now: Timestamp,
) -> Result<ChangeSet<'a>, ParkedNeeds> {
    let mut draft = Draft::new(view, now);
    let mut changes = ChangeSet::default();
    let batch = |source: &'a SourceId, effects: &'a [Effect], origin| Batch {
        source,
        effects,
        origin,
        ask_at: after(now, STATUS_QUESTION_SPACING),
        handle_due_at: after(now, HANDLE_DELAY),
    };
    match *task {
        Task::Batch { source, effects } => {
            batch(source, effects, Origin::Stream).plan(&mut draft, &mut changes)?;
        }
        Task::Change(RepoChange::Replayed { parked, effects }) => {
            batch(&parked.source, effects, Origin::Replay).plan(&mut draft, &mut changes)?;
            if changes.written.parked == 0 {
                finish_replay(&mut draft, &mut changes, parked);
            }
        }
        Task::Change(RepoChange::Snapshot(part)) => {
            changes.confirmed = confirmed_uris(part)
                .filter(|uri| {
                    let held = view.records.get(uri);
                    held.is_some_and(|held| !held.is_chain_verified)
                })
                .collect();
            batch(part.source, part.effects, Origin::Snapshot).plan(&mut draft, &mut changes)?;
        }
        Task::Change(RepoChange::Repo { did, event }) => {
            change_repo(&mut draft, &mut changes, did, event);
        }
        Task::Change(RepoChange::HostRefused { did, status }) => {
            let account = draft.account_mut(did.as_str());
            account.suspect(status, &after(now, SUSPICION_DELAY));
        }
        Task::Change(RepoChange::Override {
            did,
            is_shown,
            is_fetched,
        }) => override_hold(&mut draft, did, is_shown, is_fetched),
        Task::Change(RepoChange::HandleAnswered { due, answer }) => {
            let did = due.did.as_str();
            if draft.account(did).is_some() {
                let account = draft.account_mut(did);
                account.take_handle_of_document(due, answer);
            }
        }
        Task::Change(RepoChange::HostAnswered {
            unconfirmed,
            answer,
        }) => {
            apply_host_status(&mut draft, unconfirmed, answer);
        }
        Task::Change(RepoChange::Discovered(page)) => {
            for did in page.dids {
                match draft.repo_mut(did.as_str()) {
                    Some(repo) => repo.discover(),
                    None => draft.set_repo(
                        did.as_str(),
                        Some(RepoRow::to_be_fetched(ResyncCause::Backfill)),
                    ),
                }
            }
            changes.page = Some(page);
        }
    }
    draft.conclude(&mut changes);
    Ok(changes)
}

/// The text of the time that is `delay` after `now`.
fn after(now: Timestamp, delay: SignedDuration) -> String {
    sortable(now.saturating_add(delay).unwrap_or(Timestamp::MAX))
}

/// A parked frame was applied, or was stale.
fn finish_replay<'a>(draft: &mut Draft<'a>, changes: &mut ChangeSet<'a>, parked: &'a ParkedCommit) {
    let did = parked.did.as_str();
    changes.replayed = Some(parked.id);
    let is_of_repo = |record: &RecordWrite<'_>| record.version().did == parked.did;
    let contents = Contents {
        has_records: draft.view.contents.has_records || changes.records.values().any(is_of_repo),
        ..draft.view.contents
    };
    if let Some(repo) = draft.repo(did).cloned() {
        draft.set_repo(did, repo.after_replay(contents));
    }
}

fn change_repo<'a>(
    draft: &mut Draft<'a>,
    changes: &mut ChangeSet<'a>,
    did: &'a Did,
    event: RepoEvent<'a>,
) {
    let did = did.as_str();
    match event {
        RepoEvent::EndResync(resync) => changes.resync = Some(resync),
        RepoEvent::Untrack => {
            changes.unparked_repos.insert(did);
        }
        RepoEvent::Suspend { .. } => {
            // The account may be active again since the job read it.
            if draft.account(did).is_none_or(|account| account.is_active) {
                return;
            }
            // A status that arrived while the repository was not tracked was never confirmed, so
            // the host is asked now.
            draft.account_mut(did).ask_again();
        }
        _ => {}
    }
    let next = transition(draft.repo(did), event, draft.view.contents);
    draft.set_repo(did, next);
}

/// Shows an account that the source holds, or ends that.
fn override_hold<'a>(draft: &mut Draft<'a>, did: &'a Did, is_shown: bool, is_fetched: bool) {
    let did = did.as_str();
    let account = draft.account_mut(did);
    if !is_shown {
        account.end_override();
        return;
    }
    let was_hidden = account.override_hold();
    if was_hidden
        && is_fetched
        && let Some(repo) = draft.repo_mut(did)
    {
        repo.resume_account();
    }
}

/// Applies the answer to a question about a status. A deletion removes what the account had at the
/// time of the event, and keeps what it made later.
fn apply_host_status<'a>(
    draft: &mut Draft<'a>,
    unconfirmed: &'a UnconfirmedStatus,
    answer: &HostStatus,
) {
    let did = unconfirmed.did.as_str();
    if draft.account(did).is_none() {
        return;
    }
    let account = draft.account_mut(did);
    match account.apply_answer(unconfirmed, answer) {
        Some(Confirmed::Deleted) => {
            let removed_at = removal_time(draft, unconfirmed);
            draft.remove(did, &removed_at);
        }
        Some(Confirmed::Returned) => {
            if let Some(repo) = draft.repo_mut(did) {
                repo.resume_account();
            }
        }
        Some(Confirmed::Unchanged) | None => {}
    }
}

/// The time up to which a deleted account is removed: that of the event that said so. If only its
/// host said so, that of its last known commit.
fn removal_time(draft: &Draft<'_>, unconfirmed: &UnconfirmedStatus) -> String {
    let repo = draft.repo(unconfirmed.did.as_str());
    let last_known = repo
        .and_then(|repo| repo.time.clone())
        .filter(|_| unconfirmed.is_suspected);
    let as_of = unconfirmed.as_of.clone();
    let times = as_of.into_iter().chain(last_known);
    times
        .max()
        .unwrap_or_else(|| sortable(Timestamp::UNIX_EPOCH))
}
