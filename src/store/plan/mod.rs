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
mod discovery;
mod draft;
pub mod effect;
mod gaps;
pub mod index_task;
mod interest_change;
mod interest_set;
mod lost_stretch;
mod order;
mod parked;
mod records;
mod rejudge;
mod repository;
mod resync_cause;
mod retry;
mod search;
mod task;
mod view;

#[cfg(test)]
mod tests;

use jiff::{SignedDuration, Timestamp};

pub use self::account::AccountRow;
pub use self::change_set::{ChangeSet, Removal, ToldAgain, Written};
pub use self::dead_letters::Fingerprint;
pub use self::discovery::DiscoveryRow;
pub use self::gaps::GapRow;
pub use self::interest_change::{InterestChange, InterestStep, unkept_since};
pub use self::interest_set::InterestSet;
pub use self::lost_stretch::{BreakChanges, ChainBreak, LostStretch, OpenGap};
pub use self::order::{AsOf, Moment};
pub use self::parked::{Parked, ParkedNeeds, ParkedView};
pub use self::records::{RecordRow, RecordWrite};
pub use self::rejudge::{Rejudged, RejudgedRecord};
pub(crate) use self::repository::REST;
pub use self::repository::{Contents, RepoEvent, RepoRow, RepoState, WaitsFor, transition};
pub use self::resync_cause::ResyncCause;
pub use self::retry::{KeptSince, Retried, Retry};
pub use self::search::Search;
pub use self::task::{
    DiscoveryPage, DueHandle, HandleAnswer, HandleCheck, HostStatus, ParkedCommit, Replay,
    RepoChange, Resync, ResyncFailure, SnapshotPart, Task, UnconfirmedStatus,
};
pub use self::view::{HeldRecord, Needs, View};

use self::account::Confirmed;
use self::batch::{Batch, Origin};
use self::draft::Draft;
use self::order::Order;
use self::view::confirmed_uris;
use crate::atproto::syntax::Did;
use crate::atproto::verify::Level;
use crate::model::{GapCause, SourceId};
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

/// How long an account that was announced as active has to show by its first commit that it is new,
/// before its repository is fetched.
const TIME_TO_BEGIN: SignedDuration = SignedDuration::from_secs(10);

/// Decides what `task` writes, given the tables as `view` shows them.
///
/// # Errors
/// Returns the keys of parked frames that have to be read first, where the task parks commits and
/// `view.parked` is not set.
pub fn plan<'a>(
    view: &'a View,
    task: &Task<'a>,
    moment: Moment,
) -> Result<ChangeSet<'a>, ParkedNeeds> {
    let mut draft = Draft::new(view, moment.now);
    let mut changes = ChangeSet::default();
    let batch = |source: &'a SourceId, effects: &'a [Effect], origin, through| Batch {
        source,
        effects,
        origin,
        order: Order {
            source: Some(source),
            cursor: view.cursor,
            through,
            is_restarted: effects.iter().any(begins_sequence),
            moment,
        },
        ask_at: after(moment.now, STATUS_QUESTION_SPACING),
        fetch_announced_at: after(moment.now, TIME_TO_BEGIN),
        handle_due_at: after(moment.now, HANDLE_DELAY),
        now: moment.now,
    };
    match *task {
        Task::Batch {
            source,
            effects,
            through,
        } => {
            batch(source, effects, Origin::Stream, through).plan(&mut draft, &mut changes)?;
        }
        Task::Change(RepoChange::Replayed(replay)) => {
            let batch = batch(replay.source(), replay.effects(), Origin::Replay, None);
            let stuck = batch.plan(&mut draft, &mut changes)?;
            finish_replay(&mut draft, &mut changes, replay, stuck);
        }
        Task::Change(RepoChange::Snapshot(part)) => {
            changes.confirmed = confirmed_uris(part)
                .filter(|uri| {
                    let held = view.records.get(uri);
                    held.is_some_and(|held| held.verified != Some(Level::Chain))
                })
                .collect();
            batch(part.source, part.effects, Origin::Snapshot, None)
                .plan(&mut draft, &mut changes)?;
        }
        Task::Change(RepoChange::Rejudged(part)) => rejudge::plan(view, part, &mut changes),
        Task::Change(RepoChange::Reread { source, effects }) => {
            let batch = batch(source, effects, Origin::Reread, None);
            batch.plan(&mut draft, &mut changes)?;
        }
        Task::Change(RepoChange::Retried(retry)) => {
            match retry.outcome {
                Retried::Fetched { did } => retry::fetch(&mut draft, did.as_str()),
                Retried::Frame { source, effects } => {
                    let batch = batch(source, effects, Origin::RetriedFrame, None);
                    batch.plan(&mut draft, &mut changes)?;
                }
                Retried::Record {
                    kept: Some(kept), ..
                } if view.was_fetched_since => {
                    retry::fetch(&mut draft, kept.did.as_str());
                    changes.written.fetched_instead = true;
                    changes.written.leaves_work = true;
                }
                Retried::Record {
                    source, effects, ..
                } => {
                    let batch = batch(source, effects, Origin::RetriedRecord, None);
                    batch.plan(&mut draft, &mut changes)?;
                }
                Retried::ToldAccount { did } => {
                    retry::tell(view, ToldAgain::Account(did.as_str()), &mut changes);
                }
                Retried::ToldRecord { uri } => {
                    retry::tell(view, ToldAgain::Record(uri), &mut changes);
                }
            }
            changes.resolved_letters.push(retry.letter);
        }
        Task::Change(RepoChange::RemovalEnded { did, removal }) => {
            changes.ended_removal = Some(removal);
            if let Some(repo) = draft.repo(did).cloned() {
                draft.set_repo(did, repo.unless_empty(view.contents.has_records));
            }
        }
        Task::Change(RepoChange::Repo { did, event }) => {
            change_repo(&mut draft, &mut changes, did, event);
        }
        Task::Change(RepoChange::HostRefused { did, status }) => {
            let account = draft.account_mut(did.as_str());
            account.suspect(status, &after(moment.now, SUSPICION_DELAY));
        }
        Task::Change(RepoChange::Override {
            did,
            is_shown,
            is_fetched,
        }) => override_hold(&mut draft, did, is_shown, is_fetched),
        Task::Change(RepoChange::HandleChecked(check)) => {
            // Of an account that is not kept any more, nothing is remembered.
            if draft.repo(check.did.as_str()).is_some() {
                draft.account_mut(check.did.as_str()).take_check(check);
            }
        }
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
            let row = view.discovery.as_ref().and_then(|row| row.after(page));
            changes.discovery = row.map(|row| (page.search.as_str(), row));
        }
    }
    changes.last_change = view.last_change;
    changes.entering = draft.entering(&changes);
    draft.conclude(&mut changes);
    Ok(changes)
}

