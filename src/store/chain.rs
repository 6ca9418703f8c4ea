//! Whether a commit follows from the state in which the tables have its repository.
//!
//! Spec: <https://atproto.com/specs/sync>. A commit is held against what is known of its repository:
//! it must begin at the rev and the tree where the last one ended. Where it does not, something was
//! missed, and the repository has to be fetched as a whole before anything more is believed of it.

use crate::protocol::mst::empty_root;
use crate::queue::effect::{ChainUpdate, Predecessor};

/// How well a repository is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RepoState {
    /// What was missed is known to be nothing, as far as the last commit.
    Synchronized,
    /// Something was missed; it is to be fetched as a whole.
    Desynchronized,
    /// It is being fetched.
    Resyncing,
    /// It is to be fetched, but not now: its host wants to be left alone, or it was fetched often.
    Throttled,
    /// Nobody has asked whether its commits follow from each other.
    Unchained,
}

impl RepoState {
    pub const ALL: [Self; 5] = [
        Self::Desynchronized,
        Self::Resyncing,
        Self::Synchronized,
        Self::Throttled,
        Self::Unchained,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Desynchronized => "desynchronized",
            Self::Resyncing => "resyncing",
            Self::Synchronized => "synchronized",
            Self::Throttled => "throttled",
            Self::Unchained => "unchained",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// What the tables know of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) state: RepoState,
    /// The last commit's rev and tree; `None` where none was seen yet.
    pub(crate) commit: Option<(String, String)>,
    /// Commits wait, and nothing may overtake them.
    pub(crate) has_waiting: bool,
}

/// Whether a commit was seen of the repository whose head this is.
pub(crate) fn is_known(head: Option<&Head>) -> bool {
    head.is_some_and(|head| head.commit.is_some())
}

/// What becomes of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is believed, and the repository stands where it says.
    Follows,
    /// Known already, or of a repository of which nothing is kept.
    Stale,
    /// Its time has not come.
    Waits,
    /// Something between it and what is known was missed.
    Breaks(Break),
}

/// Why a chain is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    /// Perhaps what it did in a gap, when nothing of it was known.
    Gap,
    /// Everything before it, if there was anything.
    History,
    PrevData,
    Since,
    Sync,
}

impl Break {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::History => "backfill",
            Self::PrevData => "prev_data",
            Self::Since => "since",
            Self::Sync => "sync",
        }
    }
}

/// Judges `step` by what is known of its repository. `is_its_turn` where it comes out of the queue of
/// what waits, and not from the stream.
pub(crate) fn judge(head: Option<&Head>, step: &ChainUpdate, is_its_turn: bool) -> Verdict {
    let is_proven = step.predecessor != Predecessor::KeyUnavailable;
    let Some(head) = head else {
        return match step.predecessor {
            Predecessor::KeyUnavailable => Verdict::Waits,
            Predecessor::After { .. } => begin_with(step),
            Predecessor::Unstated => Verdict::Stale,
        };
    };
    let known = head.commit.as_ref();
    let is_chained = head.state != RepoState::Unchained;
    if is_chained && known.is_some_and(|(rev, _)| step.rev.as_str() <= rev.as_str()) {
        return Verdict::Stale;
    }
    let is_settled = matches!(head.state, RepoState::Synchronized | RepoState::Unchained);
    if !is_proven || !is_settled || (head.has_waiting && !is_its_turn) {
        return Verdict::Waits;
    }
    match known.filter(|_| is_chained) {
        Some((rev, data)) => continue_from(rev, data, step),
        None if step.predecessor == Predecessor::Unstated => Verdict::Stale,
        None if known.is_none() => begin_with(step),
        None => Verdict::Follows,
    }
}

/// Judges the first commit that is seen of a repository.
fn begin_with(step: &ChainUpdate) -> Verdict {
    match &step.predecessor {
        Predecessor::After { .. } if step.wants_history && !is_very_first(step) => {
            Verdict::Breaks(Break::History)
        }
        _ => Verdict::Follows,
    }
}

/// Judges the same where there was a gap: of a repository of which nothing was known, what it did in the
/// gap was missed.
pub(crate) fn judge_behind_gap(
    head: Option<&Head>,
    step: &ChainUpdate,
    is_its_turn: bool,
) -> Verdict {
    match judge(head, step, is_its_turn) {
        Verdict::Follows if !is_known(head) && !is_very_first(step) => Verdict::Breaks(Break::Gap),
        verdict => verdict,
    }
}

