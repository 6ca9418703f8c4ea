//! What the BackfillActor remembers of each search: when its next page is due, and which cursors it
//! has had.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::delivery::backoff::{Backoff, InvalidBackoff};
use crate::store::repo_store::{Discovery, Search};

const RETRY_MIN: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(300);
const RETRY_JITTER: f64 = 0.3;
/// How long a search is put off whose method the server does not have.
pub(super) const UNSUPPORTED_RETRY: Duration = Duration::from_secs(3600);

/// The searches whose last page failed, and the cursors of all.
#[derive(Default)]
pub(super) struct Searches {
    failed: HashMap<Search, Failed>,
    cursors: HashMap<Search, Cursors>,
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
    /// The first search whose next page may be fetched. One that fails does not stop the others.
    pub(super) fn next<'a>(&self, discoveries: &'a [Discovery], now: Instant) -> Next<'a> {
        let mut waits = None;
        for discovery in discoveries.iter().filter(|discovery| !discovery.is_over) {
            match self.failed.get(&discovery.search) {
                Some(failed) if now < failed.until => {
                    waits = Some(waits.map_or(failed.until, |at: Instant| at.min(failed.until)));
                }
                _ => return Next::Fetch(discovery),
            }
        }
        waits.map_or(Next::AllOver, Next::Wait)
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

    /// Notes a page with the cursor of the next one. Returns whether the list goes in circles.
    pub(super) fn succeed(&mut self, search: &Search, cursor: Option<&str>) -> bool {
        self.failed.remove(search);
        let Some(cursor) = cursor else {
            self.cursors.remove(search);
            return false;
        };
        let repeats = self.cursors.entry(search.clone()).or_default().see(cursor);
        if repeats {
            self.cursors.remove(search);
        }
        repeats
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
    use crate::atproto::syntax::Nsid;

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
        assert!(!searches.succeed(&first.search, None));
        assert_eq!(searches.next(&discoveries, later), Next::Fetch(first));
        assert_eq!(searches.next(&[], now), Next::AllOver);
    }

    #[test]
    fn a_cursor_that_repeats_is_found_however_long_the_circle() {
        for circle in [1_u64, 2, 3, 7, 100] {
            let mut searches = Searches::default();
            let pages = (0..1000_u64).map(|page| match page {
                0..5 => format!("begin-{page}"),
                page => format!("circle-{}", page % circle),
            });
            let found = pages
                .take_while(|cursor| !searches.succeed(&search("booking"), Some(cursor)))
                .count() as u64;
            assert!(found < 10 + 4 * circle, "{found} pages of {circle}");
        }
        let mut searches = Searches::default();
        for page in 0..1000 {
            assert!(!searches.succeed(&search("booking"), Some(&page.to_string())));
        }
    }
}
