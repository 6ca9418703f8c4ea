//! Compares the tables with the network's oracle, which shares no code with the pipeline.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use simulated_network::car::encode;
use simulated_network::oracle::{Account, Change, Moment, Refusal, What};
use simulated_network::record::{WANTED, is_looked_at, is_malformed, to_ipld};

use huddle_firehose::delivery::ledger::DELIVERY_FAILURE_LIMIT;
use huddle_firehose::model::{Gap, GapCause, Stage};

use crate::history::{History, Manner};
use crate::schedule::Schedule;
use crate::tables::{Content, Letter, Tables};
use crate::upstream::Upstream;

pub(crate) struct Audit {
    history: Arc<History>,
    upstream: Arc<Upstream>,
    schedule: Arc<Schedule>,
    /// Whether invalid records are dead letters, or kept and marked.
    rejects: bool,
    /// These dead letters, and the events that leave them.
    rejected: Vec<(Moment, Letter)>,
    /// How many changes and refusals of the history the cursor has passed.
    changes: usize,
    refusals: usize,
    oddities: Vec<String>,
}

impl Audit {
    pub(crate) fn new(
        history: Arc<History>,
        upstream: Arc<Upstream>,
        schedule: Arc<Schedule>,
        rejects: bool,
    ) -> Self {
        let rejected = match rejects {
            true => rejected(&history),
            false => Vec::new(),
        };
        Self {
            history,
            upstream,
            schedule,
            rejects,
            rejected,
            changes: 0,
            refusals: 0,
            oddities: Vec::new(),
        }
    }

    /// Checks whether the cursor leads. The tables may be ahead of it: after a cursor that moved
    /// back, all events come again.
    pub(crate) fn note_commit(&mut self, tables: &Tables) {
        let cursor = tables.cursor;
        if cursor.seq > 0 {
            self.upstream.note_cursor();
        }
        let Some(reached) = self.history.oracle.reached(cursor.seq, cursor.time) else {
            return;
        };
        self.upstream.note_reached(reached);
        let history = self.history.clone();
        let changes = &history.oracle.changes()[self.changes..];
        let refusals = &history.oracle.refusals()[self.refusals..];
        let changes = &changes[..changes.partition_point(|change| change.moment <= reached)];
        let refusals = &refusals[..refusals.partition_point(|refusal| refusal.moment <= reached)];
        if changes.is_empty() && refusals.is_empty() {
            return;
        }
        let unseen = self.unseen(tables);
        self.changes += changes.len();
        self.refusals += refusals.len();
        for change in changes {
            let is_due = change.is_in_stream && !unseen.contains(&change.moment);
            if is_due && !has_seen(tables, change) {
                self.lead(tables, &format!("{change:?}"));
            }
        }
        for refusal in refusals {
            let is_due = !unseen.contains(&refusal.moment);
            if is_due && !tables.letters.contains(&letter(refusal)) {
                self.lead(tables, &format!("{refusal:?}"));
            }
        }
    }

    fn lead(&mut self, tables: &Tables, without: &str) {
        let cursor = tables.cursor;
        self.oddities
            .push(format!("the cursor leads: {cursor:?} without {without}"));
    }

    /// The events that the relay never sent, and those that were given up as poison. One that an earlier
    /// connection has brought may be in the tables although the cursor had not passed it.
    fn unseen(&self, tables: &Tables) -> BTreeSet<Moment> {
        let heard = self.upstream.heard();
        let changes = self.history.oracle.changes();
        let refusals = self.history.oracle.refusals();
        let is_in_tables = |moment: &Moment| {
            let first = changes.partition_point(|change| change.moment < *moment);
            let of_moment = changes[first..]
                .iter()
                .take_while(|change| change.moment == *moment);
            let seen: Vec<bool> = of_moment
                .map(|change| has_seen(tables, change) && !lacks_removal(tables, change))
                .collect();
            // A later change hides whether this one was seen. Dead letters are hidden by nothing.
            let refused = refusals.iter().filter(|refusal| refusal.moment == *moment);
            let rejected = self.rejected.iter().filter(|(at, _)| at == moment);
            let mut letters = refused
                .map(letter)
                .chain(rejected.map(|(_, letter)| letter.clone()));
            heard.contains(moment)
                && !seen.is_empty()
                && seen.into_iter().all(|seen| seen)
                && letters.all(|letter| tables.letters.contains(&letter))
        };
        let mut unseen = self.upstream.missed();
        unseen.retain(|moment| !is_in_tables(moment));
        let poison = tables.letters.iter().filter(is_poison);
        unseen.extend(poison.filter_map(|letter| self.history.moment_of(&letter.raw)));
        unseen
    }

