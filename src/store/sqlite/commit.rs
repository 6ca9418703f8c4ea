//! Writes a change set. All decisions are made before, in [`crate::store::plan`].

use std::sync::LazyLock;

use super::feed::Numbers;
use super::multi_row::{Kind, MultiRow};
use super::script::{Script, Value, json_array};
use super::{feed, identities, parked, projections, records, removal};
use crate::model::{DeadLetter, Resynced, SourceId, error_group};
use crate::store::datetime::sortable;
use crate::store::plan::{
    AccountRow, AsOf, ChainBreak, ChangeSet, DiscoveryRow, Fingerprint, GapRow, RepoRow, Resync,
    ResyncCause,
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
            "as_of_source",
            "handle_as_of_source",
            "removed_seq",
            "removed_source",
            "handle_due_at",
            "updated_at",
            "hold_as_of",
            "hold_as_of_seq",
            "hold_as_of_source",
            "handle_status",
            "handle_checked_at",
            "handle_check_at",
            "change",
        ],
        "ON CONFLICT (did) DO UPDATE SET handle = excluded.handle, \
         handle_as_of = excluded.handle_as_of, handle_as_of_seq = excluded.handle_as_of_seq, \
         active = excluded.active, status = excluded.status, as_of = excluded.as_of, \
         as_of_seq = excluded.as_of_seq, removed_at = excluded.removed_at, \
         held_status = excluded.held_status, is_overridden = excluded.is_overridden, \
         is_unconfirmed = excluded.is_unconfirmed, \
         suspected_status = excluded.suspected_status, retry_at = excluded.retry_at, \
         attempts = excluded.attempts, handle_due_at = excluded.handle_due_at, \
         updated_at = excluded.updated_at, as_of_source = excluded.as_of_source, \
         handle_as_of_source = excluded.handle_as_of_source, \
         removed_seq = excluded.removed_seq, removed_source = excluded.removed_source, \
         hold_as_of = excluded.hold_as_of, hold_as_of_seq = excluded.hold_as_of_seq, \
         hold_as_of_source = excluded.hold_as_of_source, \
         handle_status = excluded.handle_status, \
         handle_checked_at = excluded.handle_checked_at, \
         handle_check_at = excluded.handle_check_at, change = excluded.change",
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
            "is_proven",
            "waits_for_account",
        ],
        "ON CONFLICT (did) DO UPDATE SET rev = excluded.rev, data = excluded.data, \
         seq = excluded.seq, source = excluded.source, time = excluded.time, \
         state = excluded.state, cause = excluded.cause, is_whole = excluded.is_whole, \
         has_parked = excluded.has_parked, recheck_cause = excluded.recheck_cause, \
         retry_at = excluded.retry_at, attempts = excluded.attempts, \
         updated_at = excluded.updated_at, is_proven = excluded.is_proven, \
         waits_for_account = excluded.waits_for_account",
    )
});

static DEAD_LETTERS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::with_long(
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
            "error_group",
        ],
        &[
            ("fingerprint", Kind::Bytes),
            ("task", Kind::LongText),
            ("raw", Kind::Bytes),
        ],
        "",
    )
});

static CHAIN_BREAKS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "INSERT INTO chain_breaks",
        &[
            "source",
            "did",
            "held_seq",
            "held_time",
            "seq",
            "time",
            "noted_at",
            "held_since",
            "used_at",
        ],
        "ON CONFLICT (source, did) DO UPDATE SET held_seq = excluded.held_seq, \
         held_time = excluded.held_time, seq = excluded.seq, time = excluded.time, \
         noted_at = excluded.noted_at, held_since = excluded.held_since, \
         used_at = excluded.used_at",
    )
});

