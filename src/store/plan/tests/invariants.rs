//! Invariants of the plan for arbitrary effects in arbitrary batches.

use crate::store::plan::ResyncCause;
use bytes::Bytes;
use cid::Cid;
use jiff::Timestamp;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::tables::Tables;
use crate::atproto::car::address_of;
use crate::atproto::syntax::{Did, Nsid, RecordKey, Tid};
use crate::model::{Gap, GapCause, Judgement, Validity};
use crate::store::plan::effect::{
    AccountChange, ChainUpdate, CommitEffect, Effect, IdentityChange, Predecessor, Recheck,
    RecheckReason, RecordChange, RecordDelete, RecordUpsert, RecordVersion,
};
use crate::store::plan::{
    Contents, Replay, RepoChange, RepoEvent, RepoRow, RepoState, WaitsFor, transition,
};

const NAMES: [&str; 2] = ["did:plc:alice", "did:plc:bob"];

fn did(name: usize) -> Did {
    Did::parse(NAMES[name]).unwrap()
}

fn rev(n: u8) -> Tid {
    let digit = |digit: u8| char::from(b"234567abcdefghijklmnopqrstuvwxyz"[usize::from(digit)]);
    Tid::parse(&format!("3k222222222{}{}", digit(n / 32), digit(n % 32))).unwrap()
}

fn tree(n: u8) -> Cid {
    address_of(&[n])
}

fn second(n: u8) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + i64::from(n)).unwrap()
}

fn version(name: usize, rkey: &str, n: u8) -> RecordVersion {
    RecordVersion {
        did: did(name),
        collection: Nsid::parse("com.huddle.profile").unwrap(),
        rkey: RecordKey::parse(rkey).unwrap(),
        rev: rev(n),
        seq: u64::from(n),
        time: second(n),
        data: tree(n),
        verified: None,
    }
}

fn put(name: usize, rkey: &str, n: u8) -> RecordChange {
    let version = version(name, rkey, n);
    RecordChange::Upsert(Box::new(RecordUpsert {
        version,
        cid: tree(n),
        cbor: Bytes::from_static(&[0xa0]),
        json_bytes: 2,
        validity: Validity::Valid,
        judgement: Judgement::of(["valid"]),
        projection: None,
    }))
}

fn delete(name: usize, rkey: &str, n: u8) -> RecordChange {
    let version = version(name, rkey, n);
    RecordChange::Delete(RecordDelete { version })
}

fn commit(name: usize, n: u8, predecessor: Predecessor, records: Vec<RecordChange>) -> Effect {
    let chain = Some(ChainUpdate {
        did: did(name),
        rev: rev(n),
        data: tree(n),
        seq: u64::from(n),
        time: second(n),
        predecessor,
        wants_history: false,
        lacks_record: false,
        has_wanted_ops: true,
        begins_empty: false,
        awaits_directory: false,
        frame: Bytes::from(format!("{name} {n}")),
    });
    Effect::Commit(Box::new(CommitEffect { chain, records }))
}

fn after(before: u8) -> Predecessor {
    Predecessor::After {
        since: Some(rev(before)),
        prev_data: Some(tree(before)),
        is_lenient: false,
    }
}

