//! The tracked repositories: those with a record that is, or was, kept.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

/// The number of accounts whose commits are read because a status was announced of them. At the
/// rate of the whole network this is a matter of hours.
pub(crate) const ANNOUNCED: usize = 1 << 16;

/// A set of DIDs that only grows, and of a limited number of others. It takes a little more than
/// eight bytes for each DID.
///
/// It stores hashes, so two DIDs may collide. Then the commits of an untracked repository are
/// decoded without need; the tables decide whether a repository is tracked. The hash has a random
/// key, so an attacker cannot choose DIDs that collide.
#[derive(Debug, Default)]
pub struct Tracked {
    key: RandomState,
    hashes: RwLock<Hashes>,
    takes_announced: bool,
    is_loaded: AtomicBool,
}

type HashesOnly = HashSet<u64, BuildHasherDefault<Unhashed>>;

#[derive(Debug, Default)]
struct Hashes {
    all: HashesOnly,
    /// Those of `all` that stay for a while only.
    announced: HashesOnly,
    /// What was announced, the oldest first. Some of it is tracked by now.
    order: VecDeque<u64>,
}

impl Tracked {
    /// A set that also takes announced accounts.
    pub fn with_announced() -> Self {
        Self {
            takes_announced: true,
            ..Self::default()
        }
    }

    /// Adds an account for a while, because a status was announced of it. Its next commit shows
    /// whether it is new. Without effect if the set does not take announced accounts.
    pub fn announce(&self, did: &str) {
        if self.takes_announced {
            self.write().announce(self.key.hash_one(did));
        }
    }

    pub fn contains(&self, did: &str) -> bool {
        let hash = self.key.hash_one(did);
        let hashes = self.hashes.read().unwrap_or_else(PoisonError::into_inner);
        hashes.all.contains(&hash)
    }

    pub fn insert(&self, did: &str) {
        self.write().track(self.key.hash_one(did));
    }

    /// Adds tracked repositories of the tables.
    pub fn add<'a>(&self, dids: impl IntoIterator<Item = &'a str>) {
        let mut hashes = self.write();
        for did in dids {
            hashes.track(self.key.hash_one(did));
        }
    }

    /// Notes that all tracked repositories of the tables are added. Before that, the set is not
    /// complete.
    pub fn set_loaded(&self) {
        self.is_loaded.store(true, Ordering::Release);
    }

    pub fn is_loaded(&self) -> bool {
        self.is_loaded.load(Ordering::Acquire)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Hashes> {
        self.hashes.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hashes {
    fn track(&mut self, hash: u64) {
        self.announced.remove(&hash);
        self.all.insert(hash);
    }

    fn announce(&mut self, hash: u64) {
        if !self.all.insert(hash) {
            return;
        }
        self.announced.insert(hash);
        self.order.push_back(hash);
        if self.order.len() > ANNOUNCED
            && let Some(oldest) = self.order.pop_front()
            && self.announced.remove(&oldest)
        {
            self.all.remove(&oldest);
        }
    }
}

/// A hasher for values that are hashes already.
#[derive(Debug, Default)]
struct Unhashed(u64);

impl Hasher for Unhashed {
    fn write(&mut self, bytes: &[u8]) {
        // Only `u64` values are hashed here, and they use `write_u64`.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_contains_the_inserted_dids() {
        let tracked = Tracked::default();
        tracked.insert("did:plc:ann");
        tracked.add(["did:plc:bob", "did:web:eve.example"]);
        assert!(!tracked.is_loaded());
        tracked.set_loaded();
        assert!(tracked.is_loaded());
        for did in ["did:plc:ann", "did:plc:bob", "did:web:eve.example"] {
            assert!(tracked.contains(did), "{did}");
        }
        let others = (0..1000).filter(|n| tracked.contains(&format!("did:plc:{n}")));
        assert_eq!(others.count(), 0);
    }

    #[test]
    fn an_announced_account_stays_until_many_others_were_announced() {
        let tracked = Tracked::with_announced();
        tracked.announce("did:plc:ann");
        tracked.announce("did:plc:bob");
        tracked.insert("did:plc:bob");
        assert!(tracked.contains("did:plc:ann"));
        for number in 0..ANNOUNCED {
            tracked.announce(&format!("did:plc:{number}"));
        }
        assert!(!tracked.contains("did:plc:ann"));
        // It was tracked meanwhile.
        assert!(tracked.contains("did:plc:bob"));
    }

    #[test]
    fn without_a_backfill_announced_accounts_are_not_taken() {
        let tracked = Tracked::default();
        tracked.announce("did:plc:ann");
        assert!(!tracked.contains("did:plc:ann"));
    }
}