/// Appends the statements that write `changes`.
pub(super) fn push(script: &mut Script, changes: &ChangeSet<'_>, now: &str) {
    let ChangeSet {
        source,
        accounts,
        entering,
        last_change,
        changed_identities,
        removals,
        is_removing,
        ended_removal,
        followed,
        confirmed,
        records,
        refreshed,
        refreshed_repo,
        repos,
        untracked,
        replayed,
        unparked_repos,
        parked: new_parked,
        gaps,
        breaks,
        dead_letters,
        resolved_letters,
        told_again,
        resync,
        discovery,
        written: _,
    } = changes;
    let source = source.map_or("", SourceId::as_str);
    let accounts: Vec<(&&str, &AccountRow)> = accounts.iter().collect();
    let mut numbers = Numbers::after(*last_change);
    script.push_rows(&ACCOUNTS, &accounts, |(did, account), values| {
        push_account(values, did, account, now);
        // An account's number comes before those of its records.
        values.push(account.is_in_feed.then(|| numbers.next()).into());
    });
    feed::push_entering(script, &mut numbers, &accounts, entering);
    feed::push_removals(script, removals);
    identities::push_void(script, changed_identities.iter().copied());
    removal::push_new(script, removals, *followed, now);
    feed::push_confirmed(script, &mut numbers, confirmed);
    feed::push_refreshed(script, &mut numbers, refreshed);
    if *is_removing {
        removal::push_before_records(script, records);
    }
    records::push(script, &mut numbers, source, records, now);
    if *is_removing {
        removal::push_after_records(script, records);
    }
    projections::push(script, records, now);
    if let Some(row) = told_again {
        feed::push_told_again(script, &mut numbers, *row);
    }
    numbers.push_last(script);
    if let Some(did) = *refreshed_repo {
        feed::push_refreshed_repo(script, did);
    }
    push_deletion(
        script,
        "DELETE FROM stale_records WHERE uri IN (SELECT value FROM json_each(?))",
        refreshed.iter().map(String::as_str),
    );
    if let Some(did) = *refreshed_repo {
        script.push(
            "DELETE FROM stale_records WHERE did = ? AND is_wanted = 1",
            [did.into()],
        );
    }
    let repos: Vec<(&&str, &RepoRow)> = repos.iter().collect();
    script.push_rows(&REPOS, &repos, |(did, repo), values| {
        push_repo(values, did, repo, now);
    });
    push_deletion(
        script,
        "DELETE FROM repos WHERE did IN (SELECT value FROM json_each(?))",
        untracked.iter().copied(),
    );
    if let Some(id) = *ended_removal {
        script.push("DELETE FROM account_removals WHERE id = ?", [id.into()]);
    }
    parked::push_replayed(script, replayed);
    parked::push_dropped(script, unparked_repos.iter().copied());
    parked::push_added(script, source, new_parked, now);
    for gap in gaps {
        push_gap(script, source, gap, now);
    }
    script.push_rows(&CHAIN_BREAKS, &breaks.changed, |row, values| {
        push_break(values, source, row);
    });
    if !breaks.forgotten.is_empty() {
        let statement = "DELETE FROM chain_breaks \
                         WHERE source = ? AND did IN (SELECT value FROM json_each(?))";
        let dids = json_array(breaks.forgotten.iter().map(String::as_str));
        script.push(statement, [source.into(), dids]);
    }
    script.push_rows(&DEAD_LETTERS, dead_letters, |letter, values| {
        push_dead_letter(values, source, letter, now);
    });
    if !resolved_letters.is_empty() {
        let statement = "DELETE FROM dead_letters WHERE id IN (SELECT value FROM json_each(?))";
        let ids = serde_json::json!(resolved_letters).to_string();
        script.push(statement, [ids.into()]);
    }
    if let Some(resync) = resync {
        push_resync(script, resync, now);
    }
    if let Some((collection, discovery)) = discovery {
        push_discovery(script, collection, discovery, now);
    }
}

/// Appends `statement`, which deletes the rows of a list of keys, if there are any.
pub(super) fn push_deletion<'a>(
    script: &mut Script,
    statement: &'static str,
    keys: impl Iterator<Item = &'a str>,
) {
    let mut keys = keys.peekable();
    if keys.peek().is_some() {
        script.push(statement, [json_array(keys)]);
    }
}

