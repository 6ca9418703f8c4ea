//! Decides whether a commit follows from the head that the tables have of its repository.
//!
//! Spec: <https://atproto.com/specs/sync>. A commit must begin at the tree where the last one ended.
//! Otherwise a commit is missing, and the repository is fetched as a whole before further commits
//! are applied. The rev before a commit (`since`) is not signed. It decides only where no tree is
//! proven.

use std::cmp::Ordering;

use super::repository::{RepoRow, RepoState};
use super::resync_cause::ResyncCause;
use crate::atproto::mst::empty_root;
use crate::store::plan::effect::{ChainUpdate, Predecessor};

/// What becomes of a chain update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// It is applied, and the head moves to it.
    Follows,
    /// It is known already, or nothing of its repository is kept.
    Stale,
    /// It is parked, because it cannot be applied yet.
    Parks,
    /// Something between it and the head is missing, or a record of it. It is parked too.
    Breaks(ResyncCause),
    /// It has the rev of the head and another tree, so the repository has two histories. Its host
    /// has the one that counts. Nothing has to be parked, because the repository is fetched at this
    /// rev or a later one.
    Forks,
}

/// What a chain update is compared with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    /// `None` where the repository is not tracked.
    pub(super) repo: Option<&'a RepoRow>,
    /// The update is a replay of a parked commit. Otherwise it is from the stream.
    pub(super) is_replay: bool,
    /// There was a gap in the stream. If nothing is known of a repository, its earlier commits may
    /// be in that gap.
    pub(super) is_behind_gap: bool,
}

impl<'a> Known<'a> {
    /// The rev and the tree of the last commit; `None` if no commit was seen yet.
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
            Decision::Breaks(ResyncCause::Gap)
        }
        decision => decision,
    }
}

/// A commit that lacks a wanted record cannot be applied, even if it follows.
fn decide_without_gaps(known: Known<'_>, update: &ChainUpdate) -> Decision {
    match decide_as_whole(known, update) {
        Decision::Follows if update.lacks_record => Decision::Breaks(ResyncCause::RecordMissing),
        decision => decision,
    }
}

fn decide_as_whole(known: Known<'_>, update: &ChainUpdate) -> Decision {
    let Some(repo) = known.repo else {
        return match update.predecessor {
            Predecessor::KeyUnavailable => Decision::Parks,
            Predecessor::After { .. } => begin_with(update),
            Predecessor::Unstated => Decision::Stale,
        };
    };
    let commit = known.commit();
    let is_chained = repo.state != RepoState::UnverifiedChain;
    let has_key = update.predecessor != Predecessor::KeyUnavailable;
    // An unproven rev bounds no proven commit.
    if let Some((rev, data)) = commit.filter(|_| is_chained && repo.is_proven) {
        match update.rev.as_str().cmp(rev) {
            Ordering::Less => return Decision::Stale,
            Ordering::Equal if update.data.to_string() == data => return Decision::Stale,
            Ordering::Equal if has_key => return Decision::Forks,
            // Without its key it proves nothing yet.
            Ordering::Equal | Ordering::Greater => {}
        }
    }
    let must_queue = repo.has_parked && !known.is_replay;
    if !has_key || !repo.state.takes_commits() || must_queue {
        return Decision::Parks;
    }
    match commit.filter(|_| is_chained) {
        Some((rev, data)) => continue_from(rev, data, update),
        None if update.predecessor == Predecessor::Unstated => Decision::Stale,
        None if commit.is_none() => begin_with(update),
        None => Decision::Follows,
    }
}

/// Whether `update` follows by its proven tree, but names another rev as the one before it.
pub(super) fn has_wrong_since(repo: Option<&RepoRow>, update: &ChainUpdate) -> bool {
    let known = repo
        .filter(|repo| repo.state != RepoState::UnverifiedChain)
        .and_then(|repo| repo.rev.as_deref());
    match (&update.predecessor, known) {
        (
            Predecessor::After {
                since,
                prev_data: Some(_),
                ..
            },
            Some(rev),
        ) => since.as_ref().is_none_or(|since| since.as_str() != rev),
        _ => false,
    }
}

