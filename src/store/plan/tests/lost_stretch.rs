//! The judgement on breaks of chains, batch by batch. Nothing is handed from one batch to the next
//! but the rows, as after a restart.

use jiff::{SignedDuration, Timestamp};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::store::plan::lost_stretch::Breaks;
use crate::store::plan::{ChainBreak, OpenGap};

const MINUTE: SignedDuration = SignedDuration::from_mins(1);
const HOUR: SignedDuration = SignedDuration::from_hours(1);

/// What the chains of a source show.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// So many commits follow from their predecessors.
    Held(usize),
    /// The chain of an account breaks at a seq. Its head is ten events before.
    Broken(u64, u64),
}

use Event::{Broken, Held};

/// The tables, and the gaps that were opened: `accounts from..to`.
struct Source {
    rows: Vec<ChainBreak>,
    open: Vec<OpenGap>,
    now: Timestamp,
}

impl Source {
    fn new() -> Self {
        Self {
            rows: Vec::new(),
            open: Vec::new(),
            now: Timestamp::from_second(1_800_000_000).unwrap(),
        }
    }

    /// Plans a batch. Returns the gap that it opens.
    fn batch(&mut self, events: &[Event]) -> Option<String> {
        let mut breaks = Breaks::new(&self.rows, self.open.clone(), self.now);
        for event in events {
            match *event {
                Held(times) => (0..times).for_each(|_| breaks.hold()),
                Broken(account, seq) => {
                    let held = Some((seq - 10, None));
                    breaks.note(&format!("did:plc:{account}"), held, seq, self.now);
                }
            }
        }
        let found = breaks.judge();
        let changes = breaks.into_changes();
        for row in changes.changed {
            self.rows.retain(|known| known.did != row.did);
            self.rows.push(row);
        }
        self.rows
            .retain(|row| !changes.forgotten.contains(&row.did));
        found.map(|(gap, stretch)| {
            assert_eq!(gap.to_seq, Some(stretch.to_seq));
            assert_eq!(gap.from_seq, stretch.from_seq);
            format!(
                "{} {}..{}",
                stretch.accounts, stretch.from_seq, stretch.to_seq
            )
        })
    }

    fn after(&mut self, time: SignedDuration) -> &mut Self {
        self.now += time;
        self
    }

    fn open(&mut self, cause: &str, from_seq: u64, to_seq: Option<u64>) {
        let cause = cause.to_owned();
        self.open.push(OpenGap {
            cause,
            from_seq,
            to_seq,
        });
    }
}

#[test]
fn breaks_of_three_accounts_are_one_gap_between_their_heads_and_the_newest_of_them() {
    let mut source = Source::new();
    assert_eq!(source.batch(&[Broken(1, 101)]), None);
    assert_eq!(source.batch(&[Held(5), Broken(2, 104)]), None);
    let gap = source
        .after(MINUTE)
        .batch(&[Held(3), Broken(3, 107), Held(1)]);
    assert_eq!(gap.as_deref(), Some("3 97..107"));
    assert_eq!(source.batch(&[Held(1)]), None);
}

#[test]
fn an_account_counts_once_however_often_it_breaks() {
    let mut source = Source::new();
    for seq in 100..200 {
        assert_eq!(source.batch(&[Broken(1, seq), Broken(2, seq)]), None);
    }
}

#[test]
fn breaks_that_are_far_apart_are_no_evidence() {
    let mut source = Source::new();
    for account in 1..20 {
        let gap = source
            .after(6 * MINUTE)
            .batch(&[Broken(account, 100 + account)]);
        assert_eq!(gap, None);
    }
}

#[test]
fn while_such_a_gap_is_open_breaks_wait() {
    let mut source = Source::new();
    source.open("source_lost", 10, Some(20));
    let breaks = [Broken(1, 101), Broken(2, 102), Broken(3, 103)];
    assert_eq!(source.batch(&breaks), None);
    source.open.clear();
    let gap = source.after(30 * MINUTE).batch(&[Held(1)]);
    assert_eq!(gap.as_deref(), Some("3 93..103"));
}

