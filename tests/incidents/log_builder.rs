//! Builds a log for a test: signed repositories with trees, whose commits the test chooses.

use std::collections::BTreeMap;

use bytes::Bytes;
use fastrand::Rng;
use huddle_firehose::atproto::skim::seq_of;
use serde_json::{Value, json};
use simulated_network::frame::{self, Stamp};
use simulated_network::key::SigningKey;
use simulated_network::record::to_ipld;
use simulated_network::repo::{CommitFrame, Repository};
use simulated_network::tid::tid;

pub(crate) const ANN: &str = "did:plc:ann";
pub(crate) const BOB: &str = "did:plc:bob";

/// 2026-11-23T08:00:00Z, in microseconds.
const BEGINNING: u64 = 1_795_420_800_000_000;
const SECOND: u64 = 1_000_000;

pub(crate) struct LogBuilder {
    random: Rng,
    repositories: BTreeMap<String, Repository>,
    pub(crate) next_seq: u64,
    /// Microseconds since 1970. Each event advances it by a second.
    pub(crate) clock: u64,
    pub(crate) log: Vec<Bytes>,
}

impl LogBuilder {
    pub(crate) fn new() -> Self {
        Self {
            random: Rng::with_seed(0),
            repositories: BTreeMap::new(),
            next_seq: 1,
            clock: BEGINNING,
            log: Vec::new(),
        }
    }

    /// Writes a record with the field `n`, in a collection without a schema.
    pub(crate) fn put(&mut self, did: &str, path: &str, n: u64) {
        self.commit(did, &[(path, Some(numbered(path, n)))]);
    }

    pub(crate) fn delete(&mut self, did: &str, path: &str) {
        self.commit(did, &[(path, None)]);
    }

    /// Makes one commit of several writes, in order.
    pub(crate) fn commit(&mut self, did: &str, writes: &[(&str, Option<Value>)]) {
        let block = |value: &Value| serde_ipld_dagcbor::to_vec(&to_ipld(value)).unwrap();
        let writes = writes.iter();
        let blocks = writes.map(|(path, value)| (*path, value.as_ref().map(block)));
        let commit = self.apply(did, blocks.collect());
        self.emit_commit(did, commit);
    }

    /// Makes a commit without an event. Its records need not be DAG-CBOR.
    pub(crate) fn apply(&mut self, did: &str, writes: Vec<(&str, Option<Vec<u8>>)>) -> CommitFrame {
        let rev = tid(self.clock, 0);
        let repository = self.repository(did);
        let writes = writes.into_iter();
        let writes = writes.map(|(path, block)| (path.to_owned(), block));
        repository.apply_blocks(writes.collect(), rev)
    }

    pub(crate) fn emit_commit(&mut self, did: &str, commit: CommitFrame) {
        self.emit(|stamp| frame::commit(stamp, did, commit));
    }

    pub(crate) fn repository(&mut self, did: &str) -> &mut Repository {
        let random = &mut self.random;
        self.repositories
            .entry(did.to_owned())
            .or_insert_with(|| Repository::new(did, SigningKey::generate(random)))
    }

    pub(crate) fn rotate_key(&mut self, did: &str) {
        let key = SigningKey::generate(&mut self.random);
        self.repository(did).rotate_key(key);
    }

    pub(crate) fn account(&mut self, did: &str, status: Option<&str>) {
        self.emit(|stamp| frame::account(stamp, did, status));
    }

    pub(crate) fn identity(&mut self, did: &str, handle: &str) {
        self.emit(|stamp| frame::identity(stamp, did, Some(handle)));
    }

    /// The newest commit block only.
    pub(crate) fn sync(&mut self, did: &str) {
        let (head, blocks) = self.repository(did).sync_frame().unwrap();
        let rev = head.rev.clone();
        self.emit(|stamp| frame::sync(stamp, did, &rev, blocks));
    }

    pub(crate) fn emit(&mut self, message: impl FnOnce(Stamp) -> Bytes) {
        let stamp = Stamp {
            seq: self.next_seq,
            time: time(self.clock),
        };
        self.next_seq += 1;
        self.clock += SECOND;
        self.log.push(message(stamp));
    }
}

fn time(micros: u64) -> String {
    let micros = i64::try_from(micros).unwrap();
    let time = jiff::Timestamp::from_microsecond(micros).unwrap();
    time.to_string()
}

pub(crate) fn last_seq(frames: &[Bytes]) -> u64 {
    frames.last().and_then(|frame| seq_of(frame)).unwrap()
}

pub(crate) fn numbered(path: &str, n: u64) -> Value {
    let (collection, _) = path.split_once('/').unwrap();
    json!({ "$type": collection, "n": n })
}

pub(crate) fn offer(title: &str) -> Value {
    json!({
        "$type": "com.huddle.slotOffer",
        "title": title,
        "startsAt": "2999-01-01T10:00:00Z",
        "endsAt": "2999-01-01T11:00:00Z",
        "createdAt": "2026-01-01T00:00:00Z",
    })
}

/// A booking of the offer at `uri`.
pub(crate) fn booking(uri: &str) -> Value {
    json!({
        "$type": "com.huddle.booking",
        "offer": {
            "uri": uri,
            "cid": "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a",
        },
        "startsAt": "2999-01-01T10:00:00Z",
        "endsAt": "2999-01-01T11:00:00Z",
        "status": "confirmed",
        "createdAt": "2026-01-01T00:00:00Z",
    })
}