/// Arbitrary effects. Revs, seqs and times rise with a number, and the numbers come in any order.
fn effect() -> impl Strategy<Value = Effect> {
    let name = || 0..NAMES.len();
    let rkey = || prop::sample::select(vec!["a", "b"]);
    let records = (name(), rkey(), any::<bool>(), 1..60_u8);
    let chained = (name(), rkey(), any::<bool>(), 1..60_u8, 0..4_u8);
    let status = prop::sample::select(vec![None, Some("deleted"), Some("takendown")]);
    prop_oneof![
        3 => records.prop_map(|(name, rkey, puts, n)| {
            Effect::records(vec![if puts { put(name, rkey, n) } else { delete(name, rkey, n) }])
        }),
        8 => chained.prop_map(|(name, rkey, puts, n, kind)| {
            let predecessor = match kind {
                0 => Predecessor::KeyUnavailable,
                1 => Predecessor::Unstated,
                _ => after(n - 1),
            };
            let record = if puts { put(name, rkey, n) } else { delete(name, rkey, n) };
            commit(name, n, predecessor, vec![record])
        }),
        2 => (name(), status, any::<bool>(), 1..60_u8).prop_map(|(name, status, is_unconfirmed, n)| {
            Effect::Account(AccountChange {
                did: did(name),
                active: status.is_none(),
                status: status.map(str::to_owned),
                is_unconfirmed,
                wants_history: false,
                seq: u64::from(n),
                time: second(n),
            })
        }),
        1 => (name(), 1..60_u8).prop_map(|(name, n)| {
            Effect::Identity(IdentityChange {
                did: did(name),
                handle: Some(format!("h{n}.example")),
                seq: u64::from(n),
                time: second(n),
            })
        }),
        1 => (name(), any::<bool>()).prop_map(|(name, is_wanted)| {
            Effect::Recheck(Recheck { did: did(name), reason: RecheckReason::Refused { is_wanted } })
        }),
        1 => (1..60_u8).prop_map(|n| {
            Effect::Gap(Gap {
                cause: GapCause::OutdatedCursor,
                from_seq: u64::from(n),
                from_time: None,
                to_seq: (n % 2 == 0).then_some(u64::from(n) + 1),
                to_time: None,
            })
        }),
    ]
}

fn batches() -> impl Strategy<Value = Vec<Vec<Effect>>> {
    vec(vec(effect(), 0..8), 0..8)
}

/// A batch without the effects that are events and not states: an account becomes active again, or
/// a recheck is requested.
fn only_states(batch: &[Effect]) -> Vec<Effect> {
    let is_state = |effect: &&Effect| match effect {
        Effect::Account(change) => !change.is_unconfirmed,
        Effect::Recheck(_) => false,
        _ => true,
    };
    batch.iter().filter(is_state).cloned().collect()
}

fn tables_of(batches: &[Vec<Effect>]) -> Tables {
    let mut tables = Tables::default();
    for batch in batches {
        tables.apply(batch);
    }
    tables
}

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

fn history() -> impl Strategy<Value = Vec<(usize, Event)>> {
    let rkey = || prop::sample::select(vec!["a", "b"]);
    let event = prop_oneof![
        8 => rkey().prop_map(Event::Put),
        4 => rkey().prop_map(Event::Delete),
        3 => Just(Event::Elsewhere),
        2 => Just(Event::Sync),
        1 => Just(Event::KeyUnavailable),
        1 => Just(Event::Missed),
    ];
    vec((0..NAMES.len(), event), 1..24)
}

/// The effects of a history. It begins with a record of each repository, so that both are tracked.
fn effects_of(history: &[(usize, Event)]) -> Vec<Effect> {
    let mut heads = [(0_u8, 0_u8); NAMES.len()];
    let first_events = [(0, Event::Put("a")), (1, Event::Put("a"))];
    let mut effects = Vec::new();
    for ((name, event), number) in first_events.iter().chain(history).zip(1_u8..) {
        let (name, n) = (*name, 2 * number);
        let (mut since, mut before) = heads[name];
        if let Event::Missed = event {
            (since, before) = (n - 1, n - 1);
        }
        let follows = match since {
            0 => Predecessor::After {
                since: None,
                prev_data: None,
                is_lenient: false,
            },
            _ => Predecessor::After {
                since: Some(rev(since)),
                prev_data: Some(tree(before)),
                is_lenient: false,
            },
        };
        heads[name] = (n, n);
        effects.push(match event {
            Event::Put(rkey) => commit(name, n, follows, vec![put(name, rkey, n)]),
            Event::Delete(rkey) => commit(name, n, follows, vec![delete(name, rkey, n)]),
            Event::Elsewhere => commit(name, n, follows, Vec::new()),
            Event::KeyUnavailable => commit(name, n, Predecessor::KeyUnavailable, Vec::new()),
            Event::Missed => commit(name, n, follows, vec![put(name, "b", n)]),
            Event::Sync => {
                heads[name] = (n, before);
                let mut sync = commit(name, n, Predecessor::Unstated, Vec::new());
                if let Effect::Commit(commit) = &mut sync
                    && let Some(chain) = &mut commit.chain
                {
                    chain.data = tree(before);
                }
                sync
            }
        });
    }
    effects
}

