//! The IndexerActor: gathers effects into transactions, and applies them one at a time, in order.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::Context;
use super::cursor::CursorMessage;
use super::messages::DecodedBatch;
use crate::actor::{ActorContext, Arguments};
use crate::delivery::backoff::Backoff;
use crate::delivery::ledger::Lease;
use crate::model::{GapCause, Position};
use crate::pipeline::accumulator::{Accumulator, IndexBatch, IndexWork, Load};
use crate::pipeline::group::{Group, Pace};
use crate::store::plan::effect::{Effect, EffectPart, Rejection, writing_bytes};
use crate::store::{StoreError, WriteBatch, Written};
use crate::telemetry::excerpt::{LOGGED, excerpt};
use crate::testing::fault::Point;

/// A transaction that takes longer counts as failed. If it was committed nevertheless, the next try
/// changes nothing. It is shorter than the deadline of a drain, so that a hanging transaction
/// leaves time for another try.
const TRANSACTION_DEADLINE: Duration = Duration::from_secs(15);
/// A transaction that misses its deadline is tried again when the database has answered a small one in
/// this time.
const PROBE_DEADLINE: Duration = Duration::from_secs(6);
/// After so many misses of a transaction, while the database answers others, its largest event is made
/// smaller.
const DEADLINE_MISSES: u32 = 3;
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(10);
const RETRY_JITTER: f64 = 0.2;

/// Applies effects to the tables.
pub struct IndexerActor;

#[derive(Debug)]
pub enum IndexerMessage {
    Index(Box<IndexWork<DecodedBatch>>),
    /// Write what waits.
    Flush,
    /// Try again what could not be written.
    Retry,
}

pub struct IndexerState {
    context: ActorContext<Context>,
    waiting: Accumulator<DecodedBatch>,
    /// Batches of a lower epoch are discarded.
    epoch: u64,
    flush: Flush,
    retry_scheduled: bool,
    /// The transaction that is cut and not yet durable. Nothing overtakes it.
    current: Option<Current>,
    /// The batches behind it of a group that was taken apart. They are written one by one before
    /// another group forms.
    apart: VecDeque<Group<DecodedBatch>>,
    pace: Pace,
    backoff: Backoff,
}

/// Whether an [`IndexerMessage::Flush`] is on its way.
enum Flush {
    None,
    Later(AbortHandle),
    Now,
}

struct Current {
    group: Group<DecodedBatch>,
    /// How often each part of an effect was refused.
    refusals: BTreeMap<EffectPart, u32>,
    /// The last attempt missed its deadline. Whether the database or the transaction is why is not
    /// known yet.
    is_late: bool,
    /// How often it missed its deadline while the database answered others.
    misses: u32,
}

impl Current {
    fn of(group: Group<DecodedBatch>) -> Self {
        Self {
            group,
            refusals: BTreeMap::new(),
            is_late: false,
            misses: 0,
        }
    }

    fn is_group(&self) -> bool {
        self.group.batches() > 1
    }

    fn transaction(&mut self) -> &mut IndexBatch<DecodedBatch> {
        &mut self.group.whole
    }
}

impl Actor for IndexerActor {
    type Msg = IndexerMessage;
    type State = IndexerState;
    type Arguments = Arguments<Context>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let context =
            ActorContext::start(arguments, myself.get_cell(), Point::IndexerStart).await?;
        Ok(IndexerState {
            waiting: Accumulator::new(context.options.index_batch),
            epoch: context.ledger.next_epoch(),
            flush: Flush::None,
            retry_scheduled: false,
            current: None,
            apart: VecDeque::new(),
            pace: Pace::new(context.options.index_batch),
            backoff: Backoff::try_new(RETRY_MIN, RETRY_MAX, RETRY_JITTER, fastrand::Rng::new())?,
            context,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let _busy = state.context.begin(Point::IndexerMessage).await?;
        match message {
            IndexerMessage::Index(work) => state.take(*work),
            IndexerMessage::Flush => {
                state.flush = Flush::None;
                state.write_one().await?;
            }
            IndexerMessage::Retry => {
                state.retry_scheduled = false;
                state.write_one().await?;
            }
        }
        state.schedule(&myself);
        Ok(())
    }
}

impl IndexerState {
    fn take(&mut self, work: IndexWork<DecodedBatch>) {
        let epoch = work.batch.lease.epoch().epoch;
        if epoch < self.epoch {
            // The ledger would only hand it out again, so it pauses until the next epoch.
            work.batch.lease.pause_ledger();
            return;
        }
        if epoch > self.epoch {
            // The ledger hands out again, in the new epoch, what is held from the old one.
            self.epoch = epoch;
            self.waiting.clear();
            self.current = None;
            self.apart.clear();
        }
        self.waiting.push(work);
        self.show_depth();
    }

