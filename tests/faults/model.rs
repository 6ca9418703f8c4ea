//! What the tables must hold behind each event: a fold over the frames, one after the other, that
//! knows nothing of batches, revs, guards or retries.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;

use huddle_firehose::filter::interest::Interest;
use huddle_firehose::protocol::decode::{Content, decode};
use huddle_firehose::protocol::event::{Change, Event};
use huddle_firehose::source::recording;

/// So many frames of the recording make a run.
const FRAMES: usize = 200;

/// A record's rev, and its CID unless it was deleted.
pub(crate) type Version = (String, Option<String>);

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tables {
    pub(crate) records: BTreeMap<String, Version>,
    /// By DID.
    pub(crate) handles: BTreeMap<String, String>,
    pub(crate) statuses: BTreeMap<String, (bool, Option<String>)>,
}

#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) frames: Vec<Bytes>,
    /// The tables behind each seq.
    behind: BTreeMap<u64, Tables>,
}

impl Model {
    pub(crate) fn of_recording() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings/testbed.bin");
        let mut frames = recording::load(&path).unwrap();
        frames.truncate(FRAMES);
        let interest = Interest::new(["com.huddle.*".parse().unwrap()]);
        let (mut tables, mut behind) = (Tables::default(), BTreeMap::new());
        for frame in &frames {
            let decoded = decode(frame, &interest).unwrap();
            let seq = decoded.seq.unwrap();
            if let Content::Event(event) = decoded.content {
                tables.take(event);
            }
            behind.insert(seq, tables.clone());
        }
        Self { frames, behind }
    }

    pub(crate) fn last_seq(&self) -> u64 {
        self.behind.keys().next_back().copied().unwrap()
    }

    /// The tables once everything up to `seq` is applied.
    pub(crate) fn behind(&self, seq: u64) -> Tables {
        self.behind
            .range(..=seq)
            .next_back()
            .map(|(_, tables)| tables.clone())
            .unwrap_or_default()
    }
}

impl Tables {
    fn take(&mut self, event: Event) {
        match event {
            Event::Commit(commit) => {
                for op in &commit.ops {
                    let uri = format!("at://{}/{}/{}", commit.did, op.collection, op.rkey);
                    let cid = match &op.change {
                        Change::Put { cid, .. } => Some(cid.to_string()),
                        Change::Delete => None,
                        Change::Broken { reason, .. } => panic!("in the recording: {reason}"),
                    };
                    self.records.insert(uri, (commit.rev.to_string(), cid));
                }
            }
            Event::Account(account) => {
                if account.status.as_deref() == Some("deleted") {
                    self.forget(account.did.as_str());
                }
                self.statuses
                    .insert(account.did.to_string(), (account.active, account.status));
            }
            Event::Identity(identity) => {
                if let Some(handle) = identity.handle {
                    self.handles.insert(identity.did.to_string(), handle);
                }
            }
            Event::Info(_) | Event::Sync(_) => {}
        }
    }

    pub(crate) fn forget(&mut self, did: &str) {
        let prefix = format!("at://{did}/");
        self.records.retain(|uri, _| !uri.starts_with(&prefix));
    }
}