/// What comes of one repository, which cannot be fetched.
#[derive(Clone, Copy, Debug)]
enum Arrival {
    /// A commit that follows on the last one, and whether its key is at hand.
    Good(bool),
    /// A commit that follows on one that did not come.
    Missed(bool),
    /// A commit that is refused without a look at its key, and whether it is wanted.
    Refused(bool),
    /// The worker looks for the keys of parked commits, and finds them.
    KeysCome,
}

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let arrival = prop_oneof![
        5 => any::<bool>().prop_map(Arrival::Good),
        1 => any::<bool>().prop_map(Arrival::Missed),
        2 => any::<bool>().prop_map(Arrival::Refused),
        2 => Just(Arrival::KeysCome),
    ];
    vec(arrival, 1..12)
}

/// The effects of arrivals, with all keys at hand, and whether each was at hand.
fn effects_of_arrivals(arrivals: &[Arrival]) -> Vec<(Effect, bool)> {
    let mut before = 0;
    let mut effects = Vec::new();
    for (arrival, n) in arrivals.iter().zip((2..).step_by(2)) {
        let (predecessor, is_at_hand) = match *arrival {
            Arrival::Good(is_at_hand) => (before, is_at_hand),
            Arrival::Missed(is_at_hand) => (n - 1, is_at_hand),
            Arrival::Refused(is_wanted) => {
                let reason = RecheckReason::Refused { is_wanted };
                effects.push((
                    Effect::Recheck(Recheck {
                        did: did(0),
                        reason,
                    }),
                    true,
                ));
                continue;
            }
            Arrival::KeysCome => continue,
        };
        let records = vec![put(0, ["a", "b"][usize::from(n) / 2 % 2], n)];
        effects.push((commit(0, n, after(predecessor), records), is_at_hand));
        before = n;
    }
    effects
}

/// Returns the commit as it is without its key.
fn without_key(effect: &Effect) -> Effect {
    match effect {
        Effect::Commit(commit) => Effect::Commit(Box::new(CommitEffect {
            chain: commit.chain.clone().map(|chain| ChainUpdate {
                predecessor: Predecessor::KeyUnavailable,
                ..chain
            }),
            records: Vec::new(),
        })),
        other => other.clone(),
    }
}

