//! Writes a change set. All decisions are made before, in [`crate::store::plan`].

use std::sync::LazyLock;

use super::multi_row::MultiRow;
use super::script::{Script, Value, json_array};
use super::{projections, records};
use crate::model::{DeadLetter, Resynced, SourceId};
use crate::store::datetime::sortable;
use crate::store::plan::effect::ChainUpdate;
use crate::store::plan::{
    AccountRow, AsOf, ChangeSet, DiscoveryPage, Fingerprint, GapRow, RepoRow, Resync, ResyncCause,
};
use crate::telemetry::excerpt::excerpt;

static ACCOUNTS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "INSERT INTO accounts",
        &[
            "did",
            "handle",
            "handle_as_of",
            "handle_as_of_seq",
            "active",
            "status",
            "as_of",
            "as_of_seq",
            "removed_at",
            "held_status",
            "is_overridden",
            "is_unconfirmed",
            "suspected_status",
            "retry_at",
            "attempts",
            "handle_due_at",
            "updated_at",
        ],
        "ON CONFLICT (did) DO UPDATE SET handle = excluded.handle, \
         handle_as_of = excluded.handle_as_of, handle_as_of_seq = excluded.handle_as_of_seq, \
         active = excluded.active, status = excluded.status, as_of = excluded.as_of, \
         as_of_seq = excluded.as_of_seq, removed_at = excluded.removed_at, \
         held_status = excluded.held_status, is_overridden = excluded.is_overridden, \
         is_unconfirmed = excluded.is_unconfirmed, \
         suspected_status = excluded.suspected_status, retry_at = excluded.retry_at, \
         attempts = excluded.attempts, handle_due_at = excluded.handle_due_at, \
         updated_at = excluded.updated_at",
    )
});

static REPOS: LazyLock<MultiRow> = LazyLock::new(|| {
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
            "has_parked",
            "recheck_cause",
            "retry_at",
            "attempts",
            "updated_at",
        ],
        "ON CONFLICT (did) DO UPDATE SET rev = excluded.rev, data = excluded.data, \
         seq = excluded.seq, source = excluded.source, time = excluded.time, \
         state = excluded.state, cause = excluded.cause, is_whole = excluded.is_whole, \
         has_parked = excluded.has_parked, recheck_cause = excluded.recheck_cause, \
         retry_at = excluded.retry_at, attempts = excluded.attempts, \
         updated_at = excluded.updated_at",
    )
});

/// The ids rise in the order of the rows.
static PARKED: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "INSERT INTO parked_commits",
        &["did", "source", "seq", "bytes", "frame", "created_at"],
        "",
    )
});

static DEAD_LETTERS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "INSERT INTO dead_letters",
        &[
            "fingerprint",
            "source",
            "seq",
            "did",
            "uri",
            "stage",
            "error",
            "task",
            "raw",
            "attempts",
            "created_at",
        ],
        "",
    )
});

/// Deletes the data of accounts. The arguments are a JSON array of DIDs, and the times up to which
/// they were removed. A projection is deleted with its record.
const REMOVE: [&str; 5] = [
    "DELETE FROM records WHERE did IN (SELECT value FROM json_each(?)) \
     AND time <= (SELECT removed_at FROM accounts WHERE accounts.did = records.did)",
    "DELETE FROM parked_commits WHERE did IN (SELECT value FROM json_each(?))",
    "DELETE FROM offers_index WHERE did IN (SELECT value FROM json_each(?)) \
     AND NOT EXISTS (SELECT 1 FROM records WHERE records.uri = offers_index.uri)",
    "DELETE FROM booking_requests WHERE did IN (SELECT value FROM json_each(?)) \
     AND NOT EXISTS (SELECT 1 FROM records WHERE records.uri = booking_requests.uri)",
    "DELETE FROM bookings WHERE did IN (SELECT value FROM json_each(?)) \
     AND NOT EXISTS (SELECT 1 FROM records WHERE records.uri = bookings.uri)",
];

