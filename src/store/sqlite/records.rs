//! Records and tombstones.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::commit::ERROR_CHARS;
use super::feed::Numbers;
use super::multi_row::{Kind, MultiRow};
use super::script::{Script, Value};
use crate::atproto::verify::Level;
use crate::model::Validity;
use crate::store::datetime::sortable;
use crate::store::plan::effect::RecordUpsert;
use crate::store::plan::{RecordRow, RecordWrite};
use crate::telemetry::excerpt::excerpt;

static RECORDS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::with_long(
        "INSERT INTO records",
        &[
            "uri",
            "did",
            "collection",
            "rkey",
            "cid",
            "rev",
            "seq",
            "source",
            "time",
            "record",
            "record_cbor",
            "validity",
            "invalid_reason",
            "first_indexed_at",
            "last_indexed_at",
            "deleted",
            "verified",
            "judgement",
            "refused_cid",
            "change",
        ],
        &[("record", Kind::LongText), ("record_cbor", Kind::Bytes)],
        "ON CONFLICT (uri) DO UPDATE SET cid = excluded.cid, rev = excluded.rev, \
         seq = excluded.seq, source = excluded.source, time = excluded.time, \
         record = excluded.record, record_cbor = excluded.record_cbor, \
         validity = excluded.validity, invalid_reason = excluded.invalid_reason, \
         last_indexed_at = excluded.last_indexed_at, deleted = excluded.deleted, \
         verified = excluded.verified, judgement = excluded.judgement, \
         refused_cid = excluded.refused_cid, change = excluded.change",
    )
});

/// Appends the statements that write `records`, given by URI. A deletion writes a tombstone.
pub(super) fn push(
    script: &mut Script,
    numbers: &mut Numbers,
    source: &str,
    records: &BTreeMap<String, RecordRow<'_>>,
    now: &str,
) {
    let rows: Vec<(&String, &RecordRow<'_>)> = records.iter().collect();
    script.push_rows(&RECORDS, &rows, |(uri, record), values| {
        values.push(uri.as_str().into());
        push_values(values, source, **record, now);
        values.push(numbers.next().into());
    });
}

fn push_values(values: &mut Vec<Value>, source: &str, row: RecordRow<'_>, now: &str) {
    let RecordRow {
        write,
        verified,
        indexed_at,
    } = row;
    let version = write.version();
    let (upsert, refusal) = match write {
        RecordWrite::Delete(_) => (None, None),
        RecordWrite::Refuse(refusal) => (None, Some(refusal)),
        RecordWrite::Upsert(upsert) => (Some(upsert), None),
    };
    let judgement = write.judged().map(|(_, judgement)| judgement.stored());
    let refused_because = refusal.map(|refusal| refusal.reason.as_str());
    values.extend([
        version.did.as_str().into(),
        version.collection.as_str().into(),
        version.rkey.as_str().into(),
        upsert.map(|upsert| upsert.cid.to_string()).into(),
        version.rev.as_str().into(),
        version.seq.into(),
        source.into(),
        sortable(version.time).into(),
        upsert.map(json).into(),
        upsert.map(|upsert| &upsert.cbor).into(),
        upsert.map(|upsert| upsert.validity.as_str()).into(),
        upsert
            .and_then(|upsert| reason(&upsert.validity))
            .or(refused_because)
            .into(),
        now.into(),
        indexed_at.unwrap_or(now).into(),
        upsert.is_none().into(),
        verified.map_or("none", Level::as_str).into(),
        judgement.into(),
        refusal.map(|refusal| refusal.cid.to_string()).into(),
    ]);
}

fn json(upsert: &RecordUpsert) -> Value {
    Value::Json {
        cbor: upsert.cbor.clone(),
        bytes: upsert.json_bytes,
    }
}

fn reason(validity: &Validity) -> Option<&str> {
    match validity {
        Validity::Invalid { reason } => Some(excerpt(reason, ERROR_CHARS)),
        Validity::Unvalidated | Validity::Valid => None,
    }
}
