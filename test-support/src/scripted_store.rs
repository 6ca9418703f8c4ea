//! A store in memory that answers as a test decides, and records what it was asked to write.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use huddle_firehose::model::{Gap, Position, SourceId};
use huddle_firehose::store::plan::InterestSet;
use huddle_firehose::store::plan::effect::Effect;
use huddle_firehose::store::{
    Adoption, CrashHistory, FrameDigest, OpenGapCounts, PieceLimit, Purged, RemovalPiece,
    Retention, Store, StoreError, StoredCursor, WriteBatch, Written,
};

/// A store that writes everything, unless a test has set other answers.
#[derive(Default)]
pub struct ScriptedStore(Mutex<State>);

#[derive(Default)]
struct State {
    cursor: Position,
    is_known: bool,
    crashes: u32,
    gaps: Vec<Gap>,
    tries: Vec<Transaction>,
    written: Vec<Transaction>,
    answers: VecDeque<Answer>,
    is_down: bool,
    is_silent: bool,
}

/// One call of [`Store::apply`].
#[derive(Clone, Debug, PartialEq)]
pub struct Transaction {
    pub effects: Vec<Effect>,
    pub position: Position,
}

/// The answer to a transaction that is not written.
pub enum Answer {
    Error(StoreError),
    /// No answer at all.
    Never,
}

impl ScriptedStore {
    /// A database without a source.
    pub fn empty() -> Arc<Self> {
        Arc::default()
    }

    /// A database whose cursor is at `position`.
    pub fn at(position: Position) -> Arc<Self> {
        let store = Self::empty();
        store.state().cursor = position;
        store.state().is_known = true;
        store
    }

    /// Sets the answers to the next transactions.
    pub fn answer_next(&self, answers: impl IntoIterator<Item = Answer>) {
        self.state().answers.extend(answers);
    }

    /// Makes every call fail while `is_down`.
    pub fn set_down(&self, is_down: bool) {
        self.state().is_down = is_down;
    }

    /// Makes transactions, and reads of the cursor, have no answer while `is_silent`.
    pub fn set_silent(&self, is_silent: bool) {
        self.state().is_silent = is_silent;
    }

    async fn speaks(&self) {
        if self.state().is_silent {
            std::future::pending::<()>().await;
        }
    }

    /// Sets how many runs in a row have crashed before this one.
    pub fn set_crashes(&self, crashes: u32) {
        self.state().crashes = crashes;
    }

    /// The transactions that were tried so far, written or not.
    pub fn tries(&self) -> Vec<Transaction> {
        self.state().tries.clone()
    }

    pub fn written(&self) -> Vec<Transaction> {
        self.state().written.clone()
    }

    pub fn cursor(&self) -> Position {
        self.state().cursor
    }

    /// The gaps that were recorded with a move of the cursor.
    pub fn gaps(&self) -> Vec<Gap> {
        self.state().gaps.clone()
    }

    pub fn crashes(&self) -> u32 {
        self.state().crashes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn up(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let state = self.state();
        if state.is_down {
            return Err(unavailable());
        }
        Ok(state)
    }
}

/// The error of a database that is unavailable.
pub fn unavailable() -> StoreError {
    StoreError::Unavailable(sqlx::Error::PoolClosed)
}

impl Store for ScriptedStore {
    fn apply<'a>(
        &'a self,
        batch: &'a WriteBatch<'a>,
    ) -> BoxFuture<'a, Result<Written, StoreError>> {
        async move {
            self.speaks().await;
            let answer = {
                let mut state = self.up()?;
                let transaction = Transaction {
                    effects: batch.effects.to_vec(),
                    position: batch.position,
                };
                state.tries.push(transaction.clone());
                let answer = state.answers.pop_front();
                if answer.is_none() {
                    state.written.push(transaction);
                    if batch.position.seq > state.cursor.seq || batch.sequence_restarted {
                        state.cursor = batch.position;
                    }
                }
                answer
            };
            match answer {
                None => Ok(Written::default()),
                Some(Answer::Error(error)) => Err(error),
                Some(Answer::Never) => std::future::pending().await,
            }
        }
        .boxed()
    }

    fn adopt_interest<'a>(
        &'a self,
        _source: &'a SourceId,
        _set: &'a InterestSet,
    ) -> BoxFuture<'a, Result<Adoption, StoreError>> {
        async move { self.up().map(|_| Adoption::Unchanged) }.boxed()
    }

    fn load_cursor<'a>(
        &'a self,
        _source: &'a SourceId,
    ) -> BoxFuture<'a, Result<StoredCursor, StoreError>> {
        async move {
            self.speaks().await;
            let state = self.up()?;
            Ok(StoredCursor {
                position: state.cursor,
                is_new: !state.is_known,
                follows: None,
            })
        }
        .boxed()
    }

    fn move_cursor<'a>(
        &'a self,
        _source: &'a SourceId,
        position: Position,
        gap: Option<&'a Gap>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        async move {
            let mut state = self.up()?;
            state.cursor = position;
            state.gaps.extend(gap.cloned());
            Ok(())
        }
        .boxed()
    }

    fn count_open_gaps<'a>(
        &'a self,
        _source: &'a SourceId,
    ) -> BoxFuture<'a, Result<OpenGapCounts, StoreError>> {
        async move {
            let all = self.up()?.gaps.len() as u64;
            Ok(OpenGapCounts {
                all,
                ..OpenGapCounts::default()
            })
        }
        .boxed()
    }

    fn begin_run<'a>(
        &'a self,
        _source: &'a SourceId,
    ) -> BoxFuture<'a, Result<CrashHistory, StoreError>> {
        async move {
            Ok(CrashHistory {
                crashes: self.up()?.crashes,
                ..CrashHistory::default()
            })
        }
        .boxed()
    }

    fn mark_in_progress<'a>(
        &'a self,
        _source: &'a SourceId,
        _frame: Option<FrameDigest>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        async move { self.up().map(drop) }.boxed()
    }

    fn forget_crashes<'a>(
        &'a self,
        _source: &'a SourceId,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        async move {
            self.up()?.crashes = 0;
            Ok(())
        }
        .boxed()
    }

    fn drop_piece(&self, _limit: PieceLimit) -> BoxFuture<'_, Result<bool, StoreError>> {
        async { Ok(false) }.boxed()
    }

    fn remove_piece(
        &self,
        _limit: PieceLimit,
    ) -> BoxFuture<'_, Result<Option<RemovalPiece>, StoreError>> {
        async { Ok(None) }.boxed()
    }

    fn log_bytes(&self) -> u64 {
        0
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        async { Ok(()) }.boxed()
    }

    fn count_removals(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        async { Ok(0) }.boxed()
    }

    fn purge<'a>(&'a self, _retention: Retention) -> BoxFuture<'a, Result<Purged, StoreError>> {
        async move { self.up().map(|_| Purged::default()) }.boxed()
    }
}
