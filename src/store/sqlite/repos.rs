//! What is known of repositories, and the commits that wait.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::LazyLock;

use sqlx::sqlite::SqliteConnection;

use super::accounts::json_array;
use super::multi_row::MultiRow;
use super::{integer, waiting};
use crate::protocol::syntax::Did;
use crate::queue::effect::{ChainUpdate, Doubt, Predecessor, RecordVersion};
use crate::source::SourceId;
use crate::store::chain::{
    Head, RepoState, Verdict, is_known, is_very_first, judge, judge_behind_gap,
};
use crate::store::datetime::sortable;
use crate::store::fold::{RecordChange, Sorted, is_removed, newest_commits};

/// Has all of the repositories' columns that an event sets.
static HEADS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "INSERT INTO repos",
        &[
            "did",
            "rev",
            "data",
            "seq",
            "source",
            "time",
            "state",
            "cause",
            "is_whole",
            "has_waiting",
            "updated_at",
        ],
        "ON CONFLICT (did) DO UPDATE SET rev = excluded.rev, data = excluded.data, \
         seq = excluded.seq, source = excluded.source, time = excluded.time, \
         state = excluded.state, has_waiting = excluded.has_waiting, \
         cause = coalesce(excluded.cause, repos.cause), \
         is_whole = max(excluded.is_whole, repos.is_whole), \
         retry_at = iif(excluded.state = repos.state \
             AND excluded.has_waiting = repos.has_waiting, repos.retry_at, NULL), \
         updated_at = excluded.updated_at",
    )
});

static UNCHAINED: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "INSERT INTO repos",
        &[
            "did",
            "rev",
            "data",
            "seq",
            "source",
            "time",
            "state",
            "updated_at",
        ],
        "ON CONFLICT (did) DO UPDATE SET rev = excluded.rev, data = excluded.data, \
         seq = excluded.seq, source = excluded.source, time = excluded.time, \
         state = excluded.state, updated_at = excluded.updated_at \
         WHERE (repos.rev IS NULL OR excluded.rev > repos.rev) \
         AND repos.state IN ('synchronized', 'unchained')",
    )
});

/// What became of the steps of a batch.
#[derive(Debug, Default)]
pub(super) struct Judged {
    /// By their index.
    verdicts: Vec<Verdict>,
    /// The repositories that are now another way than they were.
    changed: BTreeMap<Did, Change>,
    /// Indexes of the steps that have to wait.
    waiting: Vec<usize>,
}

#[derive(Debug)]
struct Change {
    head: Head,
    /// Why it is desynchronized, where it has become so.
    cause: Option<&'static str>,
    /// The index of the step that it stands at, if it was one of the batch.
    stands_at: Option<usize>,
    /// The batch has its very first commit.
    is_whole: bool,
}

impl Judged {
    /// Whether the record changes of this step are to be written.
    pub(super) fn admits(&self, step: Option<usize>) -> bool {
        step.is_none_or(|step| self.verdicts.get(step) == Some(&Verdict::Follows))
    }

    /// Those of `steps` that tell something new.
    pub(super) fn believed_or_waiting<'a>(
        &self,
        steps: &[&'a ChainUpdate],
    ) -> impl Iterator<Item = &'a ChainUpdate> {
        let judged = steps.iter().zip(&self.verdicts);
        judged.filter_map(|(step, verdict)| (*verdict != Verdict::Stale).then_some(*step))
    }

    /// How many steps have to wait.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting.len() as u64
    }
}