    /// Returns all faults, when the relay has sent everything and the cursor has passed it.
    pub(crate) fn conclude(&mut self, tables: &Tables) -> Vec<String> {
        let mut differences = std::mem::take(&mut self.oddities);
        let unseen = self.unseen(tables);
        let last = self.history.last_seq(self.history.eras.len() - 1);
        if tables.cursor.seq != last {
            differences.push(format!("the cursor stands at {:?}", tables.cursor));
        }
        self.compare_accounts(tables, &unseen, &mut differences);
        self.compare_letters(tables, &unseen, &mut differences);
        self.compare_gaps(tables, &mut differences);
        differences
    }

    fn compare_accounts(
        &self,
        tables: &Tables,
        unseen: &BTreeSet<Moment>,
        differences: &mut Vec<String>,
    ) {
        let state = self.history.oracle.in_stream(unseen);
        let mut expected = BTreeMap::new();
        for (did, account) in &state {
            for (path, record) in &account.records {
                let is_invalid = is_malformed(path);
                if !is_looked_at(path) || (is_invalid && self.rejects) {
                    continue;
                }
                let is_appointment = WANTED.iter().any(|wanted| path.starts_with(wanted));
                let content = Content {
                    cid: record.cid,
                    is_invalid,
                    has_row: is_appointment && !is_invalid,
                };
                expected.insert(format!("at://{did}/{path}"), content);
            }
        }
        let stored = tables.records.iter();
        let stored: BTreeMap<_, _> = stored
            .filter_map(|(uri, row)| Some((uri.clone(), row.content.clone()?)))
            .collect();
        differ("records", &stored, &expected, differences);

        let of = |field: fn(&Account) -> Option<String>| -> BTreeMap<String, String> {
            let known = state.iter();
            known
                .filter_map(|(did, account)| Some((did.clone(), field(account)?)))
                .collect()
        };
        let handles = tables.handles.iter();
        let handles = handles.map(|(did, (_, handle))| (did.clone(), handle.clone()));
        let expected = of(|account| account.handle.clone());
        differ("handles", &handles.collect(), &expected, differences);
        let statuses = tables.statuses.iter();
        let statuses =
            statuses.filter_map(|(did, (_, status))| Some((did.clone(), status.clone()?)));
        let expected = of(|account| account.status.clone());
        differ("statuses", &statuses.collect(), &expected, differences);
    }

    fn compare_letters(
        &self,
        tables: &Tables,
        unseen: &BTreeSet<Moment>,
        differences: &mut Vec<String>,
    ) {
        let is_seen = |moment: &Moment| !unseen.contains(moment);
        let refusals = self.history.oracle.refusals().iter();
        let mut expected: BTreeSet<Letter> = refusals
            .filter(|refusal| is_seen(&refusal.moment))
            .map(letter)
            .collect();
        let rejected = self.rejected.iter().filter(|(moment, _)| is_seen(moment));
        expected.extend(rejected.map(|(_, letter)| letter.clone()));
        // Records from before the relay lost its log may be here. Records that it never sent may
        // not.
        let all = self.history.oracle.refusals().iter().map(letter);
        let rejected = self.rejected.iter().map(|(_, letter)| letter.clone());
        let known: BTreeSet<Letter> = all.chain(rejected).collect();
        for letter in &tables.letters {
            let is_explained = match letter.stage {
                Stage::Poison => self.schedule.deaths() >= DELIVERY_FAILURE_LIMIT as usize,
                _ => expected.contains(letter) || known.contains(letter),
            };
            if !is_explained {
                differences.push(format!("a dead letter: {letter:?}"));
            }
        }
        let missing = expected.difference(&tables.letters);
        differences.extend(missing.map(|letter| format!("no dead letter: {letter:?}")));
    }

