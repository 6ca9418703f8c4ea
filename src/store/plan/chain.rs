//! Whether a commit follows from the state in which the tables have its repository.
//!
//! Spec: <https://atproto.com/specs/sync>. A commit is held against what is known of its repository:
//! it must begin at the rev and the tree where the last one ended. Where it does not, something was
//! missed, and the repository has to be fetched as a whole before anything more of it is applied.

use super::repository::{RepoRow, RepoState};
use crate::atproto::mst::empty_root;
use crate::store::plan::effect::{ChainUpdate, Predecessor};

/// What becomes of a chain update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// It is applied, and the repository stands where it says.
    Follows,
    /// Known already, or of a repository of which nothing is kept.
    Stale,
    /// It is parked: its time has not come.
    Parks,
    /// Something between it and what is known was missed. It is parked too.
    Breaks(Break),
}

/// Why a chain is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Break {
    /// Perhaps what it did in a gap, when nothing of it was known.
    Gap,
    /// Everything before it, if there was anything.
    History,
    PrevData,
    Since,
    Sync,
}

impl Break {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::History => "backfill",
            Self::PrevData => "prev_data",
            Self::Since => "since",
            Self::Sync => "sync",
        }
    }
}

/// What a chain update is held against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    /// `None` where the repository is not tracked.
    pub(super) repo: Option<&'a RepoRow>,
    /// The update comes out of the queue of what was parked, and not from the stream.
    pub(super) is_replay: bool,
    /// Something was missed amid what was followed. Of a repository of which nothing was known, what it
    /// did in the gap was missed.
    pub(super) is_behind_gap: bool,
}

impl<'a> Known<'a> {
    /// The rev and the tree of the last commit; `None` where none was seen yet.
    fn commit(self) -> Option<(&'a str, &'a str)> {
        let repo = self.repo?;
        repo.rev.as_deref().zip(repo.data.as_deref())
    }
}

/// Decides what becomes of `update`.
pub(super) fn decide(known: Known<'_>, update: &ChainUpdate) -> Decision {
    match decide_without_gaps(known, update) {
        Decision::Follows
            if known.is_behind_gap && known.commit().is_none() && !is_very_first(update) =>
        {
            Decision::Breaks(Break::Gap)
        }
        decision => decision,
    }
}

fn decide_without_gaps(known: Known<'_>, update: &ChainUpdate) -> Decision {
    let Some(repo) = known.repo else {
        return match update.predecessor {
            Predecessor::KeyUnavailable => Decision::Parks,
            Predecessor::After { .. } => begin_with(update),
            Predecessor::Unstated => Decision::Stale,
        };
    };
    let commit = known.commit();
    let is_chained = repo.state != RepoState::UnverifiedChain;
    if is_chained && commit.is_some_and(|(rev, _)| update.rev.as_str() <= rev) {
        return Decision::Stale;
    }
    let is_proven = update.predecessor != Predecessor::KeyUnavailable;
    let must_queue = repo.has_parked && !known.is_replay;
    if !is_proven || !repo.state.takes_commits() || must_queue {
        return Decision::Parks;
    }
    match commit.filter(|_| is_chained) {
        Some((rev, data)) => continue_from(rev, data, update),
        None if update.predecessor == Predecessor::Unstated => Decision::Stale,
        None if commit.is_none() => begin_with(update),
        None => Decision::Follows,
    }
}

/// Decides on the first commit that is seen of a repository.
fn begin_with(update: &ChainUpdate) -> Decision {
    match &update.predecessor {
        Predecessor::After { .. } if update.wants_history && !is_very_first(update) => {
            Decision::Breaks(Break::History)
        }
        _ => Decision::Follows,
    }
}

/// Whether nothing was there before it. Its `since` alone says nothing: that is not signed.
pub(super) fn is_very_first(update: &ChainUpdate) -> bool {
    match &update.predecessor {
        Predecessor::After {
            since: None,
            prev_data,
            ..
        } => prev_data.is_none_or(|prev_data| prev_data == empty_root()),
        _ => false,
    }
}