/// Judges the steps of a batch, one after the other.
pub(super) async fn judge_steps(
    connection: &mut SqliteConnection,
    sorted: &Sorted<'_>,
    removed_at: &HashMap<String, String>,
    is_their_turn: bool,
) -> Result<Judged, sqlx::Error> {
    let mut judged = Judged::default();
    if sorted.steps.is_empty() {
        return Ok(judged);
    }
    let mut heads = heads(connection, &sorted.steps).await?;
    let is_of_known = |step: &&ChainUpdate| is_known(heads.get(step.did.as_str()));
    let are_known = sorted.steps.iter().all(is_of_known);
    let judge = match !are_known && is_behind_gap(connection).await? {
        true => judge_behind_gap,
        false => judge,
    };
    let with_records: BTreeSet<usize> = sorted
        .records
        .iter()
        .filter_map(|(_, step)| *step)
        .collect();
    for (index, step) in sorted.steps.iter().enumerate() {
        let head = heads.get(step.did.as_str());
        let is_gone = is_removed(&step.did, step.time, removed_at);
        // Of a repository that nobody tracks, only what is kept is of interest.
        let is_foreign = head.is_none()
            && !with_records.contains(&index)
            && step.predecessor != Predecessor::KeyUnavailable;
        let verdict = match is_gone || is_foreign {
            true => Verdict::Stale,
            false => judge(head, step, is_their_turn),
        };
        if let Some(head) = after(verdict, head, step) {
            if matches!(verdict, Verdict::Waits | Verdict::Breaks(_)) {
                judged.waiting.push(index);
            }
            let before = judged.changed.remove(&step.did);
            let (stood_at, cause, was_whole) = before.map_or((None, None, false), |before| {
                (before.stands_at, before.cause, before.is_whole)
            });
            let change = Change {
                head: head.clone(),
                cause: match verdict {
                    Verdict::Breaks(broken) => Some(broken.as_str()),
                    _ => cause,
                },
                stands_at: match verdict {
                    Verdict::Follows => Some(index),
                    _ => stood_at,
                },
                is_whole: was_whole || (verdict == Verdict::Follows && is_very_first(step)),
            };
            judged.changed.insert(step.did.clone(), change);
            heads.insert(step.did.to_string(), head);
        }
        judged.verdicts.push(verdict);
    }
    Ok(judged)
}

/// Whether something was ever missed amid what was followed. Where it began is for the operator to say.
async fn is_behind_gap(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM gaps WHERE cause <> 'started_live')")
        .fetch_one(connection)
        .await
}

/// The head once `step` was judged; `None` where it stays as it is.
fn after(verdict: Verdict, head: Option<&Head>, step: &ChainUpdate) -> Option<Head> {
    let unknown = || Head {
        state: RepoState::Unchained,
        commit: None,
        has_waiting: false,
    };
    let before = head.cloned().unwrap_or_else(unknown);
    match verdict {
        Verdict::Stale => None,
        Verdict::Follows => Some(Head {
            state: RepoState::Synchronized,
            commit: Some((step.rev.to_string(), step.data.to_string())),
            ..before
        }),
        Verdict::Waits => Some(Head {
            has_waiting: true,
            ..before
        }),
        Verdict::Breaks(_) => Some(Head {
            state: RepoState::Desynchronized,
            has_waiting: true,
            ..before
        }),
    }
}

async fn heads(
    connection: &mut SqliteConnection,
    steps: &[&ChainUpdate],
) -> Result<HashMap<String, Head>, sqlx::Error> {
    let dids: BTreeSet<&str> = steps.iter().map(|step| step.did.as_str()).collect();
    type Row = (String, Option<String>, Option<String>, String, bool);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT did, rev, data, state, has_waiting FROM repos \
         WHERE did IN (SELECT value FROM json_each(?))",
    )
    .bind(json_array(dids.into_iter()))
    .fetch_all(&mut *connection)
    .await?;
    let rows = rows
        .into_iter()
        .map(|(did, rev, data, state, has_waiting)| {
            let head = Head {
                // A word of a later version is nothing to build on.
                state: RepoState::parse(&state).unwrap_or(RepoState::Desynchronized),
                commit: rev.zip(data),
                has_waiting,
            };
            (did, head)
        });
    Ok(rows.collect())
}

