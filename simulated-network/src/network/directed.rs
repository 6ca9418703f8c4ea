//! What a test has an account do, or has the relay say of it.

use bytes::Bytes;

use super::Network;
use crate::account::{Account, Status};
use crate::frame;
use crate::key::SigningKey;
use crate::record;
use crate::repo::{CommitFrame, Repository, Write};
use crate::tid::tid;

impl Network {
    /// Commits: the paths of `put` each get another record, those of `deleted` lose theirs.
    ///
    /// # Panics
    /// Where something is deleted that is not there.
    pub fn write(&mut self, number: usize, put: &[&str], deleted: &[&str]) {
        let now = self.time();
        let mut writes = Vec::new();
        for path in put {
            let value = record::record(path, now, &self.refs, &mut self.random);
            writes.push(((*path).to_owned(), Some(value)));
        }
        writes.extend(deleted.iter().map(|path| ((*path).to_owned(), None)));
        self.commit_writes(number, writes);
    }

    /// From now on commits don't say which tree was before them, or do so again.
    pub fn omit_prev_data(&mut self, omits: bool) {
        self.omits_prev_data = omits;
    }

    /// A `#sync` of where the repository stands.
    pub fn assert_state(&mut self, number: usize) {
        self.sync(number);
    }

    /// The account leaves, or comes back.
    pub fn set_status(&mut self, number: usize, status: Option<Status>) {
        match status {
            Some(status) => self.leave(number, status),
            None => self.come_back(number),
        }
    }

    /// The account has another key from now on. Nobody says so.
    pub fn replace_key(&mut self, number: usize) {
        let key = SigningKey::generate(&mut self.random);
        self.accounts[number].repo.rotate_key(key);
    }

    /// The account lives on the server at `url` from now on. Nobody says so.
    pub fn move_to(&mut self, number: usize, url: String) {
        self.accounts[number].host = Some(url);
    }

    /// An `#identity` that tells no more than that something may have changed.
    pub fn hint_at_identity(&mut self, number: usize) {
        let did = self.accounts[number].did.clone();
        self.emit(|stamp| frame::identity(stamp, &did, None));
    }

    /// The relay says that an account has left which has not.
    pub fn slander(&mut self, number: usize, status: Status) {
        let did = self.accounts[number].did.clone();
        self.emit(|stamp| frame::account(stamp, &did, Some(status.as_str())));
    }

    /// A commit that was never made: somebody else has signed it.
    pub fn forge_commit(&mut self, number: usize, path: &str) -> Bytes {
        let (did, _, commit) = self.forged(number, path);
        self.emit(|stamp| frame::commit(stamp, &did, commit));
        self.last_frame()
    }

    /// A `#sync` of a state that never was: somebody else has signed it.
    pub fn forge_state(&mut self, number: usize, path: &str) -> Bytes {
        let (did, repo, _) = self.forged(number, path);
        let (head, blocks) = repo.sync_frame().expect("it has just committed");
        self.emit(|stamp| frame::sync(stamp, &did, &head.rev, blocks));
        self.last_frame()
    }

    /// What the repository would be if `path` were another record, and somebody else's key were the
    /// account's.
    fn forged(&mut self, number: usize, path: &str) -> (String, Repository, CommitFrame) {
        let value = record::record(path, self.time(), &self.refs, &mut self.random);
        let write = Write {
            path: path.to_owned(),
            value: Some(record::to_ipld(&value)),
        };
        let Account { did, mut repo, .. } = self.accounts[number].clone();
        repo.rotate_key(SigningKey::generate(&mut self.random));
        let commit = repo.apply(vec![write], tid(self.clock, number as u16));
        (did, repo, commit)
    }

    fn last_frame(&self) -> Bytes {
        let last = self.log.last().expect("something was said");
        last.frame.clone()
    }
}