    /// Schedules the next transaction. Each message writes one, so that the actor can be stopped
    /// between two of them.
    fn schedule(&mut self, myself: &ActorRef<IndexerMessage>) {
        if self.retry_scheduled {
            return;
        }
        if self.current.is_some() {
            self.retry_scheduled = true;
            myself.send_after(self.backoff.next_delay(), || IndexerMessage::Retry);
        } else if !self.apart.is_empty() || self.waiting.is_due() {
            self.flush_now(myself);
        } else if !self.waiting.is_empty() && matches!(self.flush, Flush::None) {
            let timer =
                myself.send_after(self.context.options.index_wait, || IndexerMessage::Flush);
            self.flush = Flush::Later(timer.abort_handle());
        }
    }

    /// Sends a flush now, and cancels the timer of a later one.
    fn flush_now(&mut self, myself: &ActorRef<IndexerMessage>) {
        match std::mem::replace(&mut self.flush, Flush::Now) {
            Flush::Now => return,
            Flush::Later(timer) => timer.abort(),
            Flush::None => {}
        }
        // It fails only while the actor stops. Then it writes nothing more.
        if myself.cast(IndexerMessage::Flush).is_err() {
            self.flush = Flush::None;
        }
    }

    async fn write_one(&mut self) -> Result<(), ActorProcessingErr> {
        let Some(mut current) = self.current.take().or_else(|| self.cut()) else {
            return Ok(());
        };
        if current.is_late
            && let Err(error) = self.note_miss(&mut current).await
        {
            self.hold_blocked(current, &error);
            return Ok(());
        }
        let budget = self.context.budget.clone();
        let _work = budget
            .reserve_work(writing_bytes(&current.group.whole.effects))
            .await;
        self.mark_leases(&mut current, Lease::start);
        self.context.pass(Point::IndexerCut).await?;
        let started = Instant::now();
        let transaction = &current.group.whole;
        let batch = WriteBatch {
            source: self.context.ledger.source(),
            effects: &transaction.effects,
            position: transaction.position,
            sequence_restarted: transaction.sequence_restarted,
        };
        let store = &self.context.store;
        let write = match current.is_group() {
            true => store.apply_group(&batch),
            false => store.apply(&batch),
        };
        match tokio::time::timeout(TRANSACTION_DEADLINE, write).await {
            Ok(Ok(written)) => {
                self.context.pass(Point::IndexerCommitted).await?;
                self.complete(current, written, started);
            }
            Ok(Err(StoreError::Rejected(_))) if current.is_group() => self.take_apart(current),
            Ok(Err(StoreError::Rejected(rejections))) => self.hold_refused(current, rejections),
            Ok(Err(error)) => self.hold_blocked(current, &error),
            // It may be too large for this machine.
            Err(_elapsed) if current.is_group() => {
                self.context.note_blocked(&StoreError::Deadline);
                self.take_apart(current);
            }
            Err(_elapsed) => {
                current.is_late = true;
                self.hold_blocked(current, &StoreError::Deadline);
            }
        }
        self.context.pass(Point::IndexerSettled).await
    }

    /// The next batch of a group that was taken apart, or else the next group.
    fn cut(&mut self) -> Option<Current> {
        let next = self.apart.pop_front();
        let next = next.or_else(|| Group::cut(&mut self.waiting, self.pace));
        next.map(Current::of)
    }

    /// Has the batches of a group written one by one, because one of them is refused, or all of them
    /// take too long.
    fn take_apart(&mut self, current: Current) {
        // Only the batches of an earlier group can be in the queue, and those are settled by now.
        self.apart = current.group.into_batches();
        if let Some(first) = self.apart.pop_front() {
            self.hold(Current::of(first));
        }
    }

    fn complete(&mut self, mut current: Current, written: Written, started: Instant) {
        let load = Load::of(&current.group.whole.effects);
        let took = started.elapsed();
        self.pace.note(load.size(), took);
        if current.group.whole.is_unfinished
            && let Some(batch) = self.unfinished_batch()
        {
            batch.lease.finish();
        }
        let context = &self.context;
        let metrics = &context.metrics;
        for load in current.group.loads() {
            metrics.index_batch_size.record(load.size() as f64);
        }
        metrics
            .index_group_batches
            .record(current.group.batches() as f64);
        metrics.index_commit_seconds.record(took);
        let transaction = current.transaction();
        context.note_dead_letters(&transaction.effects);
        for (batch, position) in std::mem::take(&mut transaction.completes) {
            metrics
                .socket_to_commit_seconds
                .record(batch.received_at.elapsed());
            batch.lease.ack(position);
        }
        metrics.wrong_sinces(written.wrong_sinces);
        self.backoff.reset();
        context.status.update(|status| {
            status.queue.applied += load.total() as u64;
            status.queue.dead_letters += written.dead_letters;
            status.queue.last_commit_at = Some(Timestamp::now());
        });
        context.note_unblocked();
        if let Some(stretch) = written.lost_stretch {
            metrics.gaps(GapCause::SourceLost).increment(1);
            tracing::warn!(
                accounts = stretch.accounts,
                from_seq = stretch.from_seq,
                to_seq = stretch.to_seq,
                "the chains of several accounts broke: the source has lost events; a gap is recorded, and every repository is compared with its host"
            );
        }
        let brings_gap = |effect: &Effect| matches!(effect, Effect::Gap(_));
        if let Some(repositories) = &context.repositories
            && (written.leaves_work || transaction.effects.iter().any(brings_gap))
        {
            repositories.wake();
        }
        self.tell_cursor(current.group.whole.position);
        self.show_depth();
    }

