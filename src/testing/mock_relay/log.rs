//! The log of the relay, and the start positions of cursors in it.

use std::sync::{PoisonError, RwLock};

use bytes::Bytes;
use tokio::sync::watch;

use super::{Options, Repeat};
use crate::atproto::skim::seq_of;

/// The relay's frames in order: the given ones, repeated as configured, then the pushed ones.
#[derive(Debug)]
pub(super) struct Log {
    given: Vec<Entry>,
    times: u64,
    renumber: fn(&[u8], u64) -> Option<Vec<u8>>,
    /// The first seq among the given frames.
    first: u64,
    /// The distance of seqs from one repetition to the next.
    span: u64,
    pushed: RwLock<Vec<Entry>>,
    grown: watch::Sender<()>,
    inclusive: bool,
    window_start: u64,
}

#[derive(Debug)]
struct Entry {
    seq: Option<u64>,
    /// The highest seq up to and including this frame. It never falls, so it can be searched.
    through: u64,
    frame: Bytes,
}

/// The start of a client's stream, by its cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// Serve from the frame with this index.
    At(u64),
    /// The cursor is ahead of the log.
    Future,
    /// Frames after the cursor are no longer held; serve from this index.
    Outdated(u64),
}

impl Log {
    pub(super) fn new(frames: Vec<Bytes>, options: &Options) -> Self {
        let mut given = Vec::with_capacity(frames.len());
        for frame in frames {
            append(&mut given, 0, frame);
        }
        let first = given.iter().find_map(|entry| entry.seq).unwrap_or(0);
        let last = through(&given).unwrap_or(0);
        let once = Repeat {
            times: 1,
            renumber: |_, _| None,
        };
        let Repeat { times, renumber } = options.repeat.unwrap_or(once);
        Self {
            given,
            times,
            renumber,
            first,
            span: last.saturating_sub(first).saturating_add(1),
            pushed: RwLock::default(),
            grown: watch::Sender::default(),
            inclusive: options.inclusive,
            window_start: options.window_start.unwrap_or(0),
        }
    }

    pub(super) fn push(&self, frame: Bytes) {
        let floor = self.repeated_through().unwrap_or(0);
        let mut pushed = self.pushed.write().unwrap_or_else(PoisonError::into_inner);
        append(&mut pushed, floor, frame);
        self.grown.send_replace(());
    }

    /// Notifies of each pushed frame.
    pub(super) fn growth(&self) -> watch::Receiver<()> {
        self.grown.subscribe()
    }

    pub(super) fn frame(&self, index: u64) -> Option<Bytes> {
        if let Some(index) = index.checked_sub(self.repeated_len()) {
            let pushed = self.pushed.read().unwrap_or_else(PoisonError::into_inner);
            let entry = pushed.get(usize::try_from(index).ok()?)?;
            return Some(entry.frame.clone());
        }
        let len = self.given.len() as u64;
        let entry = &self.given[usize::try_from(index % len).ok()?];
        let risen = entry.seq.filter(|_| index >= len).and_then(|seq| {
            let seq = seq.saturating_add(self.shift(index / len));
            (self.renumber)(&entry.frame, seq)
        });
        Some(risen.map_or_else(|| entry.frame.clone(), Bytes::from))
    }

    /// Where to begin for a client with this `cursor` parameter.
    pub(super) fn start(&self, cursor: Option<u64>) -> Start {
        let Some(cursor) = cursor else {
            return Start::At(self.len());
        };
        let newest = self.through().unwrap_or(0);
        if cursor > newest {
            return Start::Future;
        }
        let oldest_held = match self.window_start {
            0 => 0,
            start => self.index_after(start - 1),
        };
        if cursor == 0 {
            // The client asks for the oldest frame, which may have no seq.
            return Start::At(oldest_held);
        }
        let last_seen = if self.inclusive { cursor - 1 } else { cursor };
        let wanted = self.index_after(last_seen);
        if wanted < oldest_held {
            Start::Outdated(oldest_held)
        } else {
            Start::At(wanted)
        }
    }

    /// The index of the first frame after `seq`.
    fn index_after(&self, seq: u64) -> u64 {
        let behind = |entries: &[Entry], seq| entries.partition_point(|e| e.through <= seq) as u64;
        if self.repeated_through().is_some_and(|last| seq < last) {
            let round = seq.saturating_sub(self.first) / self.span;
            let in_round = behind(&self.given, seq.saturating_sub(self.shift(round)));
            return round * self.given.len() as u64 + in_round;
        }
        let pushed = self.pushed.read().unwrap_or_else(PoisonError::into_inner);
        self.repeated_len() + behind(&pushed, seq)
    }

    /// The offset of the seqs in repetition `round`, counted from 0.
    fn shift(&self, round: u64) -> u64 {
        self.span.saturating_mul(round)
    }

    fn repeated_len(&self) -> u64 {
        (self.given.len() as u64).saturating_mul(self.times)
    }

    fn len(&self) -> u64 {
        let pushed = self.pushed.read().unwrap_or_else(PoisonError::into_inner);
        self.repeated_len() + pushed.len() as u64
    }

    /// The highest seq among the repeated frames.
    fn repeated_through(&self) -> Option<u64> {
        let last_round = self.times.checked_sub(1)?;
        Some(through(&self.given)?.saturating_add(self.shift(last_round)))
    }

    fn through(&self) -> Option<u64> {
        let pushed = self.pushed.read().unwrap_or_else(PoisonError::into_inner);
        through(&pushed).or_else(|| self.repeated_through())
    }
}

