//! What follows from a change of the set of interest.
//!
//! What the tables know holds for the set under which it was found. A narrower set leaves records
//! behind that are no longer kept up to date: the views hide them. A wider set wants records that
//! were not kept: what was whole no longer is, and the repositories are fetched again.

use super::interest_set::InterestSet;
use crate::model::Position;

/// The change from one set of interest to another.
#[derive(Clone, Debug)]
pub struct InterestChange {
    /// `None` for the first set of a database, which comes without a gap.
    before: Option<InterestSet>,
    after: InterestSet,
}

/// A step of a change. The tables may be large, so each step is done in pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterestStep {
    /// Hide the records that are no longer wanted.
    Hide,
    /// Note the hidden records that are wanted again. They stay hidden until they are up to date.
    WantAgain,
    /// Have the repositories fetched again that may hold newly wanted records.
    Void,
}

impl InterestStep {
    const ALL: [Self; 3] = [Self::Hide, Self::WantAgain, Self::Void];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hide => "hide",
            Self::WantAgain => "want_again",
            Self::Void => "void",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.as_str() == text)
    }
}

impl InterestChange {
    pub fn new(before: Option<InterestSet>, after: InterestSet) -> Self {
        Self { before, after }
    }

    /// Whether records may be kept that are no longer wanted. Nothing is known of the rows that a
    /// database holds before its first set.
    pub fn is_narrowed(&self) -> bool {
        let before = self.before.as_ref();
        before.is_none_or(|before| !self.after.covers(before))
    }

    /// Whether records are wanted that were not wanted before.
    pub fn is_widened(&self) -> bool {
        let before = self.before.as_ref();
        before.is_some_and(|before| !before.covers(&self.after))
    }

    pub fn first_step(&self) -> Option<InterestStep> {
        InterestStep::ALL
            .into_iter()
            .find(|step| self.has_step(*step))
    }

    pub fn step_after(&self, done: InterestStep) -> Option<InterestStep> {
        let mut steps = InterestStep::ALL.into_iter();
        steps.by_ref().find(|step| *step == done);
        steps.find(|step| self.has_step(*step))
    }

    fn has_step(&self, step: InterestStep) -> bool {
        match step {
            InterestStep::Hide => self.is_narrowed(),
            InterestStep::WantAgain | InterestStep::Void => self.is_widened(),
        }
    }

    /// Whether a record is wanted now.
    pub fn wants_uri(&self, uri: &str) -> bool {
        self.after.wants_uri(uri)
    }

    /// Whether a collection is wanted now.
    pub fn wants_collection(&self, collection: &str) -> bool {
        self.after.wants_collection(collection)
    }

    /// Whether the repository of `did` may hold records that are wanted now and were not before.
    pub fn voids(&self, did: &str) -> bool {
        let is_new = self.before.as_ref().is_some_and(|before| {
            !before.wants_did(did) || !before.covers_collections_of(&self.after)
        });
        is_new && self.after.wants_did(did)
    }
}

/// Returns since when records that `wanted` names may not have been kept: the position at which the
/// last set that covers it was replaced. `earlier` has the sets before, the newest first, each with
/// the position at which it came into force. The beginning if none covers it.
pub fn unkept_since<'a>(
    wanted: &InterestSet,
    earlier: impl IntoIterator<Item = (&'a InterestSet, Position)>,
) -> Position {
    let mut replaced_at = None;
    for (set, in_force_since) in earlier {
        if set.covers(wanted) {
            return replaced_at.unwrap_or(in_force_since);
        }
        replaced_at = Some(in_force_since);
    }
    Position::default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atproto::syntax::Did;

    fn set(patterns: &[&str]) -> InterestSet {
        InterestSet::new(patterns.iter().map(|text| text.parse().unwrap()))
    }

    fn ann() -> Did {
        Did::parse("did:plc:ann").unwrap()
    }

    fn steps(before: Option<InterestSet>, after: InterestSet) -> Vec<InterestStep> {
        let change = InterestChange::new(before, after);
        let first = change.first_step();
        std::iter::successors(first, |step| change.step_after(*step)).collect()
    }

    #[test]
    fn the_first_set_hides_what_it_does_not_want_and_voids_nothing() {
        assert_eq!(steps(None, set(&["a.b.c"])), [InterestStep::Hide]);
    }

    #[test]
    fn a_set_that_is_wider_here_and_narrower_there_hides_and_voids() {
        let (one, other) = (set(&["a.b.c"]), set(&["a.b.d"]));
        assert_eq!(steps(Some(one.clone()), other), InterestStep::ALL);
        let both = set(&["a.b.c", "a.b.d"]);
        assert_eq!(
            steps(Some(both.clone()), one.clone()),
            [InterestStep::Hide],
            "a narrower set leaves everything whole that it still wants"
        );
        let widened = [InterestStep::WantAgain, InterestStep::Void];
        assert_eq!(steps(Some(one), both), widened);
    }

    #[test]
    fn a_collection_concerns_every_account_and_an_account_only_itself() {
        let narrow = set(&["a.b.c"]).denying([ann()]);
        let change = InterestChange::new(Some(narrow.clone()), set(&["a.b.c"]));
        assert!(change.voids("did:plc:ann") && !change.voids("did:plc:bob"));
        let wider = set(&["a.b.*"]).denying([ann()]);
        let change = InterestChange::new(Some(narrow), wider);
        assert!(change.voids("did:plc:bob"));
        assert!(!change.voids("did:plc:ann"), "it is still not wanted");
    }

    #[test]
    fn records_were_not_kept_since_the_last_set_that_wanted_them_was_replaced() {
        let at = |seq| Position { seq, time: None };
        let (wide, narrow) = (set(&["a.*"]), set(&["a.b.c"]));
        let narrower = set(&["x.y.z"]);
        let earlier = [(&narrower, at(9)), (&narrow, at(5)), (&wide, at(0))];
        assert_eq!(unkept_since(&wide, earlier), at(5));
        assert_eq!(unkept_since(&set(&["a.b.c"]), earlier), at(9));
        assert_eq!(unkept_since(&set(&["*"]), earlier), at(0));
    }
}
