//! Fair shares of the slots for jobs: which due job starts next, and which running one yields.
//!
//! The accounts choose their hosts, and a host chooses how long its answers take. So no job keeps its
//! slot as long as it likes while others wait, and the time that an account and its host have taken
//! decides who comes next. It is remembered in memory only, and fades.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashlink::LruCache;
use tokio::time::Instant;

use crate::atproto::syntax::Did;

/// The number of accounts and of hosts that are remembered. Beyond it, the least recently used one is
/// forgotten.
const ACCOUNTS: usize = 20_000;
const HOSTS: usize = 5000;
/// After this time, the time that was taken counts for half.
const HALF_LIFE: Duration = Duration::from_secs(3600);
/// A job may keep its slot for so long while others wait. It doubles each time that the account's job
/// had to yield, so that a large repository is complete in the end.
const TURN: Duration = Duration::from_secs(10);
/// An account that took more time than this leaves some slots to others.
const MUCH: Duration = Duration::from_secs(20);
/// No account takes more time than this: its job yields, and its next one waits until half of it has
/// faded.
const MOST: Duration = Duration::from_secs(3600);

/// The time that accounts and hosts have taken.
#[derive(Debug)]
pub(super) struct Shares(Mutex<State>);

#[derive(Debug)]
struct State {
    accounts: LruCache<Did, Taken>,
    hosts: LruCache<String, Taken>,
}

/// The time that one party has taken in slots.
#[derive(Clone, Copy, Debug)]
struct Taken {
    time: Duration,
    as_of: Instant,
    /// How often its job had to yield since one ended by itself.
    yields: u32,
}

/// A running job, as far as the shares are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    /// The registrable host of its account, if known.
    pub(super) host: Option<String>,
    pub(super) since: Instant,
    /// How long it may keep its slot while others wait.
    pub(super) turn: Duration,
    /// Its account took much time already.
    pub(super) is_heavy: bool,
    /// It was told to yield.
    pub(super) has_to_yield: bool,
}

/// Why a job cannot start now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No slot is free.
    Full,
    /// The free slots are kept for accounts that took little time so far.
    Kept,
    /// Its host has its share.
    HostShare,
}

impl Default for Shares {
    fn default() -> Self {
        Self(Mutex::new(State {
            accounts: LruCache::new(ACCOUNTS),
            hosts: LruCache::new(HOSTS),
        }))
    }
}

impl Shares {
    /// The order of due jobs: those of accounts and hosts that took the least time come first.
    pub(super) fn rank(&self, did: &Did, host: Option<&str>, now: Instant) -> Duration {
        let state = self.state();
        let of_host = host.and_then(|host| state.hosts.peek(host));
        let of_account = state.accounts.peek(did);
        let taken = |taken: Option<&Taken>| taken.map_or(Duration::ZERO, |taken| taken.at(now));
        taken(of_account) + taken(of_host)
    }

    /// A job of the account as it starts now.
    pub(super) fn holder(&self, did: &Did, host: Option<String>, now: Instant) -> Holder {
        let state = self.state();
        let taken = state.accounts.peek(did);
        let yields = taken.map_or(0, |taken| taken.yields);
        Holder {
            host,
            since: now,
            turn: TURN.saturating_mul(1 << yields.min(8)),
            is_heavy: yields > 0 || taken.is_some_and(|taken| taken.at(now) > MUCH),
            has_to_yield: false,
        }
    }

    /// How long no job of the account starts, because it took as much time as one may.
    pub(super) fn wait(&self, did: &Did, now: Instant) -> Option<Duration> {
        let state = self.state();
        let taken = state.accounts.peek(did)?;
        (taken.at(now) > MOST / 2).then_some(HALF_LIFE / 4)
    }

