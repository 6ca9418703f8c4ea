//! Commits with one wanted record, made by the simulated network.

use huddle_firehose::atproto::event::{Change, Event, PutAction};
use huddle_firehose::source::firehose::decode::{Content, decode};
use huddle_firehose::source::interest::Interest;
use simulated_network::network::Network;
use simulated_network::shape::Shape;

/// Actions of the network between two reads of its log.
const STEPS: usize = 1000;

/// `count` commits that create one record of `com.huddle.*` each. All are different.
pub(crate) fn matched(count: usize) -> Vec<Vec<u8>> {
    let shape = Shape {
        accounts: 500,
        max_ops: 1,
        commits: 1,
        identities: 0,
        statuses: 0,
        key_rotations: 0,
        migrations: 0,
        syncs: 0,
        infos: 0,
        unknowns: 0,
        ..Shape::default()
    };
    let mut network = Network::new(1, shape);
    let interest = Interest::new(["com.huddle.*".parse().unwrap()]);
    let mut commits = Vec::with_capacity(count);
    while commits.len() < count {
        let entries = network.steps(STEPS).iter();
        let frames = entries.map(|entry| entry.frame.to_vec());
        commits.extend(frames.filter(|frame| creates_a_record(frame, &interest)));
    }
    commits.truncate(count);
    commits
}

fn creates_a_record(frame: &[u8], interest: &Interest) -> bool {
    let decoded = decode(frame, interest).map(|decoded| decoded.content);
    let Ok(Content::Event(Event::Commit(commit))) = decoded else {
        return false;
    };
    matches!(
        &commit.ops[..],
        [op] if matches!(op.change, Change::Put { action: PutAction::Create, .. })
    )
}
