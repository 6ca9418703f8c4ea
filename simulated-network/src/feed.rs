//! The log of a relay, and the position of each client in it, by the rules for cursors.

use bytes::Bytes;
use tokio::sync::watch;

use crate::frame::{self, LogEntry};

#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The number of newest entries that are held; `None` means all.
    pub window: Option<usize>,
    /// Replay begins with the cursor's own event instead of the next one.
    pub inclusive: bool,
    /// Sends neither `OutdatedCursor` nor `FutureCursor`, like the production relay
    /// (bluesky-social/indigo#1328). An outdated cursor then begins at the oldest entry, and a
    /// future cursor at the next new entry.
    pub omits_cursor_messages: bool,
}

/// The log of a relay, which its clients follow. Clones share the same feed.
#[derive(Clone, Debug)]
pub struct Feed(watch::Sender<State>);

#[derive(Debug)]
struct State {
    options: Options,
    log: Vec<LogEntry>,
    /// Followers of an older generation are disconnected.
    generation: u64,
    is_stalled: bool,
    followers: u64,
}

/// The position of one client in the log.
#[derive(Debug)]
pub struct Follower {
    state: watch::Receiver<State>,
    generation: u64,
    /// Sent before the first entry of the log.
    greeting: Option<Bytes>,
    /// The index of the next entry; `None` if the client is refused.
    next: Option<usize>,
    missed: Vec<u64>,
}

/// The next step of a follower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The relay closes the connection.
    Close,
    /// The connection is gone.
    Cut,
    Say(LogEntry),
    /// Nothing until the feed changes.
    Wait,
}

/// The start of a client in the log, by its cursor.
#[derive(Debug, PartialEq, Eq)]
enum Start {
    At(usize),
    Future,
    Outdated(usize),
}

impl Feed {
    /// A feed with an empty log.
    pub fn new(options: Options) -> Self {
        let (state, _) = watch::channel(State {
            options,
            log: Vec::new(),
            generation: 0,
            is_stalled: false,
            followers: 0,
        });
        Self(state)
    }

    /// Sends these entries to all followers.
    pub fn append(&self, entries: &[LogEntry]) {
        self.0
            .send_modify(|state| state.log.extend_from_slice(entries));
    }

    /// Disconnects all clients. They may connect again.
    pub fn cut(&self) {
        self.0.send_modify(|state| state.generation += 1);
    }

    /// Stops sending, or continues.
    pub fn stall(&self, is_stalled: bool) {
        self.0.send_modify(|state| state.is_stalled = is_stalled);
    }

    pub fn is_stalled(&self) -> bool {
        self.0.borrow().is_stalled
    }

    /// Empties the log and disconnects all clients, like a relay that was set up again. The next
    /// entries begin a new sequence (`Network::restart_sequence`).
    pub fn forget(&self) {
        self.0.send_modify(|state| {
            state.log.clear();
            state.generation += 1;
        });
    }

    /// The number of clients so far.
    pub fn followers(&self) -> u64 {
        self.0.borrow().followers
    }

    /// A new client with its cursor.
    pub fn follow(&self, cursor: Option<u64>) -> Follower {
        self.0.send_modify(|state| state.followers += 1);
        let receiver = self.0.subscribe();
        let state = receiver.borrow();
        let (greeting, next) = match state.start(cursor) {
            Start::At(index) => (None, Some(index)),
            Start::Future => (Some(frame::error("FutureCursor")), None),
            Start::Outdated(index) => (Some(frame::info("OutdatedCursor")), Some(index)),
        };
        let missed = next.map(|next| state.missed(cursor, next));
        let generation = state.generation;
        drop(state);
        Follower {
            state: receiver,
            generation,
            greeting,
            next,
            missed: missed.unwrap_or_default(),
        }
    }
}

impl Follower {
    /// The seqs after its cursor that this client has not received, and never will.
    pub fn missed(&self) -> &[u64] {
        &self.missed
    }

    /// The next step, without waiting for it.
    pub fn step(&mut self) -> Next {
        let state = self.state.borrow_and_update();
        if state.generation != self.generation {
            return Next::Cut;
        }
        if let Some(frame) = self.greeting.take() {
            return Next::Say(LogEntry::unnumbered(frame));
        }
        let Some(next) = &mut self.next else {
            return Next::Close;
        };
        match state.log.get(*next) {
            Some(entry) if !state.is_stalled => {
                *next += 1;
                Next::Say(entry.clone())
            }
            _ => Next::Wait,
        }
    }

    /// Returns after the feed has changed; `false` if the feed is gone.
    pub async fn changed(&mut self) -> bool {
        self.state.changed().await.is_ok()
    }
}