    /// Notes that a job ended, at a host that may be known only now.
    pub(super) fn note(&self, did: &Did, host: Option<&str>, holder: &Holder, now: Instant) {
        let held = now.saturating_duration_since(holder.since);
        let mut state = self.state();
        let account = state.accounts.entry(did.clone());
        let account = account.or_insert_with(|| Taken::none(now));
        account.add(held, now);
        match holder.has_to_yield {
            true => account.yields = account.yields.saturating_add(1),
            false => account.yields = 0,
        }
        if let Some(host) = host {
            let host = state.hosts.entry(host.to_owned());
            host.or_insert_with(|| Taken::none(now)).add(held, now);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code under the lock can panic between two changes that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn none(now: Instant) -> Self {
        Self {
            time: Duration::ZERO,
            as_of: now,
            yields: 0,
        }
    }

    fn at(&self, now: Instant) -> Duration {
        let age = now.saturating_duration_since(self.as_of);
        let fade = 0.5_f64.powf(age.as_secs_f64() / HALF_LIFE.as_secs_f64());
        self.time.mul_f64(fade)
    }

    fn add(&mut self, held: Duration, now: Instant) {
        self.time = self.at(now).saturating_add(held);
        self.as_of = now;
    }
}

impl Holder {
    /// Whether it yields if another one needs its slot.
    pub(super) fn may_yield(&self, now: Instant) -> bool {
        !self.has_to_yield && self.has_had_its_turn(now)
    }

    /// Whether it has had its turn, so that it yields when others wait.
    fn has_had_its_turn(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= self.turn
    }

    /// Whether it yields in any case.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= MOST
    }
}

/// Whether `next` may start beside the running jobs of its kind, of which `slots` may run at once.
///
/// # Errors
/// The reason if it may not.
pub(super) fn admit(running: &[&Holder], next: &Holder, slots: usize) -> Result<(), Refusal> {
    if running.len() >= slots {
        return Err(Refusal::Full);
    }
    let kept = slots / 2;
    let heavy = running.iter().filter(|holder| holder.is_heavy).count();
    if next.is_heavy && heavy >= (slots - kept).max(1) {
        return Err(Refusal::Kept);
    }
    let is_of_host = |holder: &&&Holder| next.host.is_some() && holder.host == next.host;
    let of_host = running.iter().filter(is_of_host).count();
    match of_host >= (slots * 3 / 4).max(1) {
        true => Err(Refusal::HostShare),
        false => Ok(()),
    }
}

/// Which of the running jobs has to yield, so that `refused` can start: of those that have had their
/// turn, the one that runs longest.
pub(super) fn to_yield<'a, K: Copy>(
    running: impl Iterator<Item = (K, &'a Holder)>,
    refused: &Holder,
    refusal: Refusal,
    now: Instant,
) -> Option<K> {
    let makes_room = |holder: &Holder| match refusal {
        Refusal::Full => true,
        Refusal::Kept => holder.is_heavy,
        Refusal::HostShare => holder.host == refused.host,
    };
    running
        .filter(|(_, holder)| holder.may_yield(now))
        .filter(|(_, holder)| makes_room(holder))
        .min_by_key(|(_, holder)| holder.since)
        .map(|(key, _)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn did(number: u32) -> Did {
        Did::parse(&format!("did:web:{number}.example")).unwrap()
    }

    fn holder(host: &str, since: Instant) -> Holder {
        Holder {
            host: Some(host.to_owned()),
            since,
            turn: TURN,
            is_heavy: false,
            has_to_yield: false,
        }
    }

    fn heavy(host: &str, since: Instant) -> Holder {
        Holder {
            is_heavy: true,
            ..holder(host, since)
        }
    }

    #[test]
    fn a_host_has_a_share_and_slots_are_kept_for_accounts_that_took_little() {
        let now = Instant::now();
        let of_one = holder("slow.example", now);
        let running = vec![&of_one; 6];
        assert_eq!(admit(&running[..5], &of_one, 8), Ok(()));
        assert_eq!(admit(&running, &of_one, 8), Err(Refusal::HostShare));
        assert_eq!(admit(&running, &holder("other.example", now), 8), Ok(()));
        let unknown = Holder {
            host: None,
            ..of_one.clone()
        };
        assert_eq!(admit(&[&unknown; 7], &unknown, 8), Ok(()));
        assert_eq!(admit(&[&unknown; 8], &unknown, 8), Err(Refusal::Full));
        let (one, other) = (heavy("slow.example", now), heavy("other.example", now));
        assert_eq!(admit(&[&one; 4], &other, 8), Err(Refusal::Kept));
        assert_eq!(admit(&[&one; 4], &holder("new.example", now), 8), Ok(()));
        // A kind with one slot is still used by every account.
        assert_eq!(admit(&[], &other, 1), Ok(()));
    }

    #[test]
    fn a_job_yields_only_after_its_turn_and_only_to_one_that_can_use_its_slot() {
        let start = Instant::now();
        let (first, second) = (holder("a.example", start), heavy("b.example", start + TURN));
        let running = [(1, &first), (2, &second)];
        let next = holder("c.example", start);
        let chosen = |refusal, seconds| {
            let now = start + Duration::from_secs(seconds);
            to_yield(running.into_iter(), &next, refusal, now)
        };
        assert_eq!(chosen(Refusal::Full, 9), None);
        assert_eq!(chosen(Refusal::Full, 10), Some(1));
        assert_eq!(chosen(Refusal::Kept, 10), None);
        assert_eq!(chosen(Refusal::Kept, 20), Some(2));
        assert_eq!(chosen(Refusal::HostShare, 60), None);
    }

    #[test]
    fn an_account_that_yields_gets_more_time_and_fewer_slots() {
        let (shares, start) = (Shares::default(), Instant::now());
        let now = start + TURN;
        let mut first = shares.holder(&did(1), None, start);
        assert_eq!((first.turn, first.is_heavy), (TURN, false));
        first.has_to_yield = true;
        shares.note(&did(1), Some("slow.example"), &first, now);
        let second = shares.holder(&did(1), None, now);
        assert_eq!((second.turn, second.is_heavy), (2 * TURN, true));
        assert!(shares.rank(&did(1), None, now) > shares.rank(&did(2), None, now));
        // Another account of the host comes later too.
        let of_host = shares.rank(&did(2), Some("slow.example"), now);
        assert!(of_host > shares.rank(&did(2), Some("other.example"), now));
        shares.note(&did(1), None, &second, now);
        assert_eq!(shares.holder(&did(1), None, now).turn, TURN);
    }

    #[test]
    fn an_account_that_took_as_much_time_as_one_may_waits_until_it_fades() {
        let (shares, start) = (Shares::default(), Instant::now());
        let holder = shares.holder(&did(1), None, start);
        assert!(!holder.is_over(start + MOST / 2) && holder.is_over(start + MOST));
        shares.note(&did(1), None, &holder, start + MOST);
        assert!(shares.wait(&did(1), start + MOST).is_some());
        assert_eq!(shares.wait(&did(2), start + MOST), None);
        assert_eq!(shares.wait(&did(1), start + MOST + 2 * HALF_LIFE), None);
    }
}