/// Appends the statements that write `changes`.
pub(super) fn push(script: &mut Script, changes: &ChangeSet<'_>, now: &str) {
    let ChangeSet {
        source,
        accounts,
        removals,
        confirmed,
        records,
        repos,
        untracked,
        replayed,
        unparked_repos,
        parked,
        gaps,
        dead_letters,
        resync,
        page,
        written: _,
    } = changes;
    let source = source.map_or("", SourceId::as_str);
    let accounts: Vec<(&&str, &AccountRow)> = accounts.iter().collect();
    script.push_rows(&ACCOUNTS, &accounts, |(did, account), values| {
        push_account(values, did, account, now);
    });
    if !removals.is_empty() {
        let dids = json_array(removals.keys().copied());
        for statement in REMOVE {
            script.push(statement, [dids.clone()]);
        }
    }
    if !confirmed.is_empty() {
        let uris = json_array(confirmed.iter().map(String::as_str));
        let statement = "UPDATE records SET verified = 'chain' \
                         WHERE uri IN (SELECT value FROM json_each(?))";
        script.push(statement, [uris]);
    }
    records::push(script, source, records, now);
    projections::push(script, records, now);
    let repos: Vec<(&&str, &RepoRow)> = repos.iter().collect();
    script.push_rows(&REPOS, &repos, |(did, repo), values| {
        push_repo(values, did, repo, now);
    });
    push_deletion(
        script,
        "DELETE FROM repos WHERE did IN (SELECT value FROM json_each(?))",
        untracked.iter().copied(),
    );
    if let Some(id) = *replayed {
        script.push("DELETE FROM parked_commits WHERE id = ?", [id.into()]);
    }
    push_deletion(
        script,
        "DELETE FROM parked_commits WHERE did IN (SELECT value FROM json_each(?))",
        unparked_repos.iter().copied(),
    );
    script.push_rows(&PARKED, parked, |update, values| {
        push_parked(values, source, update, now);
    });
    for gap in gaps {
        push_gap(script, source, gap, now);
    }
    script.push_rows(&DEAD_LETTERS, dead_letters, |letter, values| {
        push_dead_letter(values, source, letter, now);
    });
    if let Some(resync) = resync {
        push_resync(script, resync, now);
    }
    if let Some(page) = page {
        push_page(script, page, now);
    }
}

/// Appends `statement`, which deletes the rows of a list of DIDs, if there are any.
fn push_deletion<'a>(
    script: &mut Script,
    statement: &'static str,
    dids: impl Iterator<Item = &'a str>,
) {
    let mut dids = dids.peekable();
    if dids.peek().is_some() {
        script.push(statement, [json_array(dids)]);
    }
}

fn push_account(values: &mut Vec<Value>, did: &str, account: &AccountRow, now: &str) {
    values.push(did.into());
    values.push(account.handle.as_deref().into());
    push_as_of(values, account.handle_as_of.as_ref());
    values.push(account.is_active.into());
    values.push(account.status.as_deref().into());
    push_as_of(values, account.as_of.as_ref());
    values.push(account.removed_at.as_deref().into());
    values.push(account.held_status.as_deref().into());
    values.push(account.is_overridden.into());
    values.push(account.is_unconfirmed.into());
    values.push(account.suspected_status.as_deref().into());
    values.push(account.retry_at.as_deref().into());
    values.push(account.attempts.into());
    values.push(account.handle_due_at.as_deref().into());
    values.push(now.into());
}

fn push_as_of(values: &mut Vec<Value>, as_of: Option<&AsOf>) {
    values.push(as_of.map(|as_of| as_of.time.as_str()).into());
    values.push(as_of.map(|as_of| as_of.seq).into());
}

