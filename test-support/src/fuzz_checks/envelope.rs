//! The expected result of a skim, from a decoder that shares no code with it.

use std::io::BufRead;

use huddle_firehose::atproto::cbor::MAX_DEPTH;
use huddle_firehose::atproto::skim::Skim;
use ipld_core::ipld::Ipld;
use serde_ipld_dagcbor::de::from_reader_once;

/// The envelope of a frame, in the same form for both decoders.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Expected {
    /// `#` and the kind; for an unknown frame, its `t`.
    t: Option<String>,
    /// For an unknown frame.
    op: Option<i64>,
    seq: Option<u64>,
    did: Option<String>,
    rev: Option<String>,
    time: Option<String>,
    paths: Vec<String>,
    /// For an error frame: its name and its message.
    error: Option<(String, Option<String>)>,
}

const KINDS: [&str; 7] = [
    "#account",
    "#commit",
    "#handle",
    "#identity",
    "#info",
    "#sync",
    "#tombstone",
];

/// A field has the wrong type, or is missing.
struct Refused;

impl Expected {
    pub(super) fn by_skim(skimmed: &Skim<'_>) -> Self {
        let text = |text: Option<&str>| text.map(str::to_owned);
        match skimmed {
            Skim::Error { name, message } => Self {
                error: Some(((*name).to_owned(), text(*message))),
                ..Self::default()
            },
            Skim::Message(envelope) => Self {
                t: Some(format!("#{}", envelope.kind.as_str())),
                seq: envelope.seq,
                did: text(envelope.did),
                rev: text(envelope.rev),
                time: text(envelope.time),
                paths: envelope.paths().map(str::to_owned).collect(),
                ..Self::default()
            },
            Skim::Unknown(unknown) => Self {
                t: text(unknown.t),
                op: Some(unknown.op),
                seq: unknown.seq,
                ..Self::default()
            },
        }
    }

    /// The same from the generic value; an error if a skim must refuse the frame.
    fn by_value(header: &Ipld, payload: &Ipld) -> Result<Self, Refused> {
        let op = integer::<i64>(header, "op")?.ok_or(Refused)?;
        let t = text(header, "t")?;
        let is_known = t.as_deref().is_some_and(|t| KINDS.contains(&t));
        match op {
            1 if is_known => Self::message(t, payload),
            1 if t.is_none() => Err(Refused),
            -1 => Ok(Self {
                error: Some((
                    text(payload, "error")?.ok_or(Refused)?,
                    text(payload, "message")?,
                )),
                ..Self::default()
            }),
            _ => Ok(Self {
                t,
                op: Some(op),
                seq: integer(payload, "seq").ok().flatten(),
                ..Self::default()
            }),
        }
    }

    fn message(t: Option<String>, payload: &Ipld) -> Result<Self, Refused> {
        let is_commit = t.as_deref() == Some("#commit");
        Ok(Self {
            seq: integer(payload, "seq")?,
            did: text(payload, if is_commit { "repo" } else { "did" })?,
            rev: text(payload, "rev")?,
            time: text(payload, "time")?,
            paths: if is_commit {
                paths(payload)?
            } else {
                Vec::new()
            },
            t,
            ..Self::default()
        })
    }
}

/// The expected result of skimming `frame`: an envelope, or `None` for a refusal. The outer `None`
/// means that any result is correct, because the frame is not canonical DAG-CBOR and a skim does
/// not check every part.
pub(super) fn expected(frame: &[u8]) -> Option<Option<Expected>> {
    let mut rest = frame;
    let (header, payload) = (canonical(&mut rest)?, canonical(&mut rest)?);
    let are_maps = matches!((&header, &payload), (Ipld::Map(_), Ipld::Map(_)));
    let value = Expected::by_value(&header, &payload).ok();
    Some(value.filter(|_| are_maps && rest.is_empty()))
}

fn canonical(rest: &mut &[u8]) -> Option<Ipld> {
    let before = *rest;
    let value: Ipld = from_reader_once(&mut *rest).ok()?;
    let read = &before[..before.len() - rest.fill_buf().ok()?.len()];
    let is_canonical = serde_ipld_dagcbor::to_vec(&value).ok()? == read;
    (is_canonical && depth(&value) < MAX_DEPTH).then_some(value)
}

fn depth(value: &Ipld) -> usize {
    match value {
        Ipld::List(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Ipld::Map(entries) => 1 + entries.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn field<'a>(map: &'a Ipld, name: &str) -> Option<&'a Ipld> {
    match map {
        Ipld::Map(entries) => entries.get(name),
        _ => None,
    }
}

fn text(map: &Ipld, name: &str) -> Result<Option<String>, Refused> {
    match field(map, name) {
        None => Ok(None),
        Some(Ipld::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Refused),
    }
}

fn integer<T: TryFrom<i128>>(map: &Ipld, name: &str) -> Result<Option<T>, Refused> {
    match field(map, name) {
        None => Ok(None),
        Some(Ipld::Integer(integer)) => T::try_from(*integer).map(Some).map_err(|_| Refused),
        Some(_) => Err(Refused),
    }
}

fn paths(payload: &Ipld) -> Result<Vec<String>, Refused> {
    match field(payload, "ops") {
        None => Ok(Vec::new()),
        Some(Ipld::List(ops)) => ops
            .iter()
            .map(|op| text(op, "path")?.ok_or(Refused))
            .collect(),
        Some(_) => Err(Refused),
    }
}