/// Decides on the first commit that arrives of a repository.
fn begin_with(update: &ChainUpdate) -> Decision {
    match &update.predecessor {
        Predecessor::After { .. } if update.wants_history && !is_very_first(update) => {
            Decision::Breaks(ResyncCause::Backfill)
        }
        _ => Decision::Follows,
    }
}

/// Whether the tree before it was empty, as in the first commit of its repository. A missing
/// `since` alone does not prove that, because `since` is not signed.
pub(super) fn is_very_first(update: &ChainUpdate) -> bool {
    match &update.predecessor {
        Predecessor::After {
            prev_data: Some(prev_data),
            ..
        } => *prev_data == empty_root(),
        // Verification has found that the tree before it was empty.
        Predecessor::After {
            prev_data: None,
            is_lenient,
            ..
        } => !is_lenient,
        Predecessor::Unstated | Predecessor::KeyUnavailable => false,
    }
}

fn continue_from(rev: &str, data: &str, update: &ChainUpdate) -> Decision {
    let holds = |holds: bool, broken: ResyncCause| match holds {
        true => Decision::Follows,
        false => Decision::Breaks(broken),
    };
    match &update.predecessor {
        Predecessor::KeyUnavailable => Decision::Parks,
        Predecessor::Unstated => holds(update.data.to_string() == data, ResyncCause::Sync),
        Predecessor::After {
            since,
            prev_data,
            is_lenient,
        } => {
            let is_same_rev = since.as_ref().is_some_and(|since| since.as_str() == rev);
            match prev_data {
                Some(prev_data) => holds(prev_data.to_string() == data, ResyncCause::PrevData),
                None if *is_lenient => holds(is_same_rev, ResyncCause::Since),
                None => Decision::Breaks(ResyncCause::PrevData),
            }
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
            lacks_record: false,
            has_wanted_ops: true,
            begins_empty: false,
            awaits_directory: false,
            frame: Bytes::new(),
        }
    }

    /// Commit `n`, which names commit `before` as its predecessor.
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
            is_proven: true,
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
    fn the_chain_begins_at_the_first_commit_that_arrives() {
        assert_eq!(on(None, &commit(5, 4), false), Decision::Follows);
        let unverified_chain = repo(RepoState::UnverifiedChain, 2);
        assert_eq!(
            on(Some(&unverified_chain), &commit(5, 4), false),
            Decision::Follows
        );
    }

    #[test]
    fn if_history_is_wanted_only_the_very_first_commit_begins_a_chain() {
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
        assert_eq!(decision, Decision::Breaks(ResyncCause::Backfill));
        // A missing `since` is not signed, so it proves nothing.
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
        assert_eq!(decision, Decision::Breaks(ResyncCause::Backfill));
        // A commit that was parked because its key was unavailable.
        let unknown = RepoRow {
            has_parked: true,
            ..RepoRow::unknown()
        };
        let decision = on(Some(&unknown), &wants_history(commit(5, 4)), true);
        assert_eq!(decision, Decision::Breaks(ResyncCause::Backfill));
    }

    /// Holds invariant 6.
    #[test]
    fn after_a_gap_an_unknown_repository_is_fetched() {
        let decision = behind_gap(None, &commit(5, 4));
        assert_eq!(decision, Decision::Breaks(ResyncCause::Gap));
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
        assert_eq!(missed_one, Decision::Breaks(ResyncCause::PrevData));
    }

    #[test]
    fn where_the_tree_follows_a_wrong_rev_before_is_noticed_and_breaks_nothing() {
        let repo = repo(RepoState::Synchronized, 4);
        let naming = |since: Option<Tid>| {
            update(
                6,
                Predecessor::After {
                    since,
                    prev_data: Some(tree(4)),
                    is_lenient: false,
                },
            )
        };
        for (since, is_wrong) in [(Some(rev(4)), false), (Some(rev(3)), true), (None, true)] {
            let update = naming(since);
            assert_eq!(on(Some(&repo), &update, false), Decision::Follows);
            assert_eq!(has_wrong_since(Some(&repo), &update), is_wrong);
        }
        // Nothing is known that it could be compared with.
        assert!(!has_wrong_since(None, &naming(Some(rev(3)))));
    }

    #[test]
    fn a_commit_that_lacks_a_wanted_record_has_its_repository_fetched() {
        let lacking = |update| ChainUpdate {
            lacks_record: true,
            ..update
        };
        let broken = Decision::Breaks(ResyncCause::RecordMissing);
        let repo = repo(RepoState::Synchronized, 4);
        for known in [None, Some(&repo)] {
            assert_eq!(on(known, &lacking(commit(5, 4)), false), broken);
        }
        // The repository was fetched at this rev.
        let decision = on(Some(&repo), &lacking(commit(4, 3)), true);
        assert_eq!(decision, Decision::Stale);
    }

    #[test]
    fn another_tree_at_the_heads_rev_is_a_fork() {
        let other_tree = |update| ChainUpdate {
            data: tree(9),
            ..update
        };
        for state in [
            RepoState::Synchronized,
            RepoState::Resyncing,
            RepoState::Desynchronized,
        ] {
            let repo = repo(state, 4);
            for is_replay in [false, true] {
                for update in [commit(4, 3), update(4, Predecessor::Unstated)] {
                    let decision = on(Some(&repo), &other_tree(update), is_replay);
                    assert_eq!(decision, Decision::Forks);
                }
                let older = on(Some(&repo), &other_tree(commit(3, 2)), is_replay);
                assert_eq!(older, Decision::Stale);
            }
            let unproven = other_tree(update(4, Predecessor::KeyUnavailable));
            assert_eq!(on(Some(&repo), &unproven, false), Decision::Parks);
        }
    }

    #[test]
    fn a_new_first_commit_breaks_an_existing_chain() {
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
        assert_eq!(decision, Decision::Breaks(ResyncCause::PrevData));
    }

    #[test]
    fn at_level_lenient_the_rev_alone_is_enough_if_no_tree_is_proven() {
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
        // A proven tree that differs shows a missing commit, also at level `lenient`.
        let decision = on(Some(&repo), &lenient(4, Some(tree(9))), false);
        assert_eq!(decision, Decision::Breaks(ResyncCause::PrevData));
        let decision = on(Some(&repo), &lenient(5, None), false);
        assert_eq!(decision, Decision::Breaks(ResyncCause::Since));
    }

    #[test]
    fn a_known_commit_changes_nothing() {
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
    fn a_sync_breaks_the_chain_only_if_its_tree_differs() {
        let repo = repo(RepoState::Synchronized, 4);
        let same_tree = ChainUpdate {
            data: tree(4),
            ..update(5, Predecessor::Unstated)
        };
        assert_eq!(on(Some(&repo), &same_tree, false), Decision::Follows);
        let decision = on(Some(&repo), &update(5, Predecessor::Unstated), false);
        assert_eq!(decision, Decision::Breaks(ResyncCause::Sync));
        assert_eq!(
            on(Some(&repo), &update(4, Predecessor::Unstated), false),
            Decision::Stale
        );
        assert_eq!(
            on(None, &update(4, Predecessor::Unstated), false),
            Decision::Stale
        );
    }

    /// Holds invariant 7.2.
    #[test]
    fn no_commit_overtakes_parked_commits() {
        let repo = RepoRow {
            has_parked: true,
            ..repo(RepoState::Synchronized, 4)
        };
        assert_eq!(on(Some(&repo), &commit(5, 4), false), Decision::Parks);
        assert_eq!(on(Some(&repo), &commit(5, 4), true), Decision::Follows);
    }

    #[test]
    fn commits_are_parked_while_their_repository_is_fetched_or_their_key_is_unavailable() {
        for state in [
            RepoState::Desynchronized,
            RepoState::Resyncing,
            RepoState::Throttled,
        ] {
            for is_replay in [false, true] {
                let decision = on(Some(&repo(state, 4)), &commit(5, 4), is_replay);
                assert_eq!(decision, Decision::Parks);
            }
        }
        let without_key = update(5, Predecessor::KeyUnavailable);
        assert_eq!(on(None, &without_key, false), Decision::Parks);
        let synchronized = repo(RepoState::Synchronized, 4);
        assert_eq!(
            on(Some(&synchronized), &without_key, false),
            Decision::Parks
        );
    }
}
