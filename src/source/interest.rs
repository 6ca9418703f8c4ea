//! The wanted records: compiled once, then checked for every operation of the stream.

use std::sync::Arc;

use tokio::sync::watch;

use super::tracked::Tracked;
use crate::atproto::pattern::Pattern;
use crate::atproto::syntax::Did;
use crate::store::plan::InterestSet;

/// The collections and repositories that are wanted, and what is requested of their commits.
#[derive(Clone, Debug, Default)]
pub struct Interest {
    set: InterestSet,
    wants_evidence: bool,
    tracked: Option<Arc<Tracked>>,
}

impl Interest {
    /// All accounts' records in the collections of `patterns`.
    pub fn new(patterns: impl IntoIterator<Item = Pattern>) -> Self {
        Self {
            set: InterestSet::new(patterns),
            ..Self::default()
        }
    }

    /// Restricts the interest to these repositories; an empty list means all.
    #[must_use]
    pub fn allowing(mut self, dids: impl IntoIterator<Item = Did>) -> Self {
        self.set = self.set.allowing(dids);
        self
    }

    /// Excludes these repositories, even if the allow list names them.
    #[must_use]
    pub fn denying(mut self, dids: impl IntoIterator<Item = Did>) -> Self {
        self.set = self.set.denying(dids);
        self
    }

    /// The collections and repositories that are wanted.
    pub fn set(&self) -> &InterestSet {
        &self.set
    }

    /// Also requests the evidence of commits.
    #[must_use]
    pub fn with_evidence(mut self) -> Self {
        self.wants_evidence = true;
        self
    }

    /// Also requests every commit of the repositories in `tracked`.
    #[must_use]
    pub fn tracking(mut self, tracked: Arc<Tracked>) -> Self {
        self.tracked = Some(tracked);
        self
    }

    pub fn wants_evidence(&self) -> bool {
        self.wants_evidence
    }

    /// Whether the chain of this repository is followed. May be true for a repository that is not
    /// tracked.
    pub fn tracks(&self, did: &str) -> bool {
        let tracked = self.tracked.as_ref();
        tracked.is_some_and(|tracked| tracked.contains(did))
    }

    /// The repositories whose chains are followed, if chains are followed.
    pub fn tracked(&self) -> Option<&Tracked> {
        self.tracked.as_deref()
    }

    /// Whether the record at `path` (`collection/rkey`) belongs to a wanted collection.
    pub fn wants_path(&self, path: &str) -> bool {
        path.split_once('/')
            .is_some_and(|(collection, _)| self.wants_collection(collection))
    }

    pub fn wants_collection(&self, collection: &str) -> bool {
        self.set.wants_collection(collection)
    }

    pub fn wants_did(&self, did: &str) -> bool {
        self.set.wants_did(did)
    }
}

/// The interest that is in force in a pipeline. The FilterActor owns it and publishes each change; the
/// prefilter and the decoders read the newest.
#[derive(Debug)]
pub struct InterestInForce(watch::Sender<Arc<Interest>>);

impl InterestInForce {
    pub fn new(interest: Arc<Interest>) -> Self {
        Self(watch::Sender::new(interest))
    }

    pub fn current(&self) -> Arc<Interest> {
        self.0.borrow().clone()
    }

    pub fn publish(&self, interest: Arc<Interest>) {
        self.0.send_replace(interest);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn interest(patterns: &[&str]) -> Interest {
        Interest::new(patterns.iter().map(|text| text.parse().unwrap()))
    }

    fn did(text: &str) -> Did {
        Did::parse(text).unwrap()
    }

    #[test]
    fn a_prefix_ends_at_the_dot() {
        let interest = interest(&["com.huddle.*"]);
        assert!(interest.wants_path("com.huddle.slotOffer/3jzfcijpj2z2a"));
        assert!(interest.wants_collection("com.huddle.deeper.down"));
        for near_miss in [
            "com.huddlefake.x",
            "com.huddle",
            "com.huddl",
            "com.huddle-x.y",
        ] {
            assert!(!interest.wants_collection(near_miss), "{near_miss}");
        }
    }

    #[test]
    fn an_exact_pattern_wants_nothing_else() {
        let interest = interest(&["com.huddle.booking", "app.bsky.feed.post"]);
        assert!(interest.wants_collection("com.huddle.booking"));
        assert!(!interest.wants_collection("com.huddle.bookingRequest"));
        assert!(!interest.wants_collection("com.huddle.booking.x"));
    }

    #[test]
    fn a_path_without_a_record_key_is_not_wanted() {
        let interest = interest(&["*"]);
        assert!(!interest.wants_path("com.huddle.booking"));
        assert!(interest.wants_path("any.thing.here/self"));
    }

    #[test]
    fn nothing_is_wanted_without_a_pattern() {
        assert!(!interest(&[]).wants_collection("com.huddle.booking"));
    }

    #[test]
    fn the_deny_list_beats_the_allow_list() {
        let (ann, bob) = (did("did:plc:ann"), did("did:web:bob.example"));
        let everyone_else = interest(&["*"]).denying([bob.clone()]);
        assert!(everyone_else.wants_did("did:plc:ann"));
        assert!(!everyone_else.wants_did("did:web:bob.example"));

        let listed = interest(&["*"]).allowing([bob.clone(), ann]).denying([bob]);
        assert!(listed.wants_did("did:plc:ann"));
        assert!(!listed.wants_did("did:web:bob.example"));
        assert!(!listed.wants_did("did:plc:eve"));
    }

    #[test]
    fn a_pattern_that_could_mislead_is_refused() {
        for text in [
            "",
            ".*",
            "com.huddle*",
            "com.*.x",
            "com.huddle.",
            "huddle",
            "com..*",
            "**",
            "-com.x.*",
        ] {
            let error = text.parse::<Pattern>().unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn a_pattern_is_shown_as_it_was_written() {
        for text in ["*", "com.*", "com.huddle.*", "com.huddle.booking"] {
            assert_eq!(text.parse::<Pattern>().unwrap().to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn compiled_patterns_agree_with_a_linear_scan(
            patterns in prop::collection::vec("([ab]\\.){1,4}(\\*|[ab])", 0..12),
            collection in "[ab](\\.[ab]){1,5}",
        ) {
            let patterns: Vec<Pattern> = patterns.iter().filter_map(|p| p.parse().ok()).collect();
            let scanned = patterns.iter().any(|pattern| match pattern {
                Pattern::Exact(nsid) => **nsid == collection,
                Pattern::Prefix(prefix) => collection.starts_with(&**prefix),
            });
            prop_assert_eq!(Interest::new(patterns).wants_collection(&collection), scanned);
        }
    }
}
