//! A frame, skimmed and decoded: both agree, or both refuse.

use std::collections::HashSet;
use std::sync::LazyLock;

use huddle_firehose::atproto::event::{Change, Commit, Event};
use huddle_firehose::atproto::skim::{Envelope, Kind, Skim, SkimError, seq_of, skim};
use huddle_firehose::source::firehose::decode::{Content, Decoded, decode};
use huddle_firehose::source::interest::Interest;
use simulated_network::car::address_of;

use super::envelope::{Expected, expected};

/// No collection, some, and all.
static INTERESTS: LazyLock<[Interest; 3]> = LazyLock::new(|| {
    [None, Some("com.huddle.*"), Some("*")].map(|pattern| {
        Interest::new(pattern.map(|text| text.parse().expect("a pattern of this file")))
    })
});

pub fn check(frame: &[u8]) {
    let skimmed = skim(frame);
    if let Some(expected) = expected(frame) {
        let found = skimmed.as_ref().ok().map(Expected::by_skim);
        assert_eq!(found, expected, "{skimmed:?}");
    }
    for interest in &*INTERESTS {
        match &skimmed {
            Err(error) => check_refusal(frame, interest, error),
            Ok(skimmed) => check_decode(frame, interest, skimmed),
        }
    }
}

/// A frame that cannot be skimmed cannot be decoded, and both errors have the same text.
fn check_refusal(frame: &[u8], interest: &Interest, skimmed: &SkimError) {
    let error = decode(frame, interest).expect_err("the skim refuses it");
    assert_eq!(error.kind, skimmed.kind);
    assert_eq!(error.seq, skimmed.seq);
    assert_eq!(error.did, skimmed.did);
    assert!(!error.to_string().is_empty());
}

fn check_decode(frame: &[u8], interest: &Interest, skimmed: &Skim<'_>) {
    let decoded = decode(frame, interest);
    match skimmed {
        Skim::Error { name, message } => {
            let content = decoded
                .expect("an error frame has nothing to refuse")
                .content;
            assert_eq!(
                content,
                Content::Error {
                    name,
                    message: *message
                }
            );
        }
        Skim::Unknown(unknown) => {
            let decoded = decoded.expect("an unknown frame has nothing to refuse");
            assert_eq!(decoded.seq, seq_of(frame));
            let (op, t) = (unknown.op, unknown.t);
            assert_eq!(decoded.content, Content::Unknown { op, t });
        }
        Skim::Message(envelope) => match decoded {
            Ok(decoded) => {
                assert_eq!(decoded.seq, seq_of(frame));
                check_message(envelope, &decoded, interest);
            }
            Err(error) => {
                assert_eq!(error.kind, Some(envelope.kind));
                assert_eq!(error.seq, envelope.seq);
                assert_eq!(error.did.as_deref(), envelope.did);
                assert!(!error.to_string().is_empty());
            }
        },
    }
}

fn check_message(envelope: &Envelope<'_>, decoded: &Decoded<'_>, interest: &Interest) {
    assert_eq!(decoded.kind, Some(envelope.kind));
    assert!(decoded.seq.is_none_or(|seq| (1..1 << 53).contains(&seq)));
    let Content::Event(event) = &decoded.content else {
        assert_eq!(decoded.content, Content::Unwanted);
        assert_eq!(envelope.kind, Kind::Commit);
        assert_eq!(wanted(envelope, interest).len(), 0);
        return;
    };
    let position = event.position();
    assert_eq!(position.map(|position| position.seq), decoded.seq);
    assert_eq!(
        position,
        decoded.raw_position().map(|position| position.position())
    );
    let (did, rev) = match event {
        Event::Account(account) => (Some(&account.did), None),
        Event::Commit(commit) => (Some(&commit.did), Some(&commit.rev)),
        Event::Identity(identity) => (Some(&identity.did), None),
        Event::Info(_) => return,
        Event::Sync(sync) => (Some(&sync.did), Some(&sync.rev)),
    };
    assert_eq!(did.map(|did| did.as_str()), envelope.did);
    if rev.is_some() {
        assert_eq!(rev.map(|rev| rev.as_str()), envelope.rev);
    }
    if let Event::Commit(commit) = event {
        check_ops(commit, &wanted(envelope, interest));
    }
}

/// The wanted paths, each once.
fn wanted<'a>(envelope: &Envelope<'a>, interest: &Interest) -> HashSet<&'a str> {
    let paths = envelope.paths();
    paths.filter(|path| interest.wants_path(path)).collect()
}

/// Each wanted path has one outcome, and an accepted record matches its CID.
fn check_ops(commit: &Commit, wanted: &HashSet<&str>) {
    assert_eq!(commit.ops.len() + commit.misnamed.len(), wanted.len());
    let mut seen = HashSet::new();
    for op in &commit.ops {
        let path = format!("{}/{}", op.collection, op.rkey);
        assert!(wanted.contains(path.as_str()), "{path} was not skimmed");
        if let Change::Put { cid, record, .. } = &op.change {
            assert_eq!(*cid, address_of(record));
        }
        assert!(seen.insert(path), "one outcome a path");
    }
}