#[test]
fn a_gap_that_is_open_explains_the_breaks_behind_it() {
    let breaks = [Broken(1, 101), Broken(2, 102), Broken(3, 103)];
    for (from, to) in [(80, Some(95)), (80, None), (90_000, Some(1))] {
        let mut source = Source::new();
        source.open("outdated_cursor", from, to);
        assert_eq!(source.batch(&breaks), None, "{from}..{to:?}");
        source.open.clear();
        assert_eq!(source.batch(&[]), None, "{from}..{to:?}");
    }
    // It ended before the heads of these accounts.
    let mut source = Source::new();
    source.open("outdated_cursor", 40, Some(60));
    assert!(source.batch(&breaks).is_some());
}

#[test]
fn the_same_accounts_are_heard_once_an_hour() {
    let mut source = Source::new();
    let breaks = |seq| [Broken(1, seq), Broken(2, seq), Broken(3, seq)];
    assert!(source.batch(&breaks(100)).is_some());
    assert_eq!(source.after(MINUTE).batch(&breaks(200)), None);
    // Two new accounts beside one that was heard are not several.
    assert_eq!(source.batch(&[Broken(4, 200), Broken(5, 200)]), None);
    assert!(source.after(HOUR).batch(&breaks(300)).is_some());
}

/// A stranger can make any number of accounts.
#[test]
fn strangers_among_many_that_hold_get_one_gap_an_hour() {
    let mut source = Source::new();
    let strangers = |first: u64| {
        let broken = |n| Broken(first + n, 100 + first + n);
        [broken(0), Held(1000), broken(1), broken(2)]
    };
    assert!(source.batch(&strangers(10)).is_some());
    assert_eq!(source.after(20 * MINUTE).batch(&strangers(20)), None);
    assert_eq!(source.after(20 * MINUTE).batch(&strangers(30)), None);
    // What they have shown is not forgotten.
    assert!(source.after(20 * MINUTE).batch(&[]).is_some());
}

#[test]
fn a_share_of_all_that_is_seen_is_heard_at_once() {
    let mut source = Source::new();
    let lost = |first: u64| {
        let broken = |n| Broken(first + n, 100 + first + n);
        [broken(0), Held(40), broken(1), broken(2)]
    };
    assert!(source.batch(&lost(10)).is_some());
    assert!(source.after(MINUTE).batch(&lost(20)).is_some());
}

#[test]
fn a_clock_that_was_set_back_does_not_silence_anybody() {
    let mut source = Source::new();
    source.after(24 * 365 * HOUR);
    let breaks = |seq| [Broken(1, seq), Broken(2, seq), Broken(3, seq)];
    assert!(source.batch(&breaks(100)).is_some());
    source.after(-24 * 365 * HOUR).batch(&[]);
    assert!(source.after(HOUR).batch(&breaks(200)).is_some());
}

#[test]
fn the_rows_of_a_source_are_limited() {
    let mut source = Source::new();
    source.open("source_lost", 1, Some(2));
    for account in 0..1000 {
        source.batch(&[Broken(account, 100 + account)]);
        assert!(source.rows.len() <= 64);
    }
    source.after(3 * HOUR).batch(&[]);
    assert_eq!(source.rows, []);
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..100_usize).prop_map(Held),
        (0..8_u64, 100..10_000_u64).prop_map(|(account, seq)| Broken(account, seq)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_account_is_heard_twice_in_an_hour_and_a_batch_again_shows_nothing_new(
        batches in vec((vec(event(), 0..6), 0..40_i32), 0..60),
    ) {
        let mut source = Source::new();
        let mut heard = std::collections::BTreeMap::<String, Timestamp>::new();
        for (events, minutes) in batches {
            source.after(minutes * MINUTE);
            let found = source.batch(&events);
            let now = source.now;
            let used = source.rows.iter().filter(|row| row.used_at == Some(now));
            let used: Vec<String> = used.map(|row| row.did.clone()).collect();
            if found.is_some() {
                prop_assert!(used.len() >= 3, "{used:?}");
                for did in used {
                    if let Some(before) = heard.insert(did, now) {
                        prop_assert!(before == now || now.duration_since(before) >= HOUR);
                    }
                }
            }
            prop_assert_eq!(source.batch(&[]), None, "one gap for the same breaks");
        }
    }

    #[test]
    fn two_accounts_are_never_enough(
        batches in vec((vec(event(), 0..6), 0..40_i32), 0..60),
    ) {
        let mut source = Source::new();
        for (mut events, minutes) in batches {
            for event in &mut events {
                if let Broken(account, _) = event {
                    *account %= 2;
                }
            }
            prop_assert_eq!(source.after(minutes * MINUTE).batch(&events), None);
        }
    }
}
