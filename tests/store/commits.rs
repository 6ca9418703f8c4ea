//! Short constructors of commits with a chain update. Commit `n` moves its repository to the `n`th
//! rev and the `n`th tree.

use bytes::Bytes;
use cid::Cid;
use cid::multihash::Multihash;
use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::atproto::verify::Level;
use huddle_firehose::model::Resynced;
use huddle_firehose::store::plan::ResyncCause;
use huddle_firehose::store::plan::effect::{
    ChainUpdate, CommitEffect, Effect, Predecessor, Recheck, RecheckReason, RecordChange,
    RecordDelete,
};
use huddle_firehose::store::repo_store::{
    DueRepo, JobKind, RepoChange, RepoEvent, RepoStore, Resync, ResyncFailure, WaitsFor,
};
use jiff::Timestamp;

use crate::fixture::*;

pub(crate) const PROFILE: &str = "com.huddle.profile";

/// The head of each repository: rev and state, and whether commits are parked.
pub(crate) const HEADS: &str = "SELECT did || ' ' || coalesce(rev, '-') || ' ' || state \
     || CASE has_parked WHEN 1 THEN ' parked' ELSE '' END FROM repos ORDER BY did";
pub(crate) const CAUSE: &str = "SELECT coalesce(cause, '-') FROM repos ORDER BY did";
/// The seqs of the parked frames, in their order.
pub(crate) const PARKED: &str = "SELECT seq || '' FROM parked_commits ORDER BY did, id";
pub(crate) const ROWS: &str = "SELECT rkey || ' ' || seq || CASE deleted WHEN 1 THEN ' deleted' ELSE '' END \
     FROM records ORDER BY did, rkey";

/// The line of [`HEADS`] for a repository at commit `n`.
pub(crate) fn head(did: &str, n: u64, state: &str) -> String {
    format!("{did} {} {state}", rev(n))
}

pub(crate) fn did(did: &str) -> Did {
    Did::parse(did).unwrap()
}

pub(crate) fn tree(n: u64) -> Cid {
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&n.to_be_bytes());
    Cid::new_v1(0x71, Multihash::wrap(0x12, &digest).unwrap())
}

pub(crate) fn frame(did: &str, n: u64) -> Bytes {
    Bytes::from(format!("frame {n} of {did}"))
}

/// Commit `n`, verified, with commit `before` as its predecessor.
pub(crate) fn commit(did: &str, n: u64, before: u64) -> Effect {
    commit_since(did, n, before, before)
}

/// Commit `n`, verified, with the tree of commit `before` and the rev of commit `since` as its
/// predecessor.
pub(crate) fn commit_since(did: &str, n: u64, before: u64, since: u64) -> Effect {
    let predecessor = Predecessor::After {
        since: Some(rev(since)),
        prev_data: Some(tree(before)),
        is_lenient: false,
    };
    update(did, n, predecessor)
}

/// Commit `n`, the first of its repository.
pub(crate) fn first_commit(did: &str, n: u64) -> Effect {
    let predecessor = Predecessor::After {
        since: None,
        prev_data: None,
        is_lenient: false,
    };
    update(did, n, predecessor)
}

/// A commit whose key is unavailable.
pub(crate) fn without_key(did: &str, n: u64) -> Effect {
    update(did, n, Predecessor::KeyUnavailable)
}

/// A commit whose key the PLC directory has not given yet.
pub(crate) fn awaiting_directory(did: &str, n: u64) -> Effect {
    with_chain(without_key(did, n), |chain| chain.awaits_directory = true)
}

/// A `#sync` at the `n`th rev, with the tree of commit `tree_of`.
pub(crate) fn sync(did: &str, n: u64, tree_of: u64) -> Effect {
    let sync = update(did, n, Predecessor::Unstated);
    with_chain(sync, |chain| chain.data = tree(tree_of))
}

fn update(did: &str, n: u64, predecessor: Predecessor) -> Effect {
    Effect::Commit(Box::new(CommitEffect {
        chain: Some(ChainUpdate {
            did: self::did(did),
            rev: rev(n),
            data: tree(n),
            seq: n,
            time: second(n),
            predecessor,
            wants_history: false,
            lacks_record: false,
            has_wanted_ops: true,
            begins_empty: false,
            awaits_directory: false,
            frame: frame(did, n),
        }),
        records: Vec::new(),
    }))
}

/// Returns the commit with a changed chain update.
pub(crate) fn with_chain(mut commit: Effect, change: impl FnOnce(&mut ChainUpdate)) -> Effect {
    let chain = match &mut commit {
        Effect::Commit(commit) => commit.chain.as_mut(),
        _ => None,
    };
    change(chain.unwrap());
    commit
}

