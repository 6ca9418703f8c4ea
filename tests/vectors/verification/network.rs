//! Commits and `#sync` events of a simulated network verify. Holds invariants 7.5 and 9.4.

use huddle_firehose::atproto::event::{Event, Sync};
use huddle_firehose::atproto::verify::{
    CommitEvidence, Level, SyncEvidence, verify_commit, verify_sync,
};
use huddle_firehose::source::firehose::decode::{Content, decode};
use huddle_firehose::source::interest::Interest;
use ipld_core::{ipld, ipld::Ipld};
use jiff::SignedDuration;
use simulated_network::car::address_of;

use super::support::{Message, commits, messages, now};

#[test]
fn every_commit_verifies_at_every_level() {
    let mut firsts = 0;
    let mut verified = 0;
    for seed in 0..2 {
        for message in commits(seed, 300) {
            for level in [Level::Commit, Level::Chain] {
                let evidence = message.verify(level).unwrap();
                assert_eq!(evidence.commit.data, message.data());
            }
            verified += 1;
            firsts += usize::from(!message.payload.contains_key("prevData"));
        }
    }
    assert!(verified > 300, "only {verified}");
    assert!(firsts >= 16, "only {firsts} first commits");
}

#[test]
fn a_path_may_be_changed_twice_in_one_commit() {
    let mut repeated = 0;
    for mut message in (0..4).flat_map(|seed| messages(seed, 300)) {
        if message.t != "#commit" || !message.repeats_a_path() {
            continue;
        }
        let evidence = message.verify(Level::Chain).unwrap();
        assert!(evidence.ops.len() < message.ops().len());
        repeated += 1;
    }
    assert!(repeated > 2, "only {repeated}");
}

/// The reference server writes it like this: each operation names the record before the commit, and
/// the CAR does not have the value between the two.
#[test]
fn an_operation_may_be_written_as_two() {
    let mut verified = [0; 2];
    for mut message in commits(4, 300) {
        let between = Ipld::Link(address_of(b"between"));
        let Some(first) = message.op("update") else {
            let Some(first) = message.op("create") else {
                continue;
            };
            let mut second = first.clone();
            first.insert("cid".to_owned(), between);
            second.insert("action".to_owned(), ipld!("update"));
            message.ops().push(Ipld::Map(second));
            message.verify(Level::Chain).unwrap();
            verified[0] += 1;
            continue;
        };
        let mut second = first.clone();
        first.insert("action".to_owned(), ipld!("delete"));
        first.insert("cid".to_owned(), Ipld::Null);
        second.insert("action".to_owned(), ipld!("create"));
        message.ops().push(Ipld::Map(second));
        message.verify(Level::Chain).unwrap();
        verified[1] += 1;
    }
    assert!(verified.iter().all(|count| *count > 10), "{verified:?}");
}

fn sync(message: &Message) -> Option<Sync> {
    match decode(&message.frame, &Interest::default())
        .unwrap()
        .content
    {
        Content::Event(Event::Sync(sync)) => Some(sync),
        _ => None,
    }
}

#[test]
fn every_sync_verifies_only_with_its_accounts_key() {
    let messages = messages(2, 600);
    let mut verified = 0;
    for message in &messages {
        let Some(sync) = sync(message) else {
            continue;
        };
        let evidence = SyncEvidence::of(&sync).unwrap();
        assert_eq!(evidence.commit.data, message.data());
        verify_sync(&evidence, &message.public(), now()).unwrap();
        let other = messages.iter().map(Message::public);
        for key in other.filter(|key| *key != message.public()).take(2) {
            let error = verify_sync(&evidence, &key, now()).unwrap_err();
            assert_eq!(error.name(), "signature");
        }
        verified += 1;
    }
    assert!(verified > 20, "only {verified}");
}

#[test]
fn a_sync_that_contradicts_itself_is_refused() {
    let messages = messages(2, 100);
    let (message, sync) = messages
        .iter()
        .find_map(|message| Some((message, sync(message)?)))
        .unwrap();
    let name = |change: fn(&mut Message, &mut Sync)| {
        let (mut message, mut sync) = (message.clone(), sync.clone());
        change(&mut message, &mut sync);
        if let Ipld::Bytes(blocks) = &message.payload["blocks"] {
            sync.blocks = blocks.clone().into();
        }
        SyncEvidence::of(&sync).unwrap_err().name()
    };
    assert_eq!(
        name(|_, sync| sync.did = "did:plc:mallory".to_owned().try_into().unwrap()),
        "did"
    );
    assert_eq!(
        name(|_, sync| sync.rev = "3jzfcijpj2z2a".to_owned().try_into().unwrap()),
        "rev"
    );
    assert_eq!(
        name(|message, _| message.change_car(|root, blocks| drop(blocks.remove(root)))),
        "commit_missing"
    );
    assert_eq!(
        name(|message, _| message.set("blocks", vec![0; 10_001])),
        "blocks_size"
    );
}

#[test]
fn a_rev_may_be_five_minutes_ahead_and_no_more() {
    let five_minutes = SignedDuration::from_mins(5);
    let moment = SignedDuration::from_micros(1);
    let message = commits(3, 20).pop().unwrap();
    let evidence = CommitEvidence::of(&message.bytes()).unwrap();
    let latest = evidence.commit.rev.timestamp() - five_minutes;
    let verify = |now| verify_commit(&evidence, &message.public(), Level::Chain, now);
    assert!(verify(latest).is_ok());
    assert_eq!(verify(latest - moment).unwrap_err().name(), "rev_future");

    let messages = messages(2, 100);
    let (message, evidence) = messages
        .iter()
        .find_map(|message| Some((message, SyncEvidence::of(&sync(message)?).unwrap())))
        .unwrap();
    let earlier = evidence.commit.rev.timestamp() - five_minutes - moment;
    let error = verify_sync(&evidence, &message.public(), earlier).unwrap_err();
    assert_eq!(error.name(), "rev_future");
}