/// Whether nothing was there before it. Its `since` alone says nothing: nobody has signed that.
pub(crate) fn is_very_first(step: &ChainUpdate) -> bool {
    match &step.predecessor {
        Predecessor::After {
            since: None,
            prev_data,
            ..
        } => prev_data.is_none_or(|prev_data| prev_data == empty_root()),
        _ => false,
    }
}

fn continue_from(rev: &str, data: &str, step: &ChainUpdate) -> Verdict {
    let holds = |holds: bool, broken: Break| match holds {
        true => Verdict::Follows,
        false => Verdict::Breaks(broken),
    };
    match &step.predecessor {
        Predecessor::KeyUnavailable => Verdict::Waits,
        Predecessor::Unstated => holds(step.data.to_string() == data, Break::Sync),
        Predecessor::After {
            since,
            prev_data,
            is_lenient,
        } => {
            let is_same_tree = match prev_data {
                Some(prev_data) => prev_data.to_string() == data,
                None => *is_lenient,
            };
            if !is_same_tree {
                return Verdict::Breaks(Break::PrevData);
            }
            let is_same_rev = since.as_ref().is_some_and(|since| since.as_str() == rev);
            holds(is_same_rev, Break::Since)
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use jiff::Timestamp;

    use super::*;
    use crate::protocol::car::address_of;
    use crate::protocol::syntax::{Did, Tid};

    fn rev(n: u8) -> Tid {
        Tid::parse(&format!("3k222222222{}2", char::from(b'a' + n))).unwrap()
    }

    fn tree(n: u8) -> cid::Cid {
        address_of(&[n])
    }

    fn step(n: u8, predecessor: Predecessor) -> ChainUpdate {
        ChainUpdate {
            did: Did::parse("did:plc:ann").unwrap(),
            rev: rev(n),
            data: tree(n),
            seq: u64::from(n),
            time: Timestamp::UNIX_EPOCH,
            predecessor,
            wants_history: false,
            frame: Bytes::new(),
        }
    }

    /// Commit `n`, which says that it follows commit `before`.
    fn commit(n: u8, before: u8) -> ChainUpdate {
        step(
            n,
            Predecessor::After {
                since: Some(rev(before)),
                prev_data: Some(tree(before)),
                is_lenient: false,
            },
        )
    }

    fn head(state: RepoState, n: u8) -> Head {
        Head {
            state,
            commit: Some((rev(n).to_string(), tree(n).to_string())),
            has_waiting: false,
        }
    }

    #[test]
    fn the_first_commit_that_is_seen_of_a_repository_is_where_its_chain_begins() {
        assert_eq!(judge(None, &commit(5, 4), false), Verdict::Follows);
        let unchained = head(RepoState::Unchained, 2);
        assert_eq!(
            judge(Some(&unchained), &commit(5, 4), false),
            Verdict::Follows
        );
    }

    #[test]
    fn where_history_is_wanted_a_repository_is_whole_only_from_its_very_first_commit_on() {
        let wants_history = |step| ChainUpdate {
            wants_history: true,
            ..step
        };
        let very_first = Predecessor::After {
            since: None,
            prev_data: None,
            is_lenient: false,
        };
        let verdict = judge(None, &wants_history(step(1, very_first)), false);
        assert_eq!(verdict, Verdict::Follows);
        let verdict = judge(None, &wants_history(commit(5, 4)), false);
        assert_eq!(verdict, Verdict::Breaks(Break::History));
        // Nobody has signed that there was nothing before.
        let with_something_before = Predecessor::After {
            since: None,
            prev_data: Some(tree(4)),
            is_lenient: false,
        };
        let verdict = judge(None, &wants_history(step(5, with_something_before)), false);
        assert_eq!(verdict, Verdict::Breaks(Break::History));
        // One that waited for its key.
        let unknown = Head {
            commit: None,
            has_waiting: true,
            ..head(RepoState::Unchained, 0)
        };
        let verdict = judge(Some(&unknown), &wants_history(commit(5, 4)), true);
        assert_eq!(verdict, Verdict::Breaks(Break::History));
    }

    #[test]
    fn behind_a_gap_a_repository_of_which_nothing_was_known_has_to_be_fetched() {
        let verdict = judge_behind_gap(None, &commit(5, 4), false);
        assert_eq!(verdict, Verdict::Breaks(Break::Gap));
        let very_first = Predecessor::After {
            since: None,
            prev_data: None,
            is_lenient: false,
        };
        let verdict = judge_behind_gap(None, &step(1, very_first), false);
        assert_eq!(verdict, Verdict::Follows);
        let known = head(RepoState::Synchronized, 4);
        let verdict = judge_behind_gap(Some(&known), &commit(5, 4), false);
        assert_eq!(verdict, Verdict::Follows);
    }

    #[test]
    fn a_commit_follows_the_one_that_it_names() {
        let head = head(RepoState::Synchronized, 4);
        assert_eq!(judge(Some(&head), &commit(5, 4), false), Verdict::Follows);
        let missed_one = judge(Some(&head), &commit(6, 5), false);
        assert_eq!(missed_one, Verdict::Breaks(Break::PrevData));
    }

    #[test]
    fn both_the_tree_and_the_rev_have_to_be_the_last_ones() {
        let head = head(RepoState::Synchronized, 4);
        let another_rev = step(
            6,
            Predecessor::After {
                since: Some(rev(3)),
                prev_data: Some(tree(4)),
                is_lenient: false,
            },
        );
        let verdict = judge(Some(&head), &another_rev, false);
        assert_eq!(verdict, Verdict::Breaks(Break::Since));
    }

    #[test]
    fn a_repository_that_begins_anew_breaks_its_chain() {
        let first = step(
            6,
            Predecessor::After {
                since: None,
                prev_data: None,
                is_lenient: false,
            },
        );
        let head = head(RepoState::Synchronized, 4);
        let verdict = judge(Some(&head), &first, false);
        assert_eq!(verdict, Verdict::Breaks(Break::PrevData));
    }

    #[test]
    fn leniently_the_rev_alone_makes_the_chain_where_no_tree_is_proven() {
        let lenient = |since: u8, prev_data| {
            step(
                6,
                Predecessor::After {
                    since: Some(rev(since)),
                    prev_data,
                    is_lenient: true,
                },
            )
        };
        let head = head(RepoState::Synchronized, 4);
        assert_eq!(
            judge(Some(&head), &lenient(4, None), false),
            Verdict::Follows
        );
        // One that was proven tells of something that was missed, however lenient one is.
        let verdict = judge(Some(&head), &lenient(4, Some(tree(9))), false);
        assert_eq!(verdict, Verdict::Breaks(Break::PrevData));
        let verdict = judge(Some(&head), &lenient(5, None), false);
        assert_eq!(verdict, Verdict::Breaks(Break::Since));
    }

    #[test]
    fn what_is_known_already_changes_nothing() {
        for state in [RepoState::Synchronized, RepoState::Resyncing] {
            let head = head(state, 4);
            for step in [
                commit(4, 3),
                commit(3, 2),
                step(4, Predecessor::KeyUnavailable),
            ] {
                assert_eq!(judge(Some(&head), &step, false), Verdict::Stale);
            }
        }
    }

    #[test]
    fn a_sync_is_of_interest_only_where_it_differs() {
        let head = head(RepoState::Synchronized, 4);
        let same_tree = ChainUpdate {
            data: tree(4),
            ..step(5, Predecessor::Unstated)
        };
        assert_eq!(judge(Some(&head), &same_tree, false), Verdict::Follows);
        let verdict = judge(Some(&head), &step(5, Predecessor::Unstated), false);
        assert_eq!(verdict, Verdict::Breaks(Break::Sync));
        assert_eq!(
            judge(Some(&head), &step(4, Predecessor::Unstated), false),
            Verdict::Stale
        );
        assert_eq!(
            judge(None, &step(4, Predecessor::Unstated), false),
            Verdict::Stale
        );
    }

    #[test]
    fn nothing_overtakes_what_waits() {
        let head = Head {
            has_waiting: true,
            ..head(RepoState::Synchronized, 4)
        };
        assert_eq!(judge(Some(&head), &commit(5, 4), false), Verdict::Waits);
        assert_eq!(judge(Some(&head), &commit(5, 4), true), Verdict::Follows);
    }

    #[test]
    fn commits_wait_while_their_repository_is_fetched_or_their_key_is_not_known() {
        for state in [
            RepoState::Desynchronized,
            RepoState::Resyncing,
            RepoState::Throttled,
        ] {
            for its_turn in [false, true] {
                let verdict = judge(Some(&head(state, 4)), &commit(5, 4), its_turn);
                assert_eq!(verdict, Verdict::Waits);
            }
        }
        let unproven = step(5, Predecessor::KeyUnavailable);
        assert_eq!(judge(None, &unproven, false), Verdict::Waits);
        let synchronized = head(RepoState::Synchronized, 4);
        assert_eq!(judge(Some(&synchronized), &unproven, false), Verdict::Waits);
    }
}