/// Writes what the steps of a batch have come to, and has those wait that must.
pub(super) async fn write_steps(
    connection: &mut SqliteConnection,
    source: &SourceId,
    steps: &[&ChainUpdate],
    judged: &Judged,
    is_their_turn: bool,
    now: &str,
) -> Result<(), sqlx::Error> {
    let (stand, stay): (Vec<_>, Vec<_>) = judged
        .changed
        .iter()
        .partition(|(_, change)| change.stands_at.is_some());
    let stand: Vec<(&Did, &Change, &ChainUpdate)> = stand
        .into_iter()
        .filter_map(|(did, change)| Some((did, change, *steps.get(change.stands_at?)?)))
        .collect();
    for (statement, chunk) in HEADS.cut(&stand) {
        let mut query = sqlx::query(statement);
        for (did, change, step) in chunk {
            let (rev, data) = change.head.commit.clone().unzip();
            query = query
                .bind(did.as_str())
                .bind(rev)
                .bind(data)
                .bind(integer(step.seq))
                .bind(source.as_str())
                .bind(sortable(step.time))
                .bind(change.head.state.as_str())
                .bind(change.cause)
                .bind(change.is_whole)
                .bind(change.head.has_waiting)
                .bind(now);
        }
        query.execute(&mut *connection).await?;
    }
    for (did, change) in stay {
        sqlx::query(
            "INSERT INTO repos (did, state, cause, has_waiting, updated_at) \
             VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (did) DO UPDATE SET \
             retry_at = iif(state = ?2 AND has_waiting = ?4, retry_at, NULL), \
             state = ?2, cause = coalesce(?3, cause), has_waiting = ?4, updated_at = ?5",
        )
        .bind(did.as_str())
        .bind(change.head.state.as_str())
        .bind(change.cause)
        .bind(change.head.has_waiting)
        .bind(now)
        .execute(&mut *connection)
        .await?;
    }
    // What comes out of the queue is there already.
    if !is_their_turn {
        let steps = judged.waiting.iter().filter_map(|index| steps.get(*index));
        waiting::add(connection, source, steps.copied(), now).await?;
    }
    Ok(())
}

/// Has these repositories compared with what their hosts have, those that are tracked; and fetched,
/// those that are not and from which something is wanted. Returns whether there are any.
pub(super) async fn doubt(
    connection: &mut SqliteConnection,
    doubts: &[&Doubt],
    now: &str,
) -> Result<bool, sqlx::Error> {
    if doubts.is_empty() {
        return Ok(false);
    }
    let doubted = sqlx::query(
        "UPDATE repos SET doubted_by = coalesce(doubted_by, 0) \
         WHERE did IN (SELECT value FROM json_each(?)) AND state <> 'unchained'",
    )
    .bind(json_array(doubts.iter().map(|doubt| doubt.did.as_str())))
    .execute(&mut *connection)
    .await?;
    let wanted = doubts.iter().filter(|doubt| doubt.is_wanted);
    let found = sqlx::query(
        "INSERT INTO repos (did, state, cause, updated_at) \
         SELECT value, 'desynchronized', 'refused', ? FROM json_each(?) WHERE true \
         ON CONFLICT (did) DO UPDATE SET state = excluded.state, cause = excluded.cause \
         WHERE repos.state = 'unchained'",
    )
    .bind(now)
    .bind(json_array(wanted.map(|doubt| doubt.did.as_str())))
    .execute(&mut *connection)
    .await?;
    Ok(doubted.rows_affected() + found.rows_affected() > 0)
}

/// Notes the newest commit of each repository whose chain nobody follows.
pub(super) async fn write_unchained(
    connection: &mut SqliteConnection,
    source: &SourceId,
    changes: impl Iterator<Item = RecordChange<'_>>,
    now: &str,
) -> Result<(), sqlx::Error> {
    let commits: Vec<(&Did, &RecordVersion)> = newest_commits(changes).into_iter().collect();
    for (statement, chunk) in UNCHAINED.cut(&commits) {
        let mut query = sqlx::query(statement);
        for (did, version) in chunk {
            query = query
                .bind(did.as_str())
                .bind(version.rev.as_str())
                .bind(version.data.to_string())
                .bind(integer(version.seq))
                .bind(source.as_str())
                .bind(sortable(version.time))
                .bind(RepoState::Unchained.as_str())
                .bind(now);
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}
