//! Records that were judged again, because the rules have changed.

use super::change_set::ChangeSet;
use super::dead_letters::fingerprint;
use super::records::{RecordRow, RecordWrite};
use super::view::{HeldRecord, View};
use crate::model::{DeadLetter, SourceId};
use crate::store::plan::effect::RecordChange;

/// Records that were judged again, with the version and the value that they had when they were read.
#[derive(Clone, Copy, Debug)]
pub struct Rejudged<'a> {
    /// The source of their versions.
    pub source: &'a SourceId,
    /// At most one for each URI.
    pub records: &'a [RejudgedRecord],
}

/// A record that was judged again.
#[derive(Clone, Debug, PartialEq)]
pub struct RejudgedRecord {
    /// An upsert or a refusal of the value that the tables know.
    pub change: RecordChange,
    /// The dead letter of a refusal.
    pub letter: Option<DeadLetter>,
    /// When the row was indexed, which does not change.
    pub indexed_at: String,
    /// The dead letter that has the value. It is resolved when the record is kept.
    pub taken_from: Option<i64>,
}

/// A record is written only if its row still is what was judged: what came meanwhile was judged by the
/// same rules, and is newer.
pub(super) fn plan<'a>(view: &View, part: &'a Rejudged<'a>, changes: &mut ChangeSet<'a>) {
    changes.source = Some(part.source);
    for record in part.records {
        let Some(write) = RecordWrite::of(&record.change) else {
            continue;
        };
        let uri = write.version().uri();
        let held = view.records.get(&uri);
        let Some(held) = held.filter(|held| is_same(held, write, part.source)) else {
            changes.written.stale += 1;
            continue;
        };
        let row = RecordRow {
            write,
            verified: held.verified,
            indexed_at: Some(&record.indexed_at),
        };
        changes.records.insert(uri, row);
        if let Some(letter) = &record.letter {
            let fingerprint = fingerprint(part.source, letter);
            if !view.dead_letters.contains(&fingerprint) {
                changes.dead_letters.push((fingerprint, letter));
            }
        }
        if matches!(write, RecordWrite::Upsert(_)) {
            changes.resolved_letters.extend(record.taken_from);
        }
    }
    changes.written.records = changes.records.len() as u64;
    changes.written.dead_letters = changes.dead_letters.len() as u64;
}

fn is_same(held: &HeldRecord, write: RecordWrite<'_>, source: &SourceId) -> bool {
    let version = write.version();
    let value = write.judged().map(|(cid, _)| cid.to_string());
    held.rev == version.rev.as_str()
        && held.cid == value
        && held.source == source.as_str()
        && held.seq == version.seq
}
