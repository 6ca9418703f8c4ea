use jiff::Timestamp;

use super::*;

const HOUR: i64 = 3600;

fn time(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn at(seq: u64, second: i64) -> Position {
    Position {
        seq,
        time: Some(time(second)),
    }
}

fn guard_at(position: Position) -> SequenceGuard {
    SequenceGuard::new(position, None, Duration::from_secs(72 * 3600))
}

/// Shows an event of an unknown account, at a moment at which no time of these tests is ahead.
fn observe(guard: &mut SequenceGuard, position: Position) -> Observation {
    observe_of(guard, position, None)
}

fn observe_of(guard: &mut SequenceGuard, position: Position, account: Option<&str>) -> Observation {
    let seen = Seen {
        position,
        account: account.map(Account::of),
        is_next: true,
        at: Instant::now(),
    };
    guard.observe(seen, time(1000 * HOUR))
}

/// The observations that are no replays and no steps without a gap.
fn surprises(
    guard: &mut SequenceGuard,
    events: impl IntoIterator<Item = (Position, &'static str)>,
) -> Vec<Observation> {
    let is_plain = |observed: &Observation| {
        matches!(
            observed,
            Observation::Replay | Observation::Advance { gap: None }
        )
    };
    events
        .into_iter()
        .map(|(position, account)| observe_of(guard, position, Some(account)))
        .filter(|observed| !is_plain(observed))
        .collect()
}

/// A new connection that was asked to begin with the last event.
fn reconnect(guard: &mut SequenceGuard) {
    let seq = guard.position().seq;
    guard.note_reconnect(Requested {
        seq,
        is_inclusive: true,
    });
}

fn cause(observation: &Observation) -> Option<GapCause> {
    match observation {
        Observation::Advance { gap } => gap.as_ref().map(|gap| gap.cause),
        Observation::Restart { gap } => Some(gap.cause),
        Observation::Leap | Observation::Replay | Observation::Joined { .. } => None,
    }
}

const ADVANCE: Observation = Observation::Advance { gap: None };

// === Within a connection ===

#[test]
fn gaps_in_the_numbering_are_normal() {
    let mut guard = guard_at(at(10, 0));
    assert_eq!(observe(&mut guard, at(500, 1)), ADVANCE);
    assert_eq!(guard.position(), at(500, 1));
}

#[test]
fn an_inclusive_replay_is_no_gap_and_does_not_move_the_cursor_back() {
    let mut guard = guard_at(at(10, 0));
    assert_eq!(observe(&mut guard, at(10, 0)), Observation::Replay);
    assert_eq!(observe(&mut guard, at(3, -60)), Observation::Replay);
    assert_eq!(guard.position(), at(10, 0));
}

#[test]
fn lower_seqs_at_a_later_time_are_a_new_sequence_when_several_events_say_so() {
    let mut guard = guard_at(at(1_000_000, 0));
    assert_eq!(observe(&mut guard, at(1, 60)), Observation::Replay);
    assert_eq!(observe(&mut guard, at(2, 60)), Observation::Replay);
    assert_eq!(guard.position(), at(1_000_000, 0));
    let Observation::Restart { gap } = observe(&mut guard, at(3, 61)) else {
        panic!("not seen as a restart");
    };
    assert_eq!(gap.cause, GapCause::SequenceReset);
    assert_eq!((gap.from_seq, gap.to_seq), (1_000_000, Some(1)));
    assert_eq!(guard.position(), at(3, 61));
    assert_eq!(observe(&mut guard, at(4, 61)), ADVANCE);
}

#[test]
fn the_clock_of_one_account_makes_no_gap() {
    let mut guard = guard_at(at(10, 0));
    // Lower seqs, higher ones, and times that swing, all of one account.
    let low = (1..9).map(|n| (at(n, 60), "eve"));
    assert_eq!(surprises(&mut guard, low), []);
    let days = 24 * HOUR;
    let swinging = (11..200).map(|n| (at(n, (n as i64 % 2) * 5 * days), "eve"));
    assert_eq!(surprises(&mut guard, swinging), []);
    let between = [
        (at(201, -500_000 * HOUR), "eve"),
        (at(202, 2), "ann"),
        (at(203, -500_000 * HOUR), "eve"),
        (at(204, 3), "bob"),
        (at(205, 900 * HOUR), "eve"),
        (at(206, 4), "bob"),
    ];
    assert_eq!(surprises(&mut guard, between), []);
    assert_eq!(guard.position(), at(206, 4));
}

#[test]
fn a_server_with_one_account_may_begin_its_seqs_again_too() {
    let mut guard = guard_at(at(1_000_000, 0));
    let observed = surprises(&mut guard, (1..40).map(|n| (at(n, 60), "ann")));
    assert_eq!(
        observed.iter().filter_map(cause).collect::<Vec<_>>(),
        [GapCause::SequenceReset]
    );
    assert_eq!(guard.position().seq, 39);
}

#[test]
fn times_of_the_future_prove_no_new_sequence() {
    let mut guard = guard_at(at(1000, 0));
    let ahead = (1..99).map(|n| (at(n, 2000 * HOUR), if n % 2 == 0 { "ann" } else { "eve" }));
    assert_eq!(surprises(&mut guard, ahead), []);
}

#[test]
fn a_range_that_is_repeated_is_recognized_by_its_events_whatever_their_times_say() {
    let mut guard = guard_at(at(10, 0));
    // Most accounts have a clock that is years behind.
    let clocks = ["a", "b", "c", "d", "e", "f"];
    let events: Vec<_> = (11..80)
        .map(|n| match n % 7 {
            0 => (at(n, n as i64), "ann"),
            k => (at(n, -90_000 * HOUR), clocks[k as usize - 1]),
        })
        .collect();
    assert_eq!(surprises(&mut guard, events.clone()), []);
    assert_eq!(surprises(&mut guard, events), []);
    assert_eq!(guard.position().seq, 79);
}

#[test]
fn a_silence_longer_than_the_window_is_a_gap_without_a_notice() {
    let mut guard = guard_at(at(10, 0));
    let begun = Instant::now();
    let seen = |position, hours: u64| Seen {
        position,
        account: None,
        is_next: true,
        at: begun + Duration::from_secs(hours * 3600),
    };
    let ahead = time(1000 * HOUR);
    assert_eq!(guard.observe(seen(at(11, 0), 0), ahead), ADVANCE);
    let observed = guard.observe(seen(at(12, 1), 73), ahead);
    assert_eq!(cause(&observed), Some(GapCause::OutdatedCursor));
}

#[test]
fn an_outdated_cursor_opens_a_gap_that_ends_at_the_next_event() {
    let mut guard = guard_at(at(10, 0));
    guard.note_outdated_cursor();
    let unfinished = guard.unfinished_gap().unwrap();
    assert_eq!((unfinished.from_seq, unfinished.to_seq), (10, None));
    let Observation::Advance { gap: Some(gap) } = observe(&mut guard, at(90, 5)) else {
        panic!("no gap was seen");
    };
    assert_eq!((gap.from_seq, gap.to_seq), (10, Some(90)));
    assert_eq!(guard.unfinished_gap(), None);
}

// === Leaps ===

const LEAP: u64 = 1 << 50;

#[test]
fn one_seq_far_ahead_never_becomes_the_position() {
    let mut guard = guard_at(at(10, 0));
    assert_eq!(observe(&mut guard, at(LEAP, 1)), Observation::Leap);
    assert_eq!(guard.position(), at(10, 0));
    assert_eq!(observe(&mut guard, at(11, 1)), ADVANCE);
    // The same account again, and the same frame again, confirm nothing.
    let again = [LEAP, LEAP, LEAP + 1, LEAP + 2].map(|seq| (at(seq, 2), "eve"));
    assert_eq!(surprises(&mut guard, again).len(), 4);
    assert_eq!(guard.position(), at(11, 1));
    assert_eq!(observe(&mut guard, at(12, 2)), ADVANCE);
}

#[test]
fn a_leap_that_others_follow_is_believed_and_no_gap() {
    let mut guard = guard_at(at(10, 0));
    let mut leap = |n, account| observe_of(&mut guard, at(LEAP + n, 1), Some(account));
    assert_eq!(leap(0, "ann"), Observation::Leap);
    assert_eq!(leap(1, "bob"), Observation::Leap);
    assert_eq!(leap(2, "ann"), ADVANCE);
    assert_eq!(guard.position(), at(LEAP + 2, 1));
    assert_eq!(observe(&mut guard, at(LEAP + 3, 1)), ADVANCE);
}

#[test]
fn a_leap_of_the_only_account_is_believed_later() {
    let mut guard = guard_at(at(10, 0));
    let leaps = surprises(&mut guard, (0..40).map(|n| (at(LEAP + n, 1), "ann")));
    assert_eq!(leaps.len(), 15);
    assert_eq!(guard.position().seq, LEAP + 39);
}

#[test]
fn a_source_whose_steps_are_always_long_is_followed_at_once_from_then_on() {
    let mut guard = guard_at(at(1 << 40, 0));
    // Numbered by the microsecond.
    let events = (1..50).map(|n| (at((1 << 40) + n * 3_000_000 + n % 7, n as i64 * 3), "ann"));
    let accounts = ["ann", "bob"].into_iter().cycle();
    let events = events
        .zip(accounts)
        .map(|((position, _), account)| (position, account));
    assert_eq!(surprises(&mut guard, events).len(), 2);
    assert_eq!(guard.position().seq, (1 << 40) + 49 * 3_000_000);
}

#[test]
fn the_line_before_a_false_leap_goes_on_after_all() {
    let mut guard = guard_at(at(10, 0));
    let false_ones = [("ann", 0), ("bob", 1), ("eve", 2)];
    surprises(
        &mut guard,
        false_ones.map(|(account, n)| (at(LEAP + n, 1), account)),
    );
    assert_eq!(guard.position().seq, LEAP + 2);
    let line = [(at(11, 1), "ann"), (at(12, 1), "bob"), (at(13, 1), "ann")];
    let observed = surprises(&mut guard, line);
    let [Observation::Restart { gap }] = observed.as_slice() else {
        panic!("the line was lost: {observed:?}");
    };
    assert_eq!((gap.from_seq, gap.to_seq), (LEAP + 2, Some(11)));
    assert_eq!(guard.position(), at(13, 1));
}

#[test]
fn the_first_event_of_all_may_be_numbered_wrongly_too() {
    let mut guard = guard_at(Position::default());
    assert_eq!(observe(&mut guard, at(LEAP, 0)), Observation::Leap);
    assert_eq!(observe(&mut guard, at(7, 0)), ADVANCE);
    assert_eq!(guard.position(), at(7, 0));
}

// === The first events of a connection ===

/// A guard at the 1000th event, with a new connection before the next event.
fn guard_at_reconnect() -> SequenceGuard {
    let mut guard = guard_at(at(1000, 0));
    reconnect(&mut guard);
    guard
}

#[test]
fn a_connection_that_begins_with_the_last_event_continues_the_sequence() {
    let mut guard = guard_at_reconnect();
    // An inclusive server.
    assert_eq!(observe(&mut guard, at(999, -1)), Observation::Replay);
    assert!(guard.is_proof(at(1000, 0)));
    assert_eq!(observe(&mut guard, at(1000, 0)), Observation::Replay);
    // Even if nothing happened for a long time.
    assert_eq!(observe(&mut guard, at(1001, 20 * HOUR)), ADVANCE);
}

/// The clocks of few accounts may be far behind, so the time of a single event says little.
#[test]
fn an_event_that_is_repeated_behind_the_one_before_the_requested_one_is_no_gap() {
    let mut guard = guard_at(at(1000, 0));
    let quiet_ones = [(1001, 1, "ann"), (1002, 2, "bob"), (1003, 3, "eve")];
    for (seq, second, account) in quiet_ones {
        observe_of(&mut guard, at(seq, second), Some(account));
    }
    for (seq, second) in [(1005, 60), (1006, 61)] {
        observe_of(&mut guard, at(seq, second), Some("tom"));
    }
    reconnect(&mut guard);
    assert_eq!(observe(&mut guard, at(1005, 60)), Observation::Replay);
    // It was not observed the first time, because nothing in it is kept.
    assert_eq!(observe(&mut guard, at(1004, 59)), Observation::Replay);
    assert_eq!(guard.position(), at(1006, 61));
    assert_eq!(observe(&mut guard, at(1006, 61)), Observation::Replay);
    assert_eq!(observe(&mut guard, at(1007, 62)), ADVANCE);
}

/// The event before the requested one is later than the last event, so it is of another sequence.
#[test]
fn a_sequence_that_begins_anew_just_before_the_requested_event_is_a_gap() {
    let mut guard = guard_at_reconnect();
    assert_eq!(observe(&mut guard, at(999, HOUR)), Observation::Replay);
    let next = observe(&mut guard, at(1000, HOUR + 1));
    assert_eq!(cause(&next), Some(GapCause::SequenceReset));
    // A lower one need not wait for others, as one on a connection that has begun as asked would.
    let mut guard = guard_at_reconnect();
    assert_eq!(observe(&mut guard, at(999, HOUR)), Observation::Replay);
    let next = observe(&mut guard, at(990, HOUR + 1));
    assert_eq!(cause(&next), Some(GapCause::SequenceReset));
}

#[test]
fn a_start_before_the_requested_event_is_a_gap_until_the_replay_joins_up() {
    for end in [at(1000, 0), at(1001, 1)] {
        let mut guard = guard_at_reconnect();
        for replayed in [at(990, -9), at(990, -9), at(991, -8)] {
            assert_eq!(observe(&mut guard, replayed), Observation::Replay);
            let gap = guard.unfinished_gap().unwrap();
            assert_eq!((gap.cause, gap.to_seq), (GapCause::SequenceReset, None));
        }
        let Observation::Joined { void } = observe(&mut guard, end) else {
            panic!("not joined");
        };
        assert_eq!((void.from_seq, void.to_seq), (1000, Some(1000)));
        assert_eq!(guard.unfinished_gap(), None);
        assert_eq!(observe(&mut guard, at(1002, HOUR)), ADVANCE);
    }
}

#[test]
fn a_replay_that_does_not_join_up_in_time_is_another_sequence() {
    let mut guard = guard_at_reconnect();
    let begun = Instant::now();
    let seen = |position, second: u64| Seen {
        position,
        account: None,
        is_next: true,
        at: begun + Duration::from_secs(second),
    };
    let ahead = time(1000 * HOUR);
    assert_eq!(
        guard.observe(seen(at(5, -9), 0), ahead),
        Observation::Replay
    );
    let Observation::Restart { gap } = guard.observe(seen(at(6, -8), 40), ahead) else {
        panic!("not given up");
    };
    assert_eq!((gap.from_seq, gap.to_seq), (1000, Some(5)));
    assert_eq!(guard.position(), at(6, -8));
}

#[test]
fn lower_seqs_at_a_later_time_on_a_new_connection_are_a_gap_at_once() {
    for is_inclusive in [true, false] {
        let mut guard = guard_at(at(1000, 0));
        guard.note_reconnect(Requested {
            seq: 1000,
            is_inclusive,
        });
        let Observation::Restart { gap } = observe(&mut guard, at(5, HOUR)) else {
            panic!("not seen as a restart");
        };
        assert_eq!((gap.from_seq, gap.to_seq), (1000, Some(5)));
        assert_eq!(guard.position(), at(5, HOUR));
    }
}

#[test]
fn a_gap_of_a_connection_that_began_too_early_outlives_that_connection() {
    let mut guard = guard_at_reconnect();
    observe(&mut guard, at(5, -9));
    assert!(guard.unfinished_gap().is_some());
    reconnect(&mut guard);
    assert!(guard.unfinished_gap().is_some());
    let observed = observe(&mut guard, at(1000, 0));
    assert!(
        matches!(observed, Observation::Joined { .. }),
        "{observed:?}"
    );
}

/// The socket resumes at the last seq that it read, which may be a repeated one.
#[test]
fn a_connection_that_was_asked_to_begin_before_the_position_is_no_gap() {
    let mut guard = guard_at(at(1000, 0));
    guard.note_reconnect(Requested {
        seq: 990,
        is_inclusive: true,
    });
    let replayed = [989, 990, 991, 1000, 1001].map(|seq| (at(seq, seq as i64 - 1000), "ann"));
    assert_eq!(surprises(&mut guard, replayed), []);
    assert_eq!(guard.unfinished_gap(), None);
    assert_eq!(guard.position(), at(1001, 1));
}

#[test]
fn numbers_that_are_left_out_for_longer_than_the_window_are_a_gap() {
    for seq in [40, 9001] {
        let mut guard = guard_at(at(1, 0));
        let observed = observe(&mut guard, at(seq, 120 * HOUR));
        assert_eq!(cause(&observed), Some(GapCause::OutdatedCursor), "{seq}");
    }
    // Either alone is none.
    let mut guard = guard_at(at(1, 0));
    assert_eq!(observe(&mut guard, at(2, 120 * HOUR)), ADVANCE);
    assert_eq!(observe(&mut guard, at(9001, 120 * HOUR)), ADVANCE);
}

/// It gives no position, so the guard does not see it.
#[test]
fn an_unreadable_frame_may_be_the_requested_event() {
    for (seq, has_gap) in [(1000, false), (7, true)] {
        let mut guard = guard_at_reconnect();
        guard.note_unreadable(seq);
        observe(&mut guard, at(5, -9));
        assert_eq!(guard.unfinished_gap().is_some(), has_gap, "{seq}");
    }
}

#[test]
fn the_last_event_with_another_time_is_another_sequence() {
    // Two relays with similar seqs that are not the same sequence.
    for seconds in [-3, 3] {
        let observed = observe(&mut guard_at_reconnect(), at(1000, seconds));
        assert_eq!(cause(&observed), Some(GapCause::SequenceReset));
        assert!(matches!(observed, Observation::Restart { .. }));
    }
}

#[test]
fn a_missing_last_event_means_later_ones_may_be_missing() {
    let observed = observe(&mut guard_at_reconnect(), at(5000, 96 * HOUR));
    assert_eq!(cause(&observed), Some(GapCause::OutdatedCursor));
    let observed = observe(&mut guard_at_reconnect(), at(5000, HOUR));
    assert_eq!(cause(&observed), Some(GapCause::OutdatedCursor));
    // A server erases the events of a deleted account.
    let observed = observe(&mut guard_at_reconnect(), at(1001, 1));
    assert_eq!(cause(&observed), None);
}

#[test]
fn higher_seqs_at_an_earlier_time_are_a_new_sequence() {
    let mut guard = guard_at_reconnect();
    let observed = observe(&mut guard, at(1500, -70 * HOUR));
    assert_eq!(cause(&observed), Some(GapCause::SequenceReset));
    assert_eq!(guard.position(), at(1500, -70 * HOUR));
}

#[test]
fn a_leap_at_the_first_event_is_a_gap_at_once_and_moves_the_cursor_when_it_is_confirmed() {
    for (seconds, expected) in [
        (-70 * HOUR, GapCause::SequenceReset),
        (1, GapCause::SequenceReset),
        (70 * HOUR, GapCause::OutdatedCursor),
    ] {
        let mut guard = guard_at_reconnect();
        let mut leap = |n: u64| observe(&mut guard, at(26_000_000 + n, seconds));
        assert_eq!([leap(0), leap(1)], [Observation::Leap, Observation::Leap]);
        assert_eq!(guard.position(), at(1000, 0));
        let unfinished = guard.unfinished_gap().unwrap();
        assert_eq!((unfinished.cause, unfinished.from_seq), (expected, 1000));
        let observed = observe(&mut guard, at(26_000_002, seconds));
        let Observation::Advance { gap: Some(gap) } = observed else {
            panic!("no gap: {observed:?}");
        };
        assert_eq!((gap.cause, gap.to_seq), (expected, Some(26_000_000)));
        assert_eq!(guard.position().seq, 26_000_002);
    }
}

/// A wrong seq may come before the last event, which is requested again after each start. The
/// source may be quiet afterwards, so nothing else would end the gap.
#[test]
fn a_leap_before_the_requested_event_is_a_gap_until_that_event_comes() {
    for (seconds, expected) in [
        (-11, GapCause::SequenceReset),
        (11, GapCause::OutdatedCursor),
    ] {
        for is_reconnected in [false, true] {
            let mut guard = guard_at_reconnect();
            assert_eq!(observe(&mut guard, at(999, -12)), Observation::Replay);
            let leap = observe(&mut guard, at(1_001_000, seconds));
            assert_eq!(leap, Observation::Leap);
            let unfinished = guard.unfinished_gap().unwrap();
            assert_eq!((unfinished.cause, unfinished.from_seq), (expected, 1000));
            if is_reconnected {
                reconnect(&mut guard);
            }
            let Observation::Joined { void } = observe(&mut guard, at(1000, 0)) else {
                panic!("not joined");
            };
            assert_eq!((void.cause, void.from_seq), (expected, 1000));
            assert_eq!(void.to_seq, Some(1000));
            assert_eq!(guard.unfinished_gap(), None);
            assert_eq!(observe(&mut guard, at(1001, HOUR)), ADVANCE);
        }
    }
}

#[test]
fn a_leap_hides_no_other_sequence_behind_it() {
    let mut guard = guard_at_reconnect();
    assert_eq!(observe(&mut guard, at(1_001_000, 1)), Observation::Leap);
    let observed = observe(&mut guard, at(1000, 3));
    assert_eq!(cause(&observed), Some(GapCause::SequenceReset));
    assert_eq!(guard.position(), at(1000, 3));
    // A notice of the source outlives the leap.
    let mut guard = guard_at_reconnect();
    guard.note_outdated_cursor();
    assert_eq!(observe(&mut guard, at(1_001_000, 1)), Observation::Leap);
    assert_eq!(observe(&mut guard, at(1000, 0)), Observation::Replay);
    assert!(guard.unfinished_gap().is_some());
}

#[test]
fn a_leap_does_not_show_that_a_replay_has_joined_up() {
    let mut guard = guard_at_reconnect();
    assert_eq!(observe(&mut guard, at(990, -9)), Observation::Replay);
    assert_eq!(observe(&mut guard, at(1_001_000, 1)), Observation::Leap);
    assert!(guard.unfinished_gap().is_some());
    let observed = observe(&mut guard, at(1001, 1));
    assert!(
        matches!(observed, Observation::Joined { .. }),
        "{observed:?}"
    );
    assert_eq!(guard.position(), at(1001, 1));
}

#[test]
fn a_leap_before_an_earlier_requested_event_is_no_gap_in_the_end() {
    let mut guard = guard_at(at(1000, 0));
    guard.note_reconnect(Requested {
        seq: 990,
        is_inclusive: true,
    });
    assert_eq!(observe(&mut guard, at(1_001_000, 1)), Observation::Leap);
    let observed = observe(&mut guard, at(990, -10));
    assert!(
        matches!(observed, Observation::Joined { .. }),
        "{observed:?}"
    );
    assert_eq!(guard.unfinished_gap(), None);
    assert_eq!(guard.position(), at(1000, 0));
}

#[test]
fn a_cursor_that_was_set_too_high_is_detected_without_a_notice() {
    let by_hand = Position {
        seq: 1000,
        time: None,
    };
    let mut guard = guard_at(by_hand);
    reconnect(&mut guard);
    let observed = observe(&mut guard, at(7, 0));
    assert_eq!(cause(&observed), Some(GapCause::FutureCursor));
    assert_eq!(guard.position(), at(7, 0));

    let mut guard = guard_at(by_hand);
    reconnect(&mut guard);
    assert_eq!(observe(&mut guard, at(1000, 0)), Observation::Replay);
    assert_eq!(guard.position(), at(1000, 0));
}

#[test]
fn a_stored_cursor_with_a_time_of_the_future_is_no_reason_to_wait() {
    let mut guard = guard_at(at(LEAP, 9000 * HOUR));
    reconnect(&mut guard);
    let observed = observe(&mut guard, at(7, 0));
    assert_eq!(cause(&observed), Some(GapCause::FutureCursor));
    assert_eq!(guard.position(), at(7, 0));
    // If the source has that very event, it is the cursor.
    let mut guard = guard_at(at(7, 9000 * HOUR));
    reconnect(&mut guard);
    assert_eq!(observe(&mut guard, at(7, 9000 * HOUR)), Observation::Replay);
    assert_eq!(observe(&mut guard, at(8, 0)), ADVANCE);
}

#[test]
fn a_source_without_a_cursor_has_no_gap() {
    let mut guard = guard_at(Position::default());
    reconnect(&mut guard);
    assert_eq!(observe(&mut guard, at(7, 0)), ADVANCE);
}

#[test]
fn a_start_at_the_live_end_is_a_gap_up_to_the_first_event() {
    let mut guard = SequenceGuard::new(
        Position::default(),
        Some(GapCause::StartedLive),
        Duration::from_secs(HOUR as u64),
    );
    let Observation::Advance { gap: Some(gap) } = observe(&mut guard, at(77, 0)) else {
        panic!("no gap was seen");
    };
    assert_eq!((gap.cause, gap.to_seq), (GapCause::StartedLive, Some(77)));
}