    fn compare_gaps(&self, tables: &Tables, differences: &mut Vec<String>) {
        let missed = self.upstream.missed();
        let missed_at_first = self.upstream.missed_at_first();
        let lies = self.history.oracle.lies();
        let first_era_ends_at = self.history.last_seq(0);
        for gap in &tables.gaps {
            let from = gap.from_seq;
            let is_explained = match gap.cause {
                GapCause::OutdatedCursor => self.history.manner == Manner::Forgetful,
                GapCause::FutureCursor => {
                    lies.contains(&from)
                        || (self.history.manner == Manner::Renumbered && from == first_era_ends_at)
                }
                GapCause::SequenceReset => {
                    lies.contains(&from)
                        || (self.history.manner == Manner::RenumberedSilently
                            && from == first_era_ends_at)
                }
                _ => false,
            };
            if !is_explained {
                differences.push(format!("a gap: {gap:?}"));
            }
        }
        for moment in missed.difference(&missed_at_first) {
            if !tables.gaps.iter().any(|gap| covers(gap, *moment)) {
                differences.push(format!("no gap around {moment:?}"));
            }
        }
        let cause = match self.history.manner {
            Manner::Renumbered => GapCause::FutureCursor,
            Manner::RenumberedSilently => GapCause::SequenceReset,
            Manner::Forgetful | Manner::Steady => return,
        };
        let is_of_new_sequence =
            |gap: &Gap| (gap.cause, gap.from_seq) == (cause, first_era_ends_at);
        if tables
            .gaps
            .iter()
            .filter(|gap| is_of_new_sequence(gap))
            .count()
            != 1
        {
            differences.push(format!(
                "not one gap before the new sequence: {:?}",
                tables.gaps
            ));
        }
    }
}

/// The dead letters of invalid records, and the events that leave them. Of several on one path of a commit,
/// only the last one.
fn rejected(history: &History) -> Vec<(Moment, Letter)> {
    let mut last = BTreeMap::new();
    for change in history.oracle.changes() {
        if let What::Put { path, .. } | What::Delete { path } = &change.what
            && change.is_in_stream
        {
            last.insert((change.moment, &change.did, path), &change.what);
        }
    }
    let rejected = last.into_iter().filter_map(|((moment, did, path), what)| {
        let What::Put { record, .. } = what else {
            return None;
        };
        (is_looked_at(path) && is_malformed(path)).then(|| {
            let letter = Letter {
                stage: Stage::Validate,
                record: Some((moment.seq, format!("at://{did}/{path}"))),
                raw: encode(&to_ipld(&record.value)).into(),
            };
            (moment, letter)
        })
    });
    rejected.collect()
}

fn covers(gap: &Gap, missed: Moment) -> bool {
    let from = match gap.cause {
        // It is in the previous sequence.
        GapCause::SequenceReset => 0,
        _ => gap.from_seq,
    };
    from < missed.seq && gap.to_seq.is_none_or(|to| to > missed.seq)
}

fn is_poison(letter: &&Letter) -> bool {
    letter.stage == Stage::Poison
}

/// Whether the tables have this change, or a later one.
fn has_seen(tables: &Tables, change: &Change) -> bool {
    let did = &change.did;
    match &change.what {
        What::Handle(_) => {
            let handle = tables.handles.get(did);
            handle.is_some_and(|((time, _), _)| *time >= change.time)
        }
        What::Status(_) => {
            let status = tables.statuses.get(did);
            status.is_some_and(|((time, _), _)| *time >= change.time)
        }
        What::Put { path, .. } | What::Delete { path } => {
            let row = tables.records.get(&format!("at://{did}/{path}"));
            let removed_at = tables.removed_at.get(did);
            !is_looked_at(path)
                || row.is_some_and(|row| row.time >= change.time)
                || removed_at.is_some_and(|time| *time >= change.time)
        }
    }
}

/// Whether the change deletes an account of which nothing was removed at that time. A later status hides the
/// one of a deletion, and not what the deletion removed.
fn lacks_removal(tables: &Tables, change: &Change) -> bool {
    let is_deletion = matches!(&change.what, What::Status(Some(status)) if status == "deleted");
    let removed_at = tables.removed_at.get(&change.did);
    is_deletion && removed_at.is_none_or(|time| *time < change.time)
}

fn letter(refusal: &Refusal) -> Letter {
    Letter {
        stage: Stage::Decode,
        record: refusal.uri.clone().map(|uri| (refusal.moment.seq, uri)),
        raw: refusal.raw.clone(),
    }
}

pub(crate) fn differ<T: PartialEq + std::fmt::Debug>(
    what: &str,
    stored: &BTreeMap<String, T>,
    expected: &BTreeMap<String, T>,
    differences: &mut Vec<String>,
) {
    let keys: BTreeSet<&String> = stored.keys().chain(expected.keys()).collect();
    for key in keys {
        let (stored, expected) = (stored.get(key), expected.get(key));
        if stored != expected {
            differences.push(format!("{what}: {key} is {stored:?}, not {expected:?}"));
        }
    }
}
