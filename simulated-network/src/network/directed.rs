//! Actions that a test chooses, instead of random ones.

use bytes::Bytes;

use super::Network;
use crate::account::{Account, Status};
use crate::frame;
use crate::key::SigningKey;
use crate::oracle::What;
use crate::record;
use crate::repo::{CommitFrame, Repository, Write};
use crate::tid::tid;

impl Network {
    /// Commits: each path of `put` gets another record, and the records at `deleted` are deleted.
    ///
    /// # Panics
    /// If a record to delete does not exist.
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

    /// Sets the clock of the network's servers, in microseconds since 1970.
    pub fn set_clock(&mut self, micros: u64) {
        self.clock = micros;
    }

    /// Whether further commits omit `prevData`.
    pub fn omit_prev_data(&mut self, omits: bool) {
        self.omits_prev_data = omits;
    }

    /// Whether further commits omit `since`.
    pub fn omit_since(&mut self, omits: bool) {
        self.omits_since = omits;
    }

    /// Whether further commits come without the blocks of their records.
    pub fn omit_records(&mut self, omits: bool) {
        self.omits_records = omits;
    }

    /// Like [`Self::write`], but afterwards the repository has another commit at the same rev: each
    /// path of `instead` gets a record in place of those of `put`. Like a host that lost its last
    /// commit in a restore from a backup. Only the first commit is emitted.
    ///
    /// # Panics
    /// If a path of `put` exists already.
    pub fn fork(&mut self, number: usize, put: &[&str], instead: &[&str]) {
        let before = self.accounts[number].clone();
        let clock = self.clock;
        self.write(number, put, &[]);
        let after = std::mem::replace(&mut self.clock, clock);
        self.accounts[number] = before;
        let did = self.accounts[number].did.clone();
        for path in put {
            assert_eq!(self.accounts[number].repo.cid(path), None, "{path} exists");
            let path = (*path).to_owned();
            self.oracle.note(&did, What::Delete { path }, false);
        }
        let now = self.time();
        let writes = instead.iter().map(|path| {
            let value = record::record(path, now, &self.refs, &mut self.random);
            ((*path).to_owned(), Some(value))
        });
        let writes = writes.collect();
        let (_unsaid, changes) = self.apply(number, writes);
        for change in changes {
            self.oracle.note(&did, change, false);
        }
        self.clock = self.clock.max(after);
    }

    /// Emits a `#sync` with the current state of the repository.
    pub fn assert_state(&mut self, number: usize) {
        self.sync(number);
    }

    /// Deactivates or reactivates the account.
    pub fn set_status(&mut self, number: usize, status: Option<Status>) {
        match status {
            Some(status) => self.leave(number, status),
            None => self.come_back(number),
        }
    }

    /// Replaces the account's key, without a message about it.
    pub fn replace_key(&mut self, number: usize) {
        let key = SigningKey::generate(&mut self.random);
        self.accounts[number].repo.rotate_key(key);
    }

    /// Moves the account to the server at `url`, without a message about it.
    pub fn move_to(&mut self, number: usize, url: String) {
        self.accounts[number].host = Some(url);
    }

    /// Emits an `#identity` without a handle, which only says that something may have changed.
    pub fn emit_empty_identity(&mut self, number: usize) {
        let did = self.accounts[number].did.clone();
        self.emit(|stamp| frame::identity(stamp, &did, None));
        self.unnamed.insert(did);
    }

    /// Emits a false `#account` that the account is not active.
    pub fn emit_false_account(&mut self, number: usize, status: Status) {
        let did = self.accounts[number].did.clone();
        self.emit(|stamp| frame::account(stamp, &did, Some(status.as_str())));
    }

    /// Emits a commit that does not exist, signed with another key.
    pub fn emit_foreign_commit(&mut self, number: usize, path: &str) -> Bytes {
        let (did, _, commit) = self.commit_with_foreign_key(number, path);
        self.emit(|stamp| frame::commit(stamp, &did, commit));
        self.last_frame()
    }

    /// Emits a commit that does not exist, without its blocks.
    pub fn emit_broken_commit(&mut self, number: usize, path: &str) {
        let (did, _, mut commit) = self.commit_with_foreign_key(number, path);
        commit.blocks.clear();
        self.emit(|stamp| frame::commit(stamp, &did, commit));
    }

    /// Emits a `#sync` of a state that does not exist, signed with another key.
    pub fn emit_foreign_sync(&mut self, number: usize, path: &str) -> Bytes {
        let (did, repo, _) = self.commit_with_foreign_key(number, path);
        let (head, blocks) = repo.sync_frame().expect("it has just committed");
        self.emit(|stamp| frame::sync(stamp, &did, &head.rev, blocks));
        self.last_frame()
    }

    /// The repository with another record at `path`, signed with a key that is not the account's.
    fn commit_with_foreign_key(
        &mut self,
        number: usize,
        path: &str,
    ) -> (String, Repository, CommitFrame) {
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
