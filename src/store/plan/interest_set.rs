//! The set of interest: the collections and accounts whose records are kept. The newest set is
//! stored, so that a change between two runs is noticed.

use crate::atproto::pattern::Pattern;
use crate::atproto::syntax::Did;

/// The collections and accounts whose records are kept. A check takes logarithmic time in the
/// number of patterns or DIDs.
///
/// Two sets are equal if they were written with the same patterns and DIDs, in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterestSet {
    /// Sorted.
    exact: Box<[Box<str>]>,
    /// Sorted, and none is a prefix of another. So only the greatest prefix that is not greater
    /// than a collection can match it.
    prefixes: Box<[Box<str>]>,
    /// Sorted; empty means all accounts.
    allowed: Box<[Did]>,
    /// Sorted.
    denied: Box<[Did]>,
}

impl InterestSet {
    /// All accounts' records in the collections of `patterns`.
    pub fn new(patterns: impl IntoIterator<Item = Pattern>) -> Self {
        let (mut exact, mut prefixes) = (Vec::new(), Vec::new());
        for pattern in patterns {
            match pattern {
                Pattern::Exact(nsid) => exact.push(nsid),
                Pattern::Prefix(prefix) => prefixes.push(prefix),
            }
        }
        exact.sort_unstable();
        exact.dedup();
        prefixes.sort_unstable();
        prefixes.dedup_by(|longer, shorter| longer.starts_with(&**shorter));
        Self {
            exact: exact.into(),
            prefixes: prefixes.into(),
            ..Self::default()
        }
    }

    /// Restricts the set to these accounts; an empty list means all.
    #[must_use]
    pub fn allowing(mut self, dids: impl IntoIterator<Item = Did>) -> Self {
        self.allowed = sorted(dids);
        self
    }

    /// Excludes these accounts, even if the allow list names them.
    #[must_use]
    pub fn denying(mut self, dids: impl IntoIterator<Item = Did>) -> Self {
        self.denied = sorted(dids);
        self
    }

    pub fn wants_collection(&self, collection: &str) -> bool {
        self.has_prefix_of(collection)
            || self
                .exact
                .binary_search_by(|nsid| (**nsid).cmp(collection))
                .is_ok()
    }

    pub fn wants_did(&self, did: &str) -> bool {
        (self.allowed.is_empty() || contains(&self.allowed, did)) && !contains(&self.denied, did)
    }

    /// Whether the record with this URI (`at://did/collection/rkey`) is wanted.
    pub fn wants_uri(&self, uri: &str) -> bool {
        let mut parts = uri.strip_prefix("at://").unwrap_or(uri).split('/');
        let (did, collection) = (parts.next(), parts.next());
        did.is_some_and(|did| self.wants_did(did))
            && collection.is_some_and(|collection| self.wants_collection(collection))
    }

    /// Whether this set wants every collection that `other` wants.
    pub fn covers_collections_of(&self, other: &Self) -> bool {
        // Every prefix stands for collections without end, so names alone never cover one.
        other
            .prefixes
            .iter()
            .all(|prefix| self.has_prefix_of(prefix))
            && other.exact.iter().all(|nsid| self.wants_collection(nsid))
    }

    /// Whether this set wants every account that `other` wants.
    pub fn covers_dids_of(&self, other: &Self) -> bool {
        if other.allowed.is_empty() {
            let is_denied_there = |did: &Did| contains(&other.denied, did.as_str());
            return self.allowed.is_empty() && self.denied.iter().all(is_denied_there);
        }
        let mut wanted_there = other
            .allowed
            .iter()
            .filter(|did| other.wants_did(did.as_str()));
        wanted_there.all(|did| self.wants_did(did.as_str()))
    }

    /// Whether this set wants every record that `other` wants.
    pub fn covers(&self, other: &Self) -> bool {
        self.covers_collections_of(other) && self.covers_dids_of(other)
    }

