//! The FilterActor: owns the rules of collections and accounts. It publishes them to the prefilter and
//! the decoders, puts decoded batches back in order, applies the rules in force, and watches the
//! source's seqs. It acks batches that need nothing. The others go to the indexer.

use std::sync::Arc;

use jiff::Timestamp;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::Instant;

use super::Context;
use super::cursor::CursorMessage;
use super::indexer::IndexerMessage;
use super::messages::{DecodedBatch, DecodedItem};
use crate::actor::{ActorContext, Arguments};
use crate::delivery::ledger::EpochStart;
use crate::delivery::reorder::Reorder;
use crate::delivery::sequence::{Account, Observation, Seen, SequenceGuard};
use crate::model::Position;
use crate::pipeline::accumulator::{CommitPoint, IndexWork};
use crate::source::interest::Interest;
use crate::store::plan::effect::Effect;
use crate::testing::fault::Point;

/// Keeps batches in order.
pub struct FilterActor;

pub struct FilterState {
    context: ActorContext<Context>,
    /// The rules in force: which collections and accounts are kept.
    interest: Arc<Interest>,
    /// Batches of a lower epoch are discarded.
    least_epoch: u64,
    epoch: EpochStart,
    reorder: Reorder<DecodedBatch>,
    guard: SequenceGuard,
    /// Events that needed nothing since the last message to the CursorActor.
    events_since_checkpoint: u64,
}

impl Actor for FilterActor {
    type Msg = DecodedBatch;
    type State = FilterState;
    type Arguments = Arguments<Context>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let context = ActorContext::start(arguments, myself.get_cell(), Point::FilterStart).await?;
        let interest = context.processor.rules.interest.clone();
        context.interest.publish(interest.clone());
        let epoch = context.ledger.epoch();
        Ok(FilterState {
            least_epoch: context.ledger.next_epoch(),
            ..FilterState::new(context, interest, epoch)
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<Self::Msg>,
        batch: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let _busy = state.context.begin(Point::FilterTaken).await?;
        state.take(batch);
        state.context.pass(Point::FilterPassedOn).await
    }
}

impl FilterState {
    fn new(context: ActorContext<Context>, interest: Arc<Interest>, epoch: EpochStart) -> Self {
        Self {
            interest,
            reorder: Reorder::starting_at(epoch.first_frame),
            guard: SequenceGuard::new(epoch.position, epoch.gap, context.options.upstream_window)
                .with_leaps(epoch.leaps),
            least_epoch: epoch.epoch,
            epoch,
            context,
            events_since_checkpoint: 0,
        }
    }

    fn take(&mut self, batch: DecodedBatch) {
        let epoch = batch.lease.epoch();
        if epoch.epoch < self.least_epoch {
            // The ledger would only hand it out again, so it pauses until the next epoch.
            batch.lease.pause_ledger();
            return;
        }
        if epoch.epoch > self.epoch.epoch {
            *self = Self::new(self.context.clone(), self.interest.clone(), epoch);
        }
        if let Err(repeated) = self.reorder.insert(batch.numbers.clone(), batch) {
            // This actor has passed it on before, so the indexer died with it. The ledger would
            // only hand it out again, so it pauses until the supervisor has restarted the indexer.
            repeated.lease.pause_ledger();
            return;
        }
        while let Some(batch) = self.reorder.release() {
            self.pass_on(batch);
        }
    }

    fn pass_on(&mut self, mut batch: DecodedBatch) {
        batch.lease.start();
        let events = batch.events;
        let mut work = EffectsOf {
            context: &self.context,
            interest: &self.interest,
            guard: &mut self.guard,
            effects: Vec::new(),
            commit_points: Vec::new(),
            kept: 0,
            sequence_restarted: false,
            received_at: batch.received_at,
        };
        for item in batch.items.drain(..) {
            work.add(item);
        }
        work.finish(batch.last);
        let EffectsOf {
            effects,
            commit_points,
            kept,
            sequence_restarted,
            ..
        } = work;
        batch.lease.finish();
        batch.lease.note_leaps(self.guard.leaps());
        let position = self.guard.position();
        self.note_received(position, events, kept);
        if effects.is_empty() && !sequence_restarted {
            batch.lease.ack(position);
            self.tell_cursor(events);
            return;
        }
        let work = IndexWork {
            is_suspect: batch.lease.is_suspect(),
            batch,
            effects,
            commit_points,
            position,
            sequence_restarted,
        };
        if let Err(IndexerMessage::Index(refused)) = self
            .context
            .indexer
            .cast(IndexerMessage::Index(Box::new(work)))
        {
            refused.batch.lease.pause_ledger();
        }
    }