fn push_repo(values: &mut Vec<Value>, did: &str, repo: &RepoRow, now: &str) {
    values.extend([
        did.into(),
        repo.rev.as_deref().into(),
        repo.data.as_deref().into(),
        repo.seq.into(),
        repo.source.as_deref().into(),
        repo.time.as_deref().into(),
        repo.state.as_str().into(),
        repo.cause.map(ResyncCause::as_str).into(),
        repo.is_whole.into(),
        repo.has_parked.into(),
        repo.recheck_cause.into(),
        repo.retry_at.as_deref().into(),
        repo.attempts.into(),
        now.into(),
    ]);
}

fn push_parked(values: &mut Vec<Value>, source: &str, update: &ChainUpdate, now: &str) {
    values.extend([
        update.did.as_str().into(),
        source.into(),
        update.seq.into(),
        (update.frame.len() as u64).into(),
        update.frame.as_ref().into(),
        now.into(),
    ]);
}

/// The characters of an error text in a row. Some errors quote what a stranger sent.
pub(super) const ERROR_CHARS: usize = 1000;

fn push_dead_letter(
    values: &mut Vec<Value>,
    source: &str,
    (fingerprint, letter): &(Fingerprint, &DeadLetter),
    now: &str,
) {
    values.extend([
        fingerprint.as_slice().into(),
        source.into(),
        letter.seq.into(),
        letter.did.as_deref().into(),
        letter.uri.as_deref().into(),
        letter.stage.as_str().into(),
        excerpt(&letter.error, ERROR_CHARS).into(),
        letter.task.as_deref().into(),
        letter.raw.as_ref().into(),
        letter.attempts.into(),
        now.into(),
    ]);
}

fn push_gap(script: &mut Script, source: &str, gap: &GapRow, now: &str) {
    let to_seq = gap.to_seq.into();
    let to_time = gap.to_time.as_deref().into();
    if let Some(id) = gap.id {
        let statement = "UPDATE gaps SET to_seq = ?, to_time = ? WHERE id = ?";
        script.push(statement, [to_seq, to_time, id.into()]);
        return;
    }
    let statement = "INSERT INTO gaps (source, cause, from_seq, from_time, to_seq, to_time, opened_at) \
                     VALUES (?, ?, ?, ?, ?, ?, ?)";
    script.push(
        statement,
        [
            source.into(),
            gap.cause.as_str().into(),
            gap.from_seq.into(),
            gap.from_time.as_deref().into(),
            to_seq,
            to_time,
            now.into(),
        ],
    );
}

fn push_resync(script: &mut Script, resync: &Resync, now: &str) {
    let done = resync.outcome.as_ref().ok();
    let error = resync.outcome.as_ref().err();
    let count = |count: fn(&Resynced) -> u64| Value::from(done.map(count).unwrap_or_default());
    script.push(
        "INSERT INTO resyncs (did, cause, host, started_at, ended_at, rev, created, updated, \
         deleted, unchanged, bytes, error) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            resync.did.as_str().into(),
            resync.cause.as_str().into(),
            resync.host.as_deref().into(),
            sortable(resync.started_at).into(),
            now.into(),
            done.map(|done| done.rev.as_str()).into(),
            count(|done| done.created),
            count(|done| done.updated),
            count(|done| done.deleted),
            count(|done| done.unchanged),
            count(|done| done.bytes),
            error
                .map(|failure| excerpt(&failure.error, ERROR_CHARS))
                .into(),
        ],
    );
}

fn push_page(script: &mut Script, page: &DiscoveryPage<'_>, now: &str) {
    let ended_at = page.cursor.is_none().then_some(now);
    script.push(
        "UPDATE discoveries SET cursor = ?, repos = repos + ?, attempts = 0, error = NULL, \
         ended_at = ? WHERE collection = ?",
        [
            page.cursor.into(),
            (page.dids.len() as u64).into(),
            ended_at.into(),
            page.collection.as_str().into(),
        ],
    );
}