fn push_account(values: &mut Vec<Value>, did: &str, account: &AccountRow, now: &str) {
    values.push(did.into());
    values.push(account.handle.as_deref().into());
    push_as_of(values, account.handle_as_of.as_ref());
    values.push(account.is_active.into());
    values.push(account.status.as_deref().into());
    push_as_of(values, account.as_of.as_ref());
    let removed = account.removed.as_ref();
    values.push(removed.map(|removed| removed.time.as_str()).into());
    values.push(account.held_status.as_deref().into());
    values.push(account.is_overridden.into());
    values.push(account.is_unconfirmed.into());
    values.push(account.suspected_status.as_deref().into());
    values.push(account.retry_at.as_deref().into());
    values.push(account.attempts.into());
    for as_of in [&account.as_of, &account.handle_as_of] {
        values.push(
            as_of
                .as_ref()
                .and_then(|as_of| as_of.source.as_deref())
                .into(),
        );
    }
    values.push(removed.map(|removed| removed.seq).into());
    values.push(removed.and_then(|removed| removed.source.as_deref()).into());
    values.push(account.handle_due_at.as_deref().into());
    values.push(now.into());
    let hold_as_of = account.hold_as_of.as_ref();
    push_as_of(values, hold_as_of);
    let source = hold_as_of.and_then(|as_of| as_of.source.as_deref());
    values.extend([
        source.into(),
        account.handle_status.as_str().into(),
        account.handle_checked_at.as_deref().into(),
        account.handle_check_at.as_deref().into(),
    ]);
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
        repo.is_proven.into(),
        repo.waits_for_account.into(),
    ]);
}

fn push_break(values: &mut Vec<Value>, source: &str, row: &ChainBreak) {
    let (held_seq, held_time) = row.held.unzip();
    values.extend([
        source.into(),
        row.did.as_str().into(),
        held_seq.into(),
        held_time.flatten().map(sortable).into(),
        row.seq.into(),
        sortable(row.time).into(),
        sortable(row.noted_at).into(),
        row.held_since.into(),
        row.used_at.map(sortable).into(),
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
        task(letter).into(),
        (&letter.raw).into(),
        letter.attempts.into(),
        now.into(),
        error_group(letter.stage.as_str(), &letter.error).into(),
    ]);
}

/// The index task of a dead letter. The task of a deletion has no record.
fn task(letter: &DeadLetter) -> Option<Value> {
    let task = letter.task.clone()?;
    Some(match letter.raw.is_empty() {
        true => Value::Text(task),
        false => Value::Task {
            task,
            record: letter.raw.clone(),
        },
    })
}

fn push_gap(script: &mut Script, source: &str, gap: &GapRow, now: &str) {
    let to_seq = gap.to_seq.into();
    let to_time = gap.to_time.as_deref().into();
    if let Some(id) = gap.id {
        let closed_at = gap.resolution.map(|_| now);
        let statement = "UPDATE gaps SET from_seq = ?, from_time = ?, to_seq = ?, to_time = ?, \
                         closed_at = ?, resolution = ? WHERE id = ?";
        let from_time = gap.from_time.as_deref().into();
        let resolution = gap.resolution.into();
        script.push(
            statement,
            [
                gap.from_seq.into(),
                from_time,
                to_seq,
                to_time,
                closed_at.into(),
                resolution,
                id.into(),
            ],
        );
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

fn push_discovery(script: &mut Script, collection: &str, discovery: &DiscoveryRow, now: &str) {
    let ended_at = discovery.is_over.then_some(now);
    script.push(
        "UPDATE discoveries SET pass = ?, cursor = ?, repos = ?, has_next_pass = ?, attempts = 0, \
         error = NULL, is_unsupported = 0, ended_at = ? WHERE collection = ?",
        [
            discovery.pass.into(),
            discovery.cursor.as_deref().into(),
            discovery.repos.into(),
            discovery.has_next_pass.into(),
            ended_at.into(),
            collection.into(),
        ],
    );
}