    fn tell_cursor(&self, position: Position) {
        // If there is no CursorActor, the next one reads the cursor from the database.
        let _sent = self.context.cursor.cast(CursorMessage::Applied(position));
    }

    /// Holds a transaction whose effects the database refused. An effect that was refused more than
    /// `index_retries` times becomes a dead letter. The other effects stay as they are.
    fn hold_refused(&mut self, mut current: Current, rejections: Vec<Rejection>) {
        let retries = self.context.options.index_retries;
        self.context
            .metrics
            .index_retries
            .increment(rejections.len() as u64);
        for Rejection { part, reason } in rejections {
            let effects = &mut current.group.whole.effects;
            let Some(effect) = effects.get_mut(part.effect) else {
                continue;
            };
            let refusals = current.refusals.entry(part).or_default();
            *refusals += 1;
            if *refusals > retries {
                let source = self.context.ledger.source();
                effect.refuse(part.record, source, *refusals, reason);
            }
        }
        self.hold(current);
    }

    /// Finds out why the transaction missed its deadline. If the database answers others, it is too
    /// large for this machine, and it will miss the deadline again. After some misses its largest
    /// event becomes dead letters.
    ///
    /// # Errors
    /// If the database does not answer. The transaction waits then.
    async fn note_miss(&self, current: &mut Current) -> Result<(), StoreError> {
        let source = self.context.ledger.source();
        let answer = tokio::time::timeout(PROBE_DEADLINE, self.context.store.load_cursor(source));
        answer.await.unwrap_or(Err(StoreError::Deadline))?;
        current.is_late = false;
        current.misses += 1;
        if current.misses < DEADLINE_MISSES {
            return Ok(());
        }
        let misses = std::mem::take(&mut current.misses);
        let deadline_s = TRANSACTION_DEADLINE.as_secs();
        let error = format!("not written within {deadline_s} s in {misses} attempts");
        let effects = current.group.whole.effects.iter_mut();
        if let Some(largest) = effects.max_by_key(|effect| effect.bytes())
            && largest.lighten(source, misses, &error)
        {
            let did = largest.did().map(|did| excerpt(did, LOGGED));
            tracing::error!(
                did,
                misses,
                deadline_s,
                "an event cannot be written in time; its records are kept as dead letters, the others go on"
            );
        }
        Ok(())
    }

    fn hold_blocked(&mut self, current: Current, error: &StoreError) {
        self.context.note_blocked(error);
        self.hold(current);
    }

    fn hold(&mut self, mut current: Current) {
        self.mark_leases(&mut current, Lease::finish);
        self.current = Some(current);
    }

    /// Calls `mark` on the lease of each batch that has a part in the transaction.
    fn mark_leases(&mut self, current: &mut Current, mark: fn(&mut Lease)) {
        for (batch, _) in &mut current.transaction().completes {
            mark(&mut batch.lease);
        }
        if current.group.whole.is_unfinished
            && let Some(batch) = self.unfinished_batch()
        {
            mark(&mut batch.lease);
        }
    }

    /// The batch of frames that a transaction has begun and not completed. The next batch of effects
    /// that completes one completes it.
    fn unfinished_batch(&mut self) -> Option<&mut DecodedBatch> {
        let mut apart = self.apart.iter_mut();
        let in_apart = apart.find_map(|group| group.whole.completes.first_mut());
        match in_apart {
            Some((batch, _)) => Some(batch),
            None => self.waiting.first_batch(),
        }
    }

    fn show_depth(&self) {
        let current = self.current.as_ref().map(|current| &current.group);
        let held = current.into_iter().chain(&self.apart);
        let held = held.map(|group| Load::of(&group.whole.effects).total());
        let depth = (held.sum::<usize>() + self.waiting.depth()) as u64;
        self.context
            .status
            .update(|status| status.queue.depth = depth);
    }
}