    fn note_received(&self, position: Position, events: u64, kept: u64) {
        self.context.status.update(|status| {
            let source = status.source_mut(self.context.ledger.source());
            source.set_received(position, Timestamp::now());
            source.events += events;
            source.matched += kept;
        });
    }

    fn tell_cursor(&mut self, events: u64) {
        self.events_since_checkpoint += events;
        if self.events_since_checkpoint < self.context.options.checkpoint_events {
            return;
        }
        // If there is no CursorActor, the next one reads the ledger when it starts.
        if self.context.cursor.cast(CursorMessage::Acked).is_ok() {
            self.events_since_checkpoint = 0;
        }
    }
}

/// Gathers the effects of one batch.
struct EffectsOf<'a> {
    context: &'a Context,
    interest: &'a Interest,
    guard: &'a mut SequenceGuard,
    effects: Vec<Effect>,
    commit_points: Vec<CommitPoint>,
    /// Events that have effects.
    kept: u64,
    sequence_restarted: bool,
    received_at: Instant,
}

impl EffectsOf<'_> {
    fn add(&mut self, item: DecodedItem) {
        match item {
            DecodedItem::At(position, account) => {
                if position.seq <= self.guard.position().seq && !self.guard.is_proof(position) {
                    // A replay after a reconnect, or a server that repeats events.
                    self.context
                        .metrics
                        .seq_anomalies("regression")
                        .increment(1);
                }
                self.observe(Seen {
                    is_next: true,
                    account,
                    ..self.seen(position)
                });
            }
            DecodedItem::Reached(position) => self.observe(self.seen(position)),
            DecodedItem::ReconnectMarker(requested) => self.guard.note_reconnect(requested),
            DecodedItem::DeadLetter(letter) => {
                if let Some(seq) = letter.seq {
                    self.guard.note_unreadable(seq);
                }
                self.effects.push(Effect::DeadLetter(letter));
            }
            DecodedItem::Recheck(recheck) => self.effects.push(Effect::Recheck(recheck)),
            DecodedItem::OutdatedCursor => self.guard.note_outdated_cursor(),
            DecodedItem::Work(work) => {
                if let Some(position) = work.position {
                    let did = work.effects.iter().find_map(Effect::did);
                    self.observe(Seen {
                        account: did.map(Account::of),
                        ..self.seen(position)
                    });
                }
                let mut effects = work.effects;
                self.interest.retain_wanted(&mut effects);
                if effects.is_empty() {
                    return;
                }
                self.effects.extend(effects);
                self.kept += 1;
                self.add_commit_point();
            }
        }
    }

    /// Also adds a gap whose end is not known yet, because the process may die before it is.
    fn finish(&mut self, last: Option<Position>) {
        if let Some(last) = last {
            self.observe(self.seen(last));
        }
        self.effects
            .extend(self.guard.unfinished_gap().map(Effect::Gap));
    }

    fn seen(&self, position: Position) -> Seen {
        Seen {
            position,
            account: None,
            is_next: false,
            at: self.received_at,
        }
    }

    fn observe(&mut self, seen: Seen) {
        let gap = self.gap_at(seen);
        self.effects.extend(gap);
    }

    /// Shows an event to the guard. Returns the gap before it, if there is one.
    fn gap_at(&mut self, seen: Seen) -> Option<Effect> {
        let latest_credible = self.context.processor.clock.latest_credible();
        let gap = match self.guard.observe(seen, latest_credible) {
            Observation::Advance { gap } => gap?,
            Observation::Leap => {
                self.context.metrics.seq_anomalies("leap").increment(1);
                return None;
            }
            Observation::Replay => return None,
            Observation::Joined { void } => return Some(Effect::Gap(void)),
            Observation::Restart { gap } => {
                self.sequence_restarted = true;
                gap
            }
        };
        tracing::warn!(
            cause = gap.cause.as_str(),
            from_seq = gap.from_seq,
            to_seq = gap.to_seq,
            "events may have been missed; the gap is recorded with the next commit, open until it is reconciled"
        );
        self.context.metrics.gaps(gap.cause).increment(1);
        Some(Effect::Gap(gap))
    }

    /// Says that everything up to the guard's position is done after the effects so far. Effects
    /// without a commit point belong to the next one.
    fn add_commit_point(&mut self) {
        self.commit_points.push(CommitPoint {
            effects: self.effects.len(),
            position: self.guard.position(),
        });
    }
}