/// Whether the seqs of the source began again there.
fn begins_sequence(effect: &Effect) -> bool {
    matches!(effect, Effect::Gap(gap) if gap.cause == GapCause::SequenceReset)
}

/// The text of the time that is `delay` after `now`.
fn after(now: Timestamp, delay: SignedDuration) -> String {
    sortable(now.saturating_add(delay).unwrap_or(Timestamp::MAX))
}

/// The frames before the one with the effect `stuck` were applied, or were stale. It and those behind
/// it stay parked.
fn finish_replay<'a>(
    draft: &mut Draft<'a>,
    changes: &mut ChangeSet<'a>,
    replay: Replay<'a>,
    stuck: Option<usize>,
) {
    let count = stuck.map_or(replay.count(), |effect| replay.frame_of(effect));
    changes.replayed = replay.ids(count).collect();
    changes.written.replayed = count as u64;
    if stuck.is_some() {
        return;
    }
    let did = replay.did().as_str();
    let is_of_repo = |row: &RecordRow<'_>| row.write.version().did.as_str() == did;
    let contents = Contents {
        has_records: draft.view.contents.has_records || changes.records.values().any(is_of_repo),
        ..draft.view.contents
    };
    changes.written.ends_replay = !contents.has_parked;
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
        RepoEvent::EndResync(resync) => {
            let is_current = |repo: &RepoRow| repo.state == RepoState::Resyncing;
            let is_whole = resync.outcome.is_ok() && draft.repo(did).is_some_and(is_current);
            if is_whole && draft.view.has_stale_records {
                changes.refreshed_repo = Some(did);
            }
            changes.resync = Some(resync);
        }
        RepoEvent::Untrack => {
            changes.unparked_repos.insert(did);
        }
        RepoEvent::Suspend { .. } => {
            // The account may be active again since the job read it.
            if draft.account(did).is_none_or(|account| account.is_active) {
                return;
            }
            // A status that arrived while the repository was not tracked was never confirmed, and its
            // end may have been missed in a gap, so the host or the source is asked now.
            draft.account_mut(did).ask_again();
            // It is fetched when the account is active again, which brings the same.
            if draft.repo(did).is_some_and(|repo| repo.has_parked) {
                changes.unparked_repos.insert(did);
            }
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

/// Applies the answer to a question about a status. A deletion removes all that was received until
/// then, whatever times it names. If the account comes back, its repository is fetched.
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
        Some(Confirmed::Deleted) => draft.remove_everything(did),
        Some(Confirmed::Returned) => {
            if let Some(repo) = draft.repo_mut(did) {
                repo.resume_account();
            }
        }
        Some(Confirmed::Unchanged) | None => {}
    }
}
