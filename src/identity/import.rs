//! Which operations of a directory's export change the stored identities. The last operation of an
//! account that is not nullified counts.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};

use super::export::ExportLine;
use super::stored::{IdentityChange, StoredIdentity};
use crate::atproto::syntax::Did;

/// How far our clock and the directory's may be apart.
const CLOCKS_APART: SignedDuration = SignedDuration::from_mins(10);

/// An import under way.
#[derive(Debug)]
pub struct Import {
    /// What is stored, and since when it is known to be so.
    stored: HashMap<Did, Timestamp>,
    tracked: HashSet<Did>,
    /// The number of accounts that are not tracked and can still be stored.
    room: usize,
    /// What is not written yet. A later line of an account replaces an earlier one.
    changes: BTreeMap<Did, IdentityChange>,
    newest: Option<Timestamp>,
    counts: ImportCounts,
}

/// What became of the lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImportCounts {
    pub lines: u64,
    /// Lines of accounts for which there is no room.
    pub without_room: u64,
    /// Lines that are older than what was known.
    pub known: u64,
    pub nullified: u64,
}

impl Import {
    /// Begins an import into a table of at most `capacity` identities. `stored` is what it holds. A
    /// place is kept for each of `tracked`; the others get what is left.
    pub fn new(
        capacity: usize,
        stored: impl IntoIterator<Item = (Did, Timestamp)>,
        tracked: impl IntoIterator<Item = Did>,
    ) -> Self {
        let stored: HashMap<Did, Timestamp> = stored.into_iter().collect();
        let tracked: HashSet<Did> = tracked.into_iter().collect();
        let others = stored.keys().filter(|did| !tracked.contains(*did)).count();
        Self {
            room: capacity
                .saturating_sub(tracked.len())
                .saturating_sub(others),
            stored,
            tracked,
            changes: BTreeMap::new(),
            newest: None,
            counts: ImportCounts::default(),
        }
    }

    /// Takes the next line.
    pub fn take(&mut self, line: ExportLine) {
        self.counts.lines += 1;
        self.newest = self.newest.max(Some(line.created_at));
        if line.is_nullified {
            self.counts.nullified += 1;
            return;
        }
        let known_at = self.stored.get(&line.did);
        if known_at.is_some_and(|at| line.created_at < *at - CLOCKS_APART) {
            self.counts.known += 1;
            return;
        }
        let Some(identity) = line.identity else {
            if self.stored.remove(&line.did).is_some() {
                self.room += usize::from(!self.tracked.contains(&line.did));
                let change = IdentityChange::Delete(line.did.clone());
                self.changes.insert(line.did, change);
            }
            return;
        };
        let is_new = known_at.is_none();
        if is_new && !self.tracked.contains(&line.did) {
            if self.room == 0 {
                self.counts.without_room += 1;
                return;
            }
            self.room -= 1;
        }
        self.stored.insert(line.did.clone(), line.created_at);
        let stored = StoredIdentity {
            identity,
            looked_up_at: line.created_at,
        };
        self.changes.insert(line.did, IdentityChange::Store(stored));
    }

    /// How many changes wait to be written.
    pub fn waiting(&self) -> usize {
        self.changes.len()
    }

    /// The changes that are not written yet.
    pub fn take_changes(&mut self) -> Vec<IdentityChange> {
        std::mem::take(&mut self.changes).into_values().collect()
    }

    /// The time of the newest operation.
    pub fn newest(&self) -> Option<Timestamp> {
        self.newest
    }

    pub fn counts(&self) -> ImportCounts {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    fn did(name: &str) -> Did {
        Did::parse(&format!("did:plc:{name}")).unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// An operation that gives the account a key; none for a tombstone.
    fn line(name: &str, second: i64, key: Option<&str>) -> ExportLine {
        ExportLine {
            did: did(name),
            is_nullified: false,
            seq: None,
            created_at: at(second),
            identity: key.map(|key| Identity::new(did(name), key.to_owned())),
        }
    }

    fn nullified(line: ExportLine) -> ExportLine {
        ExportLine {
            is_nullified: true,
            ..line
        }
    }

    /// The key of each account that changes; none if its identity is deleted.
    fn changes(import: &mut Import) -> Vec<(String, Option<String>)> {
        let changes = import
            .take_changes()
            .into_iter()
            .map(|change| match change {
                IdentityChange::Delete(did) => (did.to_string(), None),
                IdentityChange::Store(stored) => {
                    let Identity {
                        did, signing_key, ..
                    } = stored.identity;
                    (did.to_string(), Some(signing_key))
                }
            });
        changes.collect()
    }

    fn key(name: &str, key: &str) -> (String, Option<String>) {
        (did(name).to_string(), Some(key.to_owned()))
    }

    #[test]
    fn the_last_line_that_is_not_nullified_counts() {
        let mut import = Import::new(10, [], []);
        import.take(line("ann", 1, Some("one")));
        import.take(line("bob", 2, Some("one")));
        import.take(nullified(line("ann", 3, Some("stolen"))));
        import.take(line("ann", 4, Some("two")));
        import.take(nullified(line("bob", 5, None)));
        assert_eq!(changes(&mut import), [key("ann", "two"), key("bob", "one")]);
        // What is written is not written again.
        import.take(line("bob", 6, Some("two")));
        assert_eq!(changes(&mut import), [key("bob", "two")]);
        assert_eq!(import.newest(), Some(at(6)));
        assert_eq!((import.counts().lines, import.counts().nullified), (6, 2));
    }

    #[test]
    fn a_tombstone_deletes_what_is_stored_and_a_later_operation_brings_it_back() {
        let mut import = Import::new(10, [(did("old"), at(0))], []);
        for name in ["old", "never"] {
            import.take(line(name, 1, None));
        }
        assert_eq!(changes(&mut import), [(did("old").to_string(), None)]);
        import.take(line("old", 2, Some("new")));
        assert_eq!(changes(&mut import), [key("old", "new")]);
    }

    #[test]
    fn tracked_accounts_come_first_and_others_get_the_room_that_is_left() {
        let mut import = Import::new(4, [(did("kept"), at(0))], [did("tracked"), did("later")]);
        for name in ["ann", "bob", "tracked", "kept", "later", "ann"] {
            import.take(line(name, 1, Some("key")));
        }
        let stored: Vec<String> = changes(&mut import)
            .into_iter()
            .map(|(did, _)| did)
            .collect();
        let expected = ["ann", "kept", "later", "tracked"].map(|name| did(name).to_string());
        assert_eq!(stored, expected);
        assert_eq!(import.counts().without_room, 1);
        // A tombstone makes room.
        import.take(line("ann", 2, None));
        import.take(line("bob", 3, Some("key")));
        assert_eq!(changes(&mut import).len(), 2);
    }

    #[test]
    fn a_line_that_is_older_than_a_look_up_changes_nothing() {
        let hour = 3600;
        let mut import = Import::new(10, [(did("ann"), at(hour))], []);
        import.take(line("ann", hour - 601, Some("old")));
        import.take(line("ann", hour - 601, None));
        assert_eq!(changes(&mut import), []);
        assert_eq!(import.counts().known, 2);
        // The clocks may be apart.
        import.take(line("ann", hour - 600, Some("new")));
        assert_eq!(changes(&mut import), [key("ann", "new")]);
    }
}
