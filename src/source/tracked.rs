//! The tracked repositories: those with a record that is, or was, kept.

use std::collections::HashSet;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

/// A set of DIDs that only grows. It takes a little more than eight bytes for each DID.
///
/// It stores hashes, so two DIDs may collide. Then the commits of an untracked repository are
/// decoded without need; the tables decide whether a repository is tracked. The hash has a random
/// key, so an attacker cannot choose DIDs that collide.
#[derive(Debug, Default)]
pub struct Tracked {
    key: RandomState,
    hashes: RwLock<HashSet<u64, BuildHasherDefault<Unhashed>>>,
    is_loaded: AtomicBool,
}

impl Tracked {
    pub fn contains(&self, did: &str) -> bool {
        let hash = self.key.hash_one(did);
        let hashes = self.hashes.read().unwrap_or_else(PoisonError::into_inner);
        hashes.contains(&hash)
    }

    pub fn insert(&self, did: &str) {
        let hash = self.key.hash_one(did);
        let mut hashes = self.hashes.write().unwrap_or_else(PoisonError::into_inner);
        hashes.insert(hash);
    }

    /// Adds the tracked repositories of the tables. Before that, the set is not complete.
    pub fn load<'a>(&self, dids: impl IntoIterator<Item = &'a str>) {
        {
            let mut hashes = self.hashes.write().unwrap_or_else(PoisonError::into_inner);
            hashes.extend(dids.into_iter().map(|did| self.key.hash_one(did)));
        }
        self.is_loaded.store(true, Ordering::Release);
    }

    pub fn is_loaded(&self) -> bool {
        self.is_loaded.load(Ordering::Acquire)
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
        assert!(!tracked.is_loaded());
        tracked.load(["did:plc:bob", "did:web:eve.example"]);
        assert!(tracked.is_loaded());
        for did in ["did:plc:ann", "did:plc:bob", "did:web:eve.example"] {
            assert!(tracked.contains(did), "{did}");
        }
        let others = (0..1000).filter(|n| tracked.contains(&format!("did:plc:{n}")));
        assert_eq!(others.count(), 0);
    }
}