    /// The patterns of the collections, in a fixed order.
    pub fn collections(&self) -> Vec<String> {
        let prefixes = self.prefixes.iter().cloned().map(Pattern::Prefix);
        let exact = self.exact.iter().cloned().map(Pattern::Exact);
        prefixes
            .chain(exact)
            .map(|pattern| pattern.to_string())
            .collect()
    }

    /// The accounts that it is restricted to; empty means all.
    pub fn allowed(&self) -> &[Did] {
        &self.allowed
    }

    pub fn denied(&self) -> &[Did] {
        &self.denied
    }

    fn has_prefix_of(&self, text: &str) -> bool {
        let not_greater = self.prefixes.partition_point(|p| &**p <= text);
        self.prefixes[..not_greater]
            .last()
            .is_some_and(|prefix| text.starts_with(&**prefix))
    }
}

fn sorted(dids: impl IntoIterator<Item = Did>) -> Box<[Did]> {
    let mut dids: Vec<Did> = dids.into_iter().collect();
    dids.sort_unstable();
    dids.dedup();
    dids.into()
}

fn contains(sorted: &[Did], did: &str) -> bool {
    sorted
        .binary_search_by(|listed| listed.as_str().cmp(did))
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(patterns: &[&str]) -> InterestSet {
        InterestSet::new(patterns.iter().map(|text| text.parse().unwrap()))
    }

    fn dids(names: &[&str]) -> Vec<Did> {
        let did = |name: &&str| Did::parse(&format!("did:plc:{name}")).unwrap();
        names.iter().map(did).collect()
    }

    #[test]
    fn a_set_covers_another_if_it_wants_every_collection_of_it() {
        let covers = |one: &[&str], other: &[&str]| set(one).covers(&set(other));
        assert!(covers(
            &["com.huddle.*"],
            &["com.huddle.booking", "com.huddle.deeper.*"]
        ));
        assert!(covers(
            &["com.huddle.booking", "a.b.c"],
            &["com.huddle.booking"]
        ));
        assert!(covers(&["*"], &["com.huddle.*"]));
        assert!(!covers(&["com.huddle.booking"], &["com.huddle.*"]));
        assert!(!covers(&["com.huddle.deeper.*"], &["com.huddle.*"]));
        assert!(!covers(&["com.huddle.*"], &["com.huddlefake.x"]));
        assert!(covers(&[], &[]));
    }

    #[test]
    fn a_set_covers_another_if_it_wants_every_account_of_it() {
        let all = set(&["*"]);
        let without_ann = all.clone().denying(dids(&["ann"]));
        let only_ann = all.clone().allowing(dids(&["ann"]));
        let only_bob_of_two = all
            .clone()
            .allowing(dids(&["ann", "bob"]))
            .denying(dids(&["ann"]));
        assert!(all.covers(&without_ann) && all.covers(&only_ann));
        assert!(!without_ann.covers(&all) && !without_ann.covers(&only_ann));
        assert!(without_ann.covers(&only_bob_of_two));
        assert!(!only_ann.covers(&all) && !only_ann.covers(&only_bob_of_two));
        assert!(
            without_ann
                .clone()
                .denying(dids(&["ann"]))
                .covers(&without_ann)
        );
        assert!(
            !all.clone()
                .denying(dids(&["ann", "bob"]))
                .covers(&without_ann)
        );
    }

    #[test]
    fn a_uri_is_wanted_by_its_account_and_its_collection() {
        let set = set(&["com.huddle.*"]).denying(dids(&["ann"]));
        assert!(set.wants_uri("at://did:plc:bob/com.huddle.booking/1"));
        assert!(!set.wants_uri("at://did:plc:ann/com.huddle.booking/1"));
        assert!(!set.wants_uri("at://did:plc:bob/com.other.booking/1"));
        assert!(!set.wants_uri("at://did:plc:bob"));
    }

    #[test]
    fn the_order_in_which_a_set_was_written_does_not_matter() {
        let one = set(&["a.b.c", "a.b.*", "x.y.z"]).denying(dids(&["ann", "bob"]));
        let other = set(&["x.y.z", "x.y.z", "a.b.c", "a.b.*"]).denying(dids(&["bob", "ann"]));
        assert_eq!(one, other);
    }
}