/// Replays what is parked, as far as it follows, so many frames at a time.
fn replay(tables: &mut Tables, effects: &[(Effect, bool)], together: usize) {
    let takes_commits = |tables: &Tables| {
        let repo = tables.repos.get(NAMES[0]);
        repo.is_some_and(|repo| repo.has_parked && repo.state.takes_commits())
    };
    while takes_commits(tables) {
        let parked = tables.parked(NAMES[0], together);
        let (mut of_frames, mut ends) = (Vec::new(), Vec::new());
        for parked in &parked {
            let of_frame = effects.iter().filter(|(effect, _)| match effect {
                Effect::Commit(commit) => commit
                    .chain
                    .as_ref()
                    .is_some_and(|chain| chain.frame == parked.frame),
                _ => false,
            });
            of_frames.extend(of_frame.map(|(effect, _)| effect.clone()));
            ends.push(of_frames.len());
        }
        match Replay::of(&parked, &of_frames, &ends) {
            Some(replay) => {
                tables.change(RepoChange::Replayed(replay));
            }
            None => tables.note(NAMES[0], RepoEvent::FinishReplay),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// Holds invariant 2.2.
    #[test]
    fn any_division_into_batches_and_any_replay_ends_in_the_same_tables(
        history in history(),
        replays in vec((any::<Index>(), any::<Index>()), 0..4),
        lengths in vec(1_usize..6, 1..8),
    ) {
        let history = effects_of(&history);
        let mut expected = Tables::default();
        for effect in &history {
            expected.apply(std::slice::from_ref(effect));
        }
        // The stream is interrupted and continues from an earlier place.
        let mut received = Vec::new();
        let mut from = 0;
        for (interruption, restart) in replays {
            let end = from + interruption.index(history.len() - from + 1);
            received.extend_from_slice(&history[from..end]);
            from = restart.index(end + 1);
        }
        received.extend_from_slice(&history[from..]);
        let mut tables = Tables::default();
        let mut rest = received.as_slice();
        for length in lengths.iter().cycle() {
            let (batch, behind) = rest.split_at((*length).min(rest.len()));
            tables.apply(batch);
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(tables, expected);
    }

    /// Holds invariant 7.6.
    #[test]
    fn whenever_a_key_comes_the_tables_end_the_same(
        arrivals in arrivals(),
        lengths in vec(1_usize..4, 1..6),
        together in 1_usize..5,
    ) {
        let effects = effects_of_arrivals(&arrivals);
        let mut at_hand = Tables::default();
        for (effect, _) in &effects {
            at_hand.apply(std::slice::from_ref(effect));
        }
        let mut late = Tables::default();
        let mut rest = effects.iter();
        let (mut batch, mut lengths) = (Vec::new(), lengths.iter().cycle());
        let mut length = *lengths.next().unwrap();
        for arrival in &arrivals {
            if let Arrival::KeysCome = arrival {
                late.apply(&batch);
                batch.clear();
                replay(&mut late, &effects, together);
                continue;
            }
            let (effect, is_at_hand) = rest.next().unwrap();
            batch.push(if *is_at_hand { effect.clone() } else { without_key(effect) });
            if batch.len() >= length {
                late.apply(&batch);
                batch.clear();
                length = *lengths.next().unwrap();
            }
        }
        late.apply(&batch);
        replay(&mut late, &effects, together);
        prop_assert_eq!(late, at_hand);
    }

    #[test]
    fn a_batch_that_is_applied_again_changes_nothing(
        before in batches(),
        batch in vec(effect(), 0..8),
    ) {
        let batch = only_states(&batch);
        let mut tables = tables_of(&before);
        // Revs come in any order, and verified commits beside unverified ones. So a commit that was
        // stale at first may break a chain that began later. Each repetition settles one more commit
        // at least.
        for _ in 0..=batch.len() {
            tables.apply(&batch);
        }
        let once = tables.clone();
        let written = tables.apply(&batch);
        prop_assert_eq!(written.records, 0);
        prop_assert_eq!(&tables.accounts, &once.accounts);
        prop_assert_eq!(&tables.records, &once.records);
        // A deletion also drops parked commits that are newer than it, so they are parked again
        // each time.
        let is_deletion = |effect: &Effect| match effect {
            Effect::Account(change) => change.is_deletion(),
            _ => false,
        };
        if !batch.iter().any(is_deletion) {
            prop_assert_eq!(tables, once);
        }
    }

    /// Holds invariants 2.1 and 2.3.
    #[test]
    fn the_rev_of_a_record_only_rises_and_no_older_create_replaces_a_tombstone(
        batches in batches(),
    ) {
        let mut tables = Tables::default();
        for batch in &batches {
            let before = tables.clone();
            tables.apply(batch);
            for (uri, record) in &tables.records {
                let Some(known) = before.records.get(uri) else { continue };
                let is_removed = tables.accounts.get(&record.did)
                    .is_some_and(|account| account.removed.is_some());
                prop_assert!(is_removed || record.rev >= known.rev, "{}", uri);
                if record.rev == known.rev {
                    prop_assert_eq!(&record.cid, &known.cid);
                }
            }
        }
    }

    #[test]
    fn the_head_of_a_repository_only_rises(batches in batches()) {
        let mut tables = Tables::default();
        for batch in &batches {
            let before = tables.clone();
            tables.apply(batch);
            for (did, repo) in &tables.repos {
                let Some(known) = before.repos.get(did) else { continue };
                let is_removed = tables.accounts.get(did)
                    .is_some_and(|account| account.removed.is_some());
                // If the chain was never checked, it may begin at a lower rev.
                let is_unverified = known.state == RepoState::UnverifiedChain;
                prop_assert!(is_removed || is_unverified || repo.rev >= known.rev, "{}", did);
            }
        }
    }

    /// Holds invariant 7.2.
    #[test]
    fn no_commit_overtakes_parked_commits(
        before in batches(),
        batch in vec(effect(), 0..8),
    ) {
        let mut tables = tables_of(&before);
        let known = tables.clone();
        tables.apply(&batch);
        let is_removed = |name: &str| {
            let account = tables.accounts.get(name);
            account.is_some_and(|account| account.removed.is_some())
        };
        let is_in_chain = |name: &str, rev: &str| batch.iter().any(|effect| matches!(
            effect,
            Effect::Commit(commit) if commit.chain.as_ref().is_some_and(|chain| {
                chain.did.as_str() == name && chain.rev.as_str() == rev
            })
        ));
        let is_outside_chain = |name: &str, rev: &str| batch.iter().any(|effect| matches!(
            effect,
            Effect::Commit(commit) if commit.chain.is_none() && commit.records.iter().any(|record| {
                let version = record.version().unwrap();
                version.did.as_str() == name && version.rev.as_str() == rev
            })
        ));
        for (uri, record) in &tables.records {
            let name = record.did.as_str();
            let was_parked = known.repos.get(name).is_some_and(|repo| repo.has_parked);
            let is_new = known.records.get(uri) != Some(record);
            if was_parked && !is_removed(name) && is_new && !is_outside_chain(name, &record.rev) {
                prop_assert!(!is_in_chain(name, &record.rev), "{} at {}", uri, record.rev);
            }
        }
        // Parked commits stay before those that arrive.
        let of = |tables: &Tables, name: &str| -> Vec<Bytes> {
            let parked = tables.parked.values().filter(|parked| parked.did == name);
            parked.map(|parked| parked.frame.clone()).collect()
        };
        for name in NAMES.iter().filter(|name| !is_removed(name)) {
            let (before, now) = (of(&known, name), of(&tables, name));
            prop_assert!(now.starts_with(&before), "{}", name);
        }
    }

    /// `has_parked` is set exactly if there are parked commits.
    #[test]
    fn has_parked_says_whether_commits_are_parked(batches in batches()) {
        let tables = tables_of(&batches);
        for name in NAMES {
            let has_parked = tables.parked.values().any(|parked| parked.did == name);
            let says_so = tables.repos.get(name).is_some_and(|repo| repo.has_parked);
            prop_assert_eq!(says_so, has_parked, "{}", name);
        }
    }

    #[test]
    fn an_event_that_is_applied_twice_changes_a_repository_once(
        state in prop::sample::select(RepoState::ALL.to_vec()),
        recheck_cause in prop::option::of(0..3_i64),
        has_parked: bool,
        contents in (any::<bool>(), any::<bool>()),
    ) {
        let repo = RepoRow { state, recheck_cause, has_parked, ..RepoRow::unknown() };
        let (has_records, has_parked) = contents;
        let contents = Contents { has_records, has_parked };
        let until = Timestamp::UNIX_EPOCH;
        for event in [
            RepoEvent::BeginResync,
            RepoEvent::ConfirmRecheck { recheck_cause },
            RepoEvent::FinishReplay,
            RepoEvent::RequestRecheck,
            RepoEvent::RequestResync { cause: ResyncCause::Operator },
            RepoEvent::Reschedule { until, waits_for: None },
            RepoEvent::Reschedule { until, waits_for: Some(WaitsFor::Account) },
            RepoEvent::Suspend { until },
            RepoEvent::Untrack,
        ] {
            let once = transition(Some(&repo), event, contents);
            let twice = match &once {
                Some(repo) => transition(Some(repo), event, contents),
                None => None,
            };
            prop_assert_eq!(&twice, &once, "{:?}", event);
        }
    }
}