/// Returns the commit as a worker with a backfill reads it.
pub(crate) fn with_history(commit: Effect) -> Effect {
    with_chain(commit, |chain| chain.wants_history = true)
}

/// A record that commit `n` put, verified at level `chain`.
pub(crate) fn put_by(did: &str, rkey: &str, n: u64) -> Effect {
    let mut version = version(did, PROFILE, rkey, n);
    version.verified = Some(Level::Chain);
    upsert(version, None)
}

pub(crate) fn delete_by(did: &str, rkey: &str, n: u64) -> Effect {
    let mut version = version(did, PROFILE, rkey, n);
    version.verified = Some(Level::Chain);
    Effect::records(vec![RecordChange::Delete(RecordDelete { version })])
}

pub(crate) fn recheck(did: &str, is_wanted: bool) -> Effect {
    Effect::Recheck(Recheck {
        did: self::did(did),
        reason: RecheckReason::Refused { is_wanted },
    })
}

/// An unconfirmed status of an account.
pub(crate) fn unconfirmed_status(name: &str, status: Option<&str>, n: u64) -> Effect {
    match account(name, status, n) {
        Effect::Account(mut change) => {
            change.is_unconfirmed = true;
            Effect::Account(change)
        }
        effect => effect,
    }
}

/// A fetch that found the repository at commit `n`.
pub(crate) fn resynced(did: &str, n: u64) -> Resync {
    let done = Resynced {
        rev: rev(n).to_string(),
        data: tree(n).to_string(),
        time: second(n),
        ..Resynced::default()
    };
    resync(did, Ok(done))
}

/// A failed fetch, which is retried at second `retry_at`.
pub(crate) fn failed(did: &str, retry_at: u64) -> Resync {
    let failure = ResyncFailure {
        error: "the host is on fire".to_owned(),
        is_throttled: false,
        is_gone: false,
        waits_for: WaitsFor::Account,
        retry_at: second(retry_at),
    };
    resync(did, Err(failure))
}

fn resync(did: &str, outcome: Result<Resynced, ResyncFailure>) -> Resync {
    Resync {
        did: self::did(did),
        cause: ResyncCause::PrevData,
        host: Some("https://host.example/".to_owned()),
        started_at: Timestamp::now(),
        outcome,
    }
}

impl Database {
    /// Applies an event to a repository.
    pub(crate) async fn note(&self, name: &str, event: RepoEvent<'_>) {
        let did = &did(name);
        let change = RepoChange::Repo { did, event };
        self.store.change(change).await.unwrap();
    }

    /// Requests a fetch of a repository, in any state.
    pub(crate) async fn request_resync(&self, name: &str, cause: ResyncCause) {
        self.note(name, RepoEvent::RequestResync { cause }).await;
    }

    pub(crate) async fn retry_later(&self, name: &str, until: Timestamp) {
        let waits_for = WaitsFor::Shared;
        self.note(name, RepoEvent::RetryLater { until, waits_for })
            .await;
    }

    pub(crate) async fn begin_resync(&self, name: &str) {
        self.note(name, RepoEvent::BeginResync).await;
    }

    pub(crate) async fn end_resync(&self, resync: &Resync) {
        self.note(resync.did.as_str(), RepoEvent::EndResync(resync))
            .await;
    }

    /// Makes repositories tracked: each is at commit 1 and has a record `a`.
    pub(crate) async fn track(&self, dids: &[&str]) {
        for did in dids {
            let begun = [first_commit(did, 1), put_by(did, "a", 1)];
            self.apply(&begun).await;
        }
    }

    /// Breaks the chain of a repository by commit 9, which is parked.
    pub(crate) async fn break_chain(&self, did: &str) {
        self.apply(&[commit(did, 9, 8), put_by(did, "z", 9)]).await;
    }

    /// The DIDs of the repositories that are due at second `now`, the most urgent first.
    pub(crate) async fn due(&self, now: u64) -> Vec<String> {
        let due = self.due_repos(now).await.into_iter();
        due.map(|repo| repo.did.to_string()).collect()
    }

    pub(crate) async fn due_repos(&self, now: u64) -> Vec<DueRepo> {
        let mut due = Vec::new();
        for urgency in JobKind::ALL {
            due.extend(self.store.due(urgency, second(now), 100).await.unwrap());
        }
        due
    }

    /// Fetches a repository while no commit arrives.
    pub(crate) async fn resync(&self, did: &str, n: u64) {
        self.begin_resync(did).await;
        self.end_resync(&resynced(did, n)).await;
    }
}
