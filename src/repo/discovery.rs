//! What the BackfillActor remembers of each search: when its next page is due, and which cursors it
//! has had.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use crate::delivery::backoff::{Backoff, InvalidBackoff};
use crate::repo::host::Page;
use crate::store::repo_store::{Discovery, Search};

const RETRY_MIN: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(300);
const RETRY_JITTER: f64 = 0.3;
/// The pause before the next page of a search whose last pages brought nothing new. It doubles with
/// each of them, after `BARREN_AT_ONCE`, up to `BARREN_MAX`.
const BARREN_MIN: Duration = Duration::from_millis(250);
const BARREN_MAX: Duration = Duration::from_secs(30);
const BARREN_AT_ONCE: u32 = 3;
/// After so many of them in a row the search ends.
const MOST_BARREN: u32 = 50;
/// How many accounts of a search are remembered, to see whether a page brings new ones.
const REMEMBERED: usize = 100_000;
/// How long a search is put off whose method the server does not have.
pub(super) const UNSUPPORTED_RETRY: Duration = Duration::from_secs(3600);

/// The searches whose last page failed, and what the pages of all brought.
#[derive(Default)]
pub(super) struct Searches {
    failed: HashMap<Search, Failed>,
    pages: HashMap<Search, Pages>,
    /// The search whose page was fetched last. Those behind it come next.
    last: Option<Search>,
}

/// The pages of one search so far.
#[derive(Default)]
struct Pages {
    cursors: Cursors,
    /// The hashes of the accounts of recent pages.
    seen: HashSet<u64>,
    hasher: RandomState,
    /// Pages in a row that brought no new account.
    barren: u32,
    /// When the next page is due.
    due: Option<Instant>,
}

/// Why a search ends although the list has more pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endless {
    /// Its cursors repeat.
    Circle,
    /// Too many pages brought nothing new.
    NothingNew,
}

impl Endless {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Circle => "its cursors repeat",
            Self::NothingNew => "page after page brings no new account",
        }
    }
}

struct Failed {
    backoff: Backoff,
    until: Instant,
}

/// Finds a cursor that repeats, with the memory of one cursor: the remembered one is replaced after
/// 1, 2, 4, 8, … pages, so it is one of the loop when the loop is shorter than that.
#[derive(Default)]
struct Cursors {
    remembered: Option<String>,
    pages: u64,
}

/// What to do next.
#[derive(Debug, PartialEq)]
pub(super) enum Next<'a> {
    Fetch(&'a Discovery),
    /// All searches that are not over wait until then.
    Wait(Instant),
    AllOver,
}

impl Searches {
    /// The next search, in turn, whose page may be fetched. One that fails, or that has ever more
    /// pages, does not stop the others.
    pub(super) fn next<'a>(&mut self, discoveries: &'a [Discovery], now: Instant) -> Next<'a> {
        let last = self.last.as_ref();
        let behind = discoveries
            .iter()
            .position(|discovery| Some(&discovery.search) == last)
            .map_or(0, |last| last + 1);
        let (before, behind) = discoveries.split_at(behind);
        let mut waits = None;
        for discovery in behind.iter().chain(before) {
            if discovery.is_over {
                continue;
            }
            match self.due(&discovery.search).filter(|due| now < *due) {
                Some(due) => waits = Some(waits.map_or(due, |at: Instant| at.min(due))),
                None => {
                    self.last = Some(discovery.search.clone());
                    return Next::Fetch(discovery);
                }
            }
        }
        waits.map_or(Next::AllOver, Next::Wait)
    }

    fn due(&self, search: &Search) -> Option<Instant> {
        let of_failure = self.failed.get(search).map(|failed| failed.until);
        of_failure.max(self.pages.get(search).and_then(|pages| pages.due))
    }

    /// Puts a search off after a failure, at least for `at_least`. Returns for how long.
    pub(super) fn fail(
        &mut self,
        search: &Search,
        at_least: Duration,
        now: Instant,
    ) -> Result<Duration, InvalidBackoff> {
        let failed = match self.failed.remove(search) {
            Some(failed) => failed,
            None => Failed {
                backoff: Backoff::try_new(
                    RETRY_MIN,
                    RETRY_MAX,
                    RETRY_JITTER,
                    fastrand::Rng::new(),
                )?,
                until: now,
            },
        };
        let Failed { mut backoff, .. } = failed;
        let delay = backoff.next_delay().max(at_least);
        let until = now + delay;
        self.failed
            .insert(search.clone(), Failed { backoff, until });
        Ok(delay)
    }

    /// Puts a search off whose server could not be asked.
    pub(super) fn put_off(&mut self, search: &Search, until: Instant) {
        let pages = self.pages.entry(search.clone()).or_default();
        pages.due = Some(until);
    }

    /// Notes a page with the cursor of the next one. Returns why the search has to end although there
    /// is a next page.
    pub(super) fn succeed(
        &mut self,
        search: &Search,
        page: &Page,
        asked_with: Option<&str>,
        now: Instant,
    ) -> Option<Endless> {
        self.failed.remove(search);
        let Some(cursor) = page.cursor.as_deref() else {
            self.pages.remove(search);
            return None;
        };
        let pages = self.pages.entry(search.clone()).or_default();
        let endless = pages.see(page, now);
        let endless = match pages.cursors.see(cursor) || asked_with == Some(cursor) {
            true => Some(Endless::Circle),
            false => endless,
        };
        if endless.is_some() {
            self.pages.remove(search);
        }
        endless
    }
}