fn continue_from(rev: &str, data: &str, update: &ChainUpdate) -> Decision {
    let holds = |holds: bool, broken: Break| match holds {
        true => Decision::Follows,
        false => Decision::Breaks(broken),
    };
    match &update.predecessor {
        Predecessor::KeyUnavailable => Decision::Parks,
        Predecessor::Unstated => holds(update.data.to_string() == data, Break::Sync),
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
                return Decision::Breaks(Break::PrevData);
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
    use crate::atproto::car::address_of;
    use crate::atproto::syntax::{Did, Tid};

    fn rev(n: u8) -> Tid {
        Tid::parse(&format!("3k222222222{}2", char::from(b'a' + n))).unwrap()
    }

    fn tree(n: u8) -> cid::Cid {
        address_of(&[n])
    }

    fn update(n: u8, predecessor: Predecessor) -> ChainUpdate {
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
        update(
            n,
            Predecessor::After {
                since: Some(rev(before)),
                prev_data: Some(tree(before)),
                is_lenient: false,
            },
        )
    }

    fn repo(state: RepoState, n: u8) -> RepoRow {
        RepoRow {
            state,
            rev: Some(rev(n).to_string()),
            data: Some(tree(n).to_string()),
            ..RepoRow::unknown()
        }
    }

    fn on(repo: Option<&RepoRow>, update: &ChainUpdate, is_replay: bool) -> Decision {
        let is_behind_gap = false;
        let known = Known {
            repo,
            is_replay,
            is_behind_gap,
        };
        decide(known, update)
    }

    fn behind_gap(repo: Option<&RepoRow>, update: &ChainUpdate) -> Decision {
        let known = Known {
            repo,
            is_replay: false,
            is_behind_gap: true,
        };
        decide(known, update)
    }

    #[test]
    fn the_first_commit_that_is_seen_of_a_repository_is_where_its_chain_begins() {
        assert_eq!(on(None, &commit(5, 4), false), Decision::Follows);
        let unverified_chain = repo(RepoState::UnverifiedChain, 2);
        assert_eq!(
            on(Some(&unverified_chain), &commit(5, 4), false),
            Decision::Follows
        );
    }

    #[test]
    fn where_history_is_wanted_a_repository_is_whole_only_from_its_very_first_commit_on() {
        let wants_history = |update| ChainUpdate {
            wants_history: true,
            ..update
        };
        let very_first = Predecessor::After {
            since: None,
            prev_data: None,
            is_lenient: false,
        };
        let decision = on(None, &wants_history(update(1, very_first)), false);
        assert_eq!(decision, Decision::Follows);
        let decision = on(None, &wants_history(commit(5, 4)), false);
        assert_eq!(decision, Decision::Breaks(Break::History));
        // That there was nothing before is not signed.
        let with_something_before = Predecessor::After {
            since: None,
            prev_data: Some(tree(4)),
            is_lenient: false,
        };
        let decision = on(
            None,
            &wants_history(update(5, with_something_before)),
            false,
        );
        assert_eq!(decision, Decision::Breaks(Break::History));
        // One that waited for its key.
        let unknown = RepoRow {
            has_parked: true,
            ..RepoRow::unknown()
        };
        let decision = on(Some(&unknown), &wants_history(commit(5, 4)), true);
        assert_eq!(decision, Decision::Breaks(Break::History));
    }

    #[test]
    fn behind_a_gap_a_repository_of_which_nothing_was_known_has_to_be_fetched() {
        let decision = behind_gap(None, &commit(5, 4));
        assert_eq!(decision, Decision::Breaks(Break::Gap));
        let very_first = Predecessor::After {
            since: None,
            prev_data: None,
            is_lenient: false,
        };
        let decision = behind_gap(None, &update(1, very_first));
        assert_eq!(decision, Decision::Follows);
        let known = repo(RepoState::Synchronized, 4);
        let decision = behind_gap(Some(&known), &commit(5, 4));
        assert_eq!(decision, Decision::Follows);
    }

    #[test]
    fn a_commit_follows_the_one_that_it_names() {
        let repo = repo(RepoState::Synchronized, 4);
        assert_eq!(on(Some(&repo), &commit(5, 4), false), Decision::Follows);
        let missed_one = on(Some(&repo), &commit(6, 5), false);
        assert_eq!(missed_one, Decision::Breaks(Break::PrevData));
    }

    #[test]
    fn both_the_tree_and_the_rev_have_to_be_the_last_ones() {
        let repo = repo(RepoState::Synchronized, 4);
        let another_rev = update(
            6,
            Predecessor::After {
                since: Some(rev(3)),
                prev_data: Some(tree(4)),
                is_lenient: false,
            },
        );
        let decision = on(Some(&repo), &another_rev, false);
        assert_eq!(decision, Decision::Breaks(Break::Since));
    }

    #[test]
    fn a_repository_that_begins_anew_breaks_its_chain() {
        let first = update(
            6,
            Predecessor::After {
                since: None,
                prev_data: None,
                is_lenient: false,
            },
        );
        let repo = repo(RepoState::Synchronized, 4);
        let decision = on(Some(&repo), &first, false);
        assert_eq!(decision, Decision::Breaks(Break::PrevData));
    }

    #[test]
    fn leniently_the_rev_alone_makes_the_chain_where_no_tree_is_proven() {
        let lenient = |since: u8, prev_data| {
            update(
                6,
                Predecessor::After {
                    since: Some(rev(since)),
                    prev_data,
                    is_lenient: true,
                },
            )
        };
        let repo = repo(RepoState::Synchronized, 4);
        assert_eq!(on(Some(&repo), &lenient(4, None), false), Decision::Follows);
        // One that was proven tells of something that was missed, however lenient one is.
        let decision = on(Some(&repo), &lenient(4, Some(tree(9))), false);
        assert_eq!(decision, Decision::Breaks(Break::PrevData));
        let decision = on(Some(&repo), &lenient(5, None), false);
        assert_eq!(decision, Decision::Breaks(Break::Since));
    }

    #[test]
    fn what_is_known_already_changes_nothing() {
        for state in [RepoState::Synchronized, RepoState::Resyncing] {
            let repo = repo(state, 4);
            for update in [
                commit(4, 3),
                commit(3, 2),
                update(4, Predecessor::KeyUnavailable),
            ] {
                assert_eq!(on(Some(&repo), &update, false), Decision::Stale);
            }
        }
    }

    #[test]
    fn a_sync_is_of_interest_only_where_it_differs() {
        let repo = repo(RepoState::Synchronized, 4);
        let same_tree = ChainUpdate {
            data: tree(4),
            ..update(5, Predecessor::Unstated)
        };
        assert_eq!(on(Some(&repo), &same_tree, false), Decision::Follows);
        let decision = on(Some(&repo), &update(5, Predecessor::Unstated), false);
        assert_eq!(decision, Decision::Breaks(Break::Sync));
        assert_eq!(
            on(Some(&repo), &update(4, Predecessor::Unstated), false),
            Decision::Stale
        );
        assert_eq!(
            on(None, &update(4, Predecessor::Unstated), false),
            Decision::Stale
        );
    }

    #[test]
    fn nothing_overtakes_what_is_parked() {
        let repo = RepoRow {
            has_parked: true,
            ..repo(RepoState::Synchronized, 4)
        };
        assert_eq!(on(Some(&repo), &commit(5, 4), false), Decision::Parks);
        assert_eq!(on(Some(&repo), &commit(5, 4), true), Decision::Follows);
    }

    #[test]
    fn commits_are_parked_while_their_repository_is_fetched_or_their_key_is_not_known() {
        for state in [
            RepoState::Desynchronized,
            RepoState::Resyncing,
            RepoState::Throttled,
        ] {
            for its_turn in [false, true] {
                let decision = on(Some(&repo(state, 4)), &commit(5, 4), its_turn);
                assert_eq!(decision, Decision::Parks);
            }
        }
        let unproven = update(5, Predecessor::KeyUnavailable);
        assert_eq!(on(None, &unproven, false), Decision::Parks);
        let synchronized = repo(RepoState::Synchronized, 4);
        assert_eq!(on(Some(&synchronized), &unproven, false), Decision::Parks);
    }
}