fn append(entries: &mut Vec<Entry>, floor: u64, frame: Bytes) {
    let seq = seq_of(&frame);
    let before = through(entries).unwrap_or(floor);
    entries.push(Entry {
        seq,
        through: seq.map_or(before, |seq| seq.max(before)),
        frame,
    });
}

fn through(entries: &[Entry]) -> Option<u64> {
    entries.last().map(|entry| entry.through)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn frame(seq: u64) -> Bytes {
        let header = b"\xa2\x61t\x69#identity\x62op\x01".as_slice();
        let payload = serde_ipld_dagcbor::to_vec(&BTreeMap::from([("seq", seq)])).unwrap();
        [header, &payload].concat().into()
    }

    fn renumber(_: &[u8], seq: u64) -> Option<Vec<u8>> {
        Some(frame(seq).to_vec())
    }

    fn log(seqs: &[u64], options: Options) -> Log {
        Log::new(seqs.iter().map(|seq| frame(*seq)).collect(), &options)
    }

    /// The seqs that a client with this cursor receives.
    fn served(log: &Log, cursor: Option<u64>) -> Vec<u64> {
        let start = match log.start(cursor) {
            Start::At(start) | Start::Outdated(start) => start,
            Start::Future => return Vec::new(),
        };
        let frames = (start..).map_while(|index| log.frame(index));
        frames.filter_map(|frame| seq_of(&frame)).collect()
    }

    #[test]
    fn a_cursor_is_the_last_event_that_the_client_has() {
        let log = log(&[3, 5, 8], Options::default());
        assert_eq!(served(&log, Some(0)), [3, 5, 8]);
        assert_eq!(served(&log, Some(3)), [5, 8]);
        assert_eq!(served(&log, Some(4)), [5, 8]);
        assert_eq!(log.start(Some(8)), Start::At(3));
        assert_eq!(log.start(Some(9)), Start::Future);
    }

    #[test]
    fn an_inclusive_relay_sends_the_event_at_the_cursor_again() {
        let inclusive = true;
        let log = log(
            &[3, 5, 8],
            Options {
                inclusive,
                ..Options::default()
            },
        );
        assert_eq!(served(&log, Some(0)), [3, 5, 8]);
        assert_eq!(served(&log, Some(5)), [5, 8]);
        assert_eq!(served(&log, Some(8)), [8]);
        assert_eq!(log.start(Some(9)), Start::Future);
    }

    #[test]
    fn without_a_cursor_only_what_comes_later_is_sent() {
        let log = log(&[3, 5], Options::default());
        let start = log.start(None);
        log.push(frame(9));
        assert_eq!(start, Start::At(2));
        assert_eq!(log.frame(2), Some(frame(9)));
        assert_eq!(log.start(None), Start::At(3));
        assert_eq!(served(&log, Some(3)), [5, 9]);
        assert_eq!(log.start(Some(10)), Start::Future);
    }

    #[test]
    fn a_cursor_before_the_window_is_outdated() {
        let window_start = Some(5);
        let log = log(
            &[3, 5, 8],
            Options {
                window_start,
                ..Options::default()
            },
        );
        assert_eq!(log.start(Some(1)), Start::Outdated(1));
        assert_eq!(log.start(Some(3)), Start::At(1), "nothing was missed");
        assert_eq!(log.start(Some(0)), Start::At(1), "the oldest was asked for");
    }

    #[test]
    fn repetitions_go_on_rising() {
        let repeat = Some(Repeat { times: 3, renumber });
        let log = log(
            &[3, 5, 8],
            Options {
                repeat,
                ..Options::default()
            },
        );
        let all = [3, 5, 8, 9, 11, 14, 15, 17, 20];
        assert_eq!(served(&log, Some(0)), all);
        for cursor in 1..20 {
            let wanted: Vec<u64> = all.into_iter().filter(|seq| *seq > cursor).collect();
            assert_eq!(served(&log, Some(cursor)), wanted, "cursor {cursor}");
        }
        assert_eq!(log.start(Some(20)), Start::At(9));
        assert_eq!(log.start(Some(21)), Start::Future);
    }

    #[test]
    fn an_empty_relay_waits_for_what_is_pushed() {
        let log = log(&[], Options::default());
        assert_eq!(log.start(Some(0)), Start::At(0));
        assert_eq!(log.start(Some(1)), Start::Future);
        assert_eq!(log.frame(0), None);
        log.push(frame(1));
        assert_eq!(log.frame(0), Some(frame(1)));
    }

    #[test]
    fn frames_without_a_seq_are_served_in_order() {
        let frames = vec![frame(3), Bytes::from_static(b"?"), frame(5)];
        let log = Log::new(frames, &Options::default());
        assert_eq!(log.start(Some(2)), Start::At(0));
        assert_eq!(log.frame(1), Some(Bytes::from_static(b"?")));
        assert_eq!(log.start(Some(3)), Start::At(2));
    }

    #[test]
    fn a_repeated_recording_may_begin_with_a_frame_without_a_seq() {
        let frames = vec![Bytes::from_static(b"?"), frame(3), frame(5)];
        let repeat = Some(Repeat { times: 2, renumber });
        let log = Log::new(
            frames,
            &Options {
                repeat,
                ..Options::default()
            },
        );
        assert_eq!(served(&log, Some(4)), [5, 6, 8]);
        assert_eq!(served(&log, Some(6)), [8]);
    }
}
