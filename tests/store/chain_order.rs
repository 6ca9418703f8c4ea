//! The tables end the same for any division of the stream into batches, and any restart from an
//! earlier place. Holds invariant 2.2.

use huddle_firehose::store::plan::effect::Effect;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::commits::*;
use crate::fixture::*;

/// What happens next in a repository.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A commit that puts a record, or deletes it.
    Put(&'static str),
    Delete(&'static str),
    /// A commit that touches nothing that is kept.
    Elsewhere,
    /// A `#sync` with the known tree.
    Sync,
    /// A commit whose key is unavailable.
    KeyUnavailable,
    /// A missing commit, followed by another one.
    Missed,
}

fn event() -> impl Strategy<Value = Event> {
    let rkey = || prop::sample::select(vec!["a", "b"]);
    prop_oneof![
        8 => rkey().prop_map(Event::Put),
        4 => rkey().prop_map(Event::Delete),
        3 => Just(Event::Elsewhere),
        2 => Just(Event::Sync),
        1 => Just(Event::KeyUnavailable),
        1 => Just(Event::Missed),
    ]
}

/// A history of two repositories.
fn history() -> impl Strategy<Value = Vec<(&'static str, Event)>> {
    let did = prop::sample::select(vec![ALICE, BOB]);
    vec((did, event()), 1..24)
}

/// The effects of each frame. They begin with a record of each repository, so that both are
/// tracked.
fn frames(history: &[(&'static str, Event)]) -> Vec<Vec<Effect>> {
    let mut repositories = [Repository::new(ALICE), Repository::new(BOB)];
    let first_events = [(ALICE, Event::Put("a")), (BOB, Event::Put("a"))];
    let events = first_events.iter().chain(history).zip(1..);
    let events = events.map(|((did, event), number)| {
        let repository = &mut repositories[usize::from(*did == BOB)];
        repository.effects_of(2 * number, *event)
    });
    events.collect()
}

struct Repository {
    did: &'static str,
    /// Its head.
    rev: u64,
    tree: u64,
}

impl Repository {
    fn new(did: &'static str) -> Self {
        Self {
            did,
            rev: 0,
            tree: 0,
        }
    }

    /// The effects of an event at `n`, which is higher than all before.
    fn effects_of(&mut self, n: u64, event: Event) -> Vec<Effect> {
        let did = self.did;
        match event {
            Event::Put(rkey) => vec![self.commit(n), put_by(did, rkey, n)],
            Event::Delete(rkey) => vec![self.commit(n), delete_by(did, rkey, n)],
            Event::Elsewhere => vec![self.commit(n)],
            Event::Sync => {
                self.rev = n;
                vec![sync(did, n, self.tree)]
            }
            Event::KeyUnavailable => {
                let _without_key = self.commit(n);
                vec![without_key(did, n), put_by(did, "a", n)]
            }
            Event::Missed => {
                let _missed = self.commit(n - 1);
                vec![self.commit(n), put_by(did, "b", n)]
            }
        }
    }

    fn commit(&mut self, n: u64) -> Effect {
        let commit = match self.rev {
            0 => first_commit(self.did, n),
            _ => commit_since(self.did, n, self.tree, self.rev),
        };
        (self.rev, self.tree) = (n, n);
        commit
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_division_into_batches_and_any_replay_ends_in_the_same_tables(
        history in history(),
        replays in vec((any::<Index>(), any::<Index>()), 0..4),
        lengths in vec(1_usize..6, 1..8),
    ) {
        let history = frames(&history);
        // The stream is interrupted and continues from an earlier place.
        let mut events = Vec::new();
        let mut from = 0;
        for (broken_off, again) in replays {
            let end = from + broken_off.index(history.len() - from + 1);
            events.extend_from_slice(&history[from..end]);
            from = again.index(end + 1);
        }
        events.extend_from_slice(&history[from..]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (expected, found) = runtime.block_on(async {
            let plain = Database::new().await;
            for frame in &history {
                plain.apply(frame).await;
            }
            let database = Database::new().await;
            let mut rest = events.as_slice();
            for length in lengths.iter().cycle() {
                let (batch, after) = rest.split_at((*length).min(rest.len()));
                database.apply(&batch.concat()).await;
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            (plain.contents().await, database.contents().await)
        });
        prop_assert_eq!(found, expected);
    }
}