impl Pages {
    /// Notes the accounts of a page, which decide when the next one is due.
    fn see(&mut self, page: &Page, now: Instant) -> Option<Endless> {
        if self.seen.len() > REMEMBERED {
            self.seen.clear();
        }
        let mut brings_new = false;
        for did in &page.dids {
            brings_new |= self.seen.insert(self.hasher.hash_one(did.as_str()));
        }
        self.barren = match brings_new {
            true => 0,
            false => self.barren + 1,
        };
        let beyond = self.barren.checked_sub(BARREN_AT_ONCE);
        let pause = beyond.map(|beyond| BARREN_MIN.saturating_mul(1 << beyond.min(16)));
        self.due = pause.map(|pause| now + pause.min(BARREN_MAX));
        (self.barren >= MOST_BARREN).then_some(Endless::NothingNew)
    }
}

impl Cursors {
    fn see(&mut self, cursor: &str) -> bool {
        let repeats = self.remembered.as_deref() == Some(cursor);
        self.pages += 1;
        if self.pages.is_power_of_two() {
            self.remembered = Some(cursor.to_owned());
        }
        repeats
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atproto::syntax::{Did, Nsid};

    fn search(name: &str) -> Search {
        Search::Collection(Nsid::parse(&format!("com.huddle.{name}")).unwrap())
    }

    fn running(name: &str) -> Discovery {
        Discovery {
            search: search(name),
            cursor: None,
            repos: 0,
            is_over: false,
            unsupported: None,
            pass: 1,
        }
    }

    fn page(dids: impl Iterator<Item = u64>, cursor: &str) -> Page {
        let did = |number| Did::parse(&format!("did:web:{number}.example")).unwrap();
        Page {
            dids: dids.map(did).collect(),
            cursor: Some(cursor.to_owned()),
        }
    }

    #[test]
    fn a_search_that_fails_waits_and_the_others_go_on() {
        let (mut searches, now) = (Searches::default(), Instant::now());
        let discoveries = [running("booking"), running("slotOffer")];
        let [first, second] = &discoveries;
        let zero = Duration::ZERO;
        assert_eq!(searches.next(&discoveries, now), Next::Fetch(first));
        let delay = searches.fail(&first.search, zero, now).unwrap();
        assert_eq!(searches.next(&discoveries, now), Next::Fetch(second));
        searches
            .fail(&second.search, UNSUPPORTED_RETRY, now)
            .unwrap();
        assert_eq!(searches.next(&discoveries, now), Next::Wait(now + delay));
        let later = now + delay;
        assert_eq!(searches.next(&discoveries, later), Next::Fetch(first));
        assert!(searches.fail(&first.search, zero, later).unwrap() > delay);
        let last = Page {
            dids: Vec::new(),
            cursor: None,
        };
        assert_eq!(searches.succeed(&first.search, &last, None, later), None);
        assert_eq!(searches.next(&discoveries, later), Next::Fetch(first));
        assert_eq!(searches.next(&[], now), Next::AllOver);
    }

    #[test]
    fn searches_take_turns_however_many_pages_one_has() {
        let (mut searches, now) = (Searches::default(), Instant::now());
        let discoveries = [running("a"), running("b"), running("c")];
        let [a, b, c] = &discoveries;
        for turn in 0..10 {
            for expected in [a, b, c] {
                assert_eq!(searches.next(&discoveries, now), Next::Fetch(expected));
                let page = page(turn..turn + 1, &turn.to_string());
                assert_eq!(searches.succeed(&expected.search, &page, None, now), None);
            }
        }
    }

    #[test]
    fn a_cursor_that_repeats_is_found_however_long_the_circle() {
        let now = Instant::now();
        for circle in [1_u64, 2, 3, 7, 100] {
            let mut searches = Searches::default();
            let pages = (0..1000_u64).map(|number| match number {
                0..5 => page(number..number + 1, &format!("begin-{number}")),
                _ => page(number..number + 1, &format!("circle-{}", number % circle)),
            });
            let found = pages
                .map(|page| searches.succeed(&search("booking"), &page, None, now))
                .take_while(Option::is_none)
                .count() as u64;
            assert!(found < 10 + 4 * circle, "{found} pages of {circle}");
        }
        let mut searches = Searches::default();
        for number in 0..1000 {
            let page = page(number..number + 1, &number.to_string());
            assert_eq!(searches.succeed(&search("booking"), &page, None, now), None);
        }
    }

    #[test]
    fn a_page_whose_cursor_is_its_own_is_the_last_one() {
        let mut searches = Searches::default();
        let page = page(0..1, "x");
        let endless = searches.succeed(&search("booking"), &page, Some("x"), Instant::now());
        assert_eq!(endless, Some(Endless::Circle));
    }

    #[test]
    fn pages_that_bring_nothing_new_come_ever_later_and_end_the_search() {
        let (mut searches, start) = (Searches::default(), Instant::now());
        let discoveries = [running("booking")];
        let (mut now, mut pages) = (start, 0_u64);
        let endless = loop {
            match searches.next(&discoveries, now) {
                Next::Wait(until) => now = until,
                _ => {
                    pages += 1;
                    let page = page(0..10, &format!("cursor-{pages}"));
                    if let Some(endless) = searches.succeed(&search("booking"), &page, None, now) {
                        break endless;
                    }
                }
            }
            if now.duration_since(start) < Duration::from_secs(15) {
                assert!(pages < 12, "{pages} pages");
            }
        };
        assert_eq!(endless, Endless::NothingNew);
        assert_eq!(pages, 1 + u64::from(MOST_BARREN));
        // One new account is enough.
        for turn in 0..500 {
            let page = page(turn / 4..turn / 4 + 1, &format!("other-{turn}"));
            assert_eq!(searches.succeed(&search("booking"), &page, None, now), None);
        }
    }
}
