//! Which repositories are tracked: those that have, or had, a record that is kept.

use std::collections::HashSet;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

/// A set of DIDs that only grows, in eight bytes and a little more a DID.
///
/// It holds hashes, so it may take a DID for another one. That costs reading the other's commits in
/// vain: whether a repository is tracked is for the tables to say. Nobody can choose DIDs that
/// collide, since the hash has a random key.
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

    /// Adds those that the tables have. Until then the set is not whole.
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

/// Takes a hash for its own.
#[derive(Debug, Default)]
struct Unhashed(u64);

impl Hasher for Unhashed {
    fn write(&mut self, bytes: &[u8]) {
        // Only u64 are hashed here, and they come by `write_u64`.
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
    fn it_knows_whom_it_was_told_of() {
        let tracked = Tracked::default();
        tracked.insert("did:plc:ann");
        assert!(!tracked.is_loaded());
        tracked.load(["did:plc:bob", "did:web:eve.example"]);
        assert!(tracked.is_loaded());
        for did in ["did:plc:ann", "did:plc:bob", "did:web:eve.example"] {
            assert!(tracked.contains(did), "{did}");
        }
        let strangers = (0..1000).filter(|n| tracked.contains(&format!("did:plc:{n}")));
        assert_eq!(strangers.count(), 0);
    }
}