impl State {
    fn start(&self, cursor: Option<u64>) -> Start {
        let window = self.options.window.unwrap_or(usize::MAX);
        let oldest = self.log.len().saturating_sub(window);
        let seqs = || self.log[oldest..].iter().filter_map(|entry| entry.seq);
        let Some(cursor) = cursor else {
            return Start::At(self.log.len());
        };
        if cursor > seqs().last().unwrap_or(0) {
            return match self.options.omits_cursor_messages {
                true => Start::At(self.log.len()),
                false => Start::Future,
            };
        }
        // Seqs have gaps, so the entry before the window shows whether an event is missing.
        let forgotten = self.log[..oldest].iter().filter_map(|entry| entry.seq);
        if cursor > 0 && forgotten.last().is_some_and(|last| cursor < last) {
            return match self.options.omits_cursor_messages {
                true => Start::At(oldest),
                false => Start::Outdated(oldest),
            };
        }
        let is_wanted = |seq| match self.options.inclusive {
            true => seq >= cursor,
            false => seq > cursor,
        };
        let held = &self.log[oldest..];
        let first = held
            .iter()
            .position(|entry| entry.seq.is_some_and(is_wanted));
        Start::At(first.map_or(self.log.len(), |first| oldest + first))
    }

    /// The seqs before the entry at `next` that a client with this cursor has not received. A
    /// cursor higher than all seqs is of another sequence, so the client has received none of them.
    fn missed(&self, cursor: Option<u64>, next: usize) -> Vec<u64> {
        let seqs = self.log[..next].iter().filter_map(|entry| entry.seq);
        let last = self.log.iter().filter_map(|entry| entry.seq).next_back();
        match cursor.filter(|cursor| last.is_some_and(|last| *cursor <= last)) {
            Some(cursor) => seqs.filter(|seq| *seq > cursor).collect(),
            None => seqs.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seq: u64) -> LogEntry {
        LogEntry::numbered(seq, Bytes::new())
    }

    /// Seqs 10, 20, … 60.
    fn feed(options: Options) -> Feed {
        let feed = Feed::new(options);
        let entries: Vec<LogEntry> = (1..=6).map(|number| entry(number * 10)).collect();
        feed.append(&entries);
        feed
    }

    fn start(feed: &Feed, cursor: u64) -> Start {
        feed.0.borrow().start(Some(cursor))
    }

    fn held(window: usize) -> Options {
        Options {
            window: Some(window),
            ..Options::default()
        }
    }

    #[test]
    fn a_cursor_within_the_window_begins_at_or_behind_its_event() {
        let inclusive = feed(Options {
            inclusive: true,
            ..Options::default()
        });
        let exclusive = feed(Options::default());
        assert_eq!(start(&exclusive, 20), Start::At(2));
        assert_eq!(start(&inclusive, 20), Start::At(1));
        assert_eq!(start(&exclusive, 25), Start::At(2));
        assert_eq!(start(&exclusive, 60), Start::At(6));
    }

    #[test]
    fn no_cursor_is_live_and_zero_is_the_oldest() {
        let feed = feed(held(3));
        assert_eq!(feed.0.borrow().start(None), Start::At(6));
        assert_eq!(start(&feed, 0), Start::At(3));
    }

    #[test]
    fn a_cursor_is_outdated_only_where_something_after_it_is_gone() {
        let feed = feed(held(3));
        assert_eq!(start(&feed, 20), Start::Outdated(3));
        assert_eq!(start(&feed, 30), Start::At(3));
        assert_eq!(start(&feed, 40), Start::At(4));
    }

    #[test]
    fn a_relay_that_omits_cursor_messages_says_nothing_about_cursors() {
        let feed = feed(Options {
            omits_cursor_messages: true,
            ..held(3)
        });
        assert_eq!(start(&feed, 20), Start::At(3));
        assert_eq!(start(&feed, 61), Start::At(6));
    }

    #[test]
    fn a_cursor_beyond_the_newest_event_is_in_the_future() {
        assert_eq!(start(&feed(Options::default()), 61), Start::Future);
    }

    #[test]
    fn a_follower_knows_what_it_has_missed() {
        let feed = feed(held(3));
        assert_eq!(feed.follow(Some(10)).missed(), [20, 30]);
        assert!(feed.follow(Some(30)).missed().is_empty());
        assert_eq!(feed.follow(None).missed(), [10, 20, 30, 40, 50, 60]);
        assert!(feed.follow(Some(61)).missed().is_empty(), "it is refused");
        let silent = Options {
            omits_cursor_messages: true,
            ..Options::default()
        };
        let feed = Feed::new(silent);
        feed.append(&[entry(1), entry(2)]);
        assert_eq!(feed.follow(Some(1000)).missed(), [1, 2]);
    }

    #[test]
    fn a_follower_is_cut_off_by_a_feed_that_forgets() {
        let feed = feed(Options::default());
        let mut follower = feed.follow(Some(50));
        assert_eq!(follower.step(), Next::Say(entry(60)));
        assert_eq!(follower.step(), Next::Wait);
        feed.stall(true);
        feed.append(&[entry(70)]);
        assert_eq!(follower.step(), Next::Wait);
        feed.stall(false);
        assert_eq!(follower.step(), Next::Say(entry(70)));
        feed.forget();
        assert_eq!(follower.step(), Next::Cut);
    }
}
