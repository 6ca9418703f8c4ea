//! The CursorActor: says where a connection resumes, and writes checkpoints.

use std::time::Duration;

use jiff::Timestamp;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::time::Instant;

use super::Context;
use super::interest::{self, Adopted};
use super::options::Start;
use crate::actor::{ActorContext, Arguments};
use crate::model::{Gap, GapCause, Position};
use crate::source::Resume;
use crate::store::{StoreError, StoredCursor, WriteBatch};
use crate::testing::fault::Point;

/// The shortest time between two checkpoints for events that needed nothing.
const CHECKPOINT_SPACING: Duration = Duration::from_millis(50);
/// A query that takes longer counts as failed.
const QUERY_DEADLINE: Duration = Duration::from_secs(10);
/// How long one message does pieces of a change of the set of interest.
const ADOPTION_TIME: Duration = Duration::from_secs(5);
/// How long a restart of the sequence waits until everything is acked. No connection gets a resume
/// point in the meantime.
const ACK_DEADLINE: Duration = Duration::from_secs(2);

/// This many runs in a row that ended without a word may be the work of a frame.
pub const CRASH_LOOP: u32 = 2;

/// Keeps the cursor of one source.
pub struct CursorActor;

#[derive(Debug)]
pub enum CursorMessage {
    /// A transaction has made everything up to this position durable.
    Applied(Position),
    /// Events that needed nothing were acked.
    Acked,
    /// Writes the checkpoint that is due, if any.
    Tick,
    /// Writes the low watermark, and that this run did not crash. Answers whether both are durable.
    Finish(RpcReplyPort<bool>),
    /// Asks where a connection resumes. The answer is `None` while the database cannot be read.
    Resume(RpcReplyPort<Option<Resume>>),
    /// The source has said that the cursor is ahead of its log.
    FutureCursor,
}

pub struct CursorState {
    context: ActorContext<Context>,
    /// The cursor that is known to be in the database.
    durable: Option<Position>,
    written_at: Instant,
    /// The seq of the event that was last requested again.
    requested_again: Option<u64>,
    /// Whether this run has passed the events that were in flight when earlier runs crashed.
    is_past_crashes: bool,
    /// The cursor could not be read.
    is_unreadable: bool,
}

impl Actor for CursorActor {
    type Msg = CursorMessage;
    type State = CursorState;
    type Arguments = Arguments<Context>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let context = ActorContext::start(arguments, myself.get_cell(), Point::CursorStart).await?;
        Ok(CursorState {
            context,
            durable: None,
            written_at: Instant::now(),
            requested_again: None,
            is_past_crashes: false,
            is_unreadable: false,
        })
    }

    async fn post_start(
        &self,
        myself: ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        myself.send_interval(state.context.options.checkpoint_interval, || {
            CursorMessage::Tick
        });
        Ok(())
    }

    async fn handle(
        &self,
        _myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let _busy = state.context.begin(Point::CursorMessage).await?;
        match message {
            CursorMessage::Applied(position) => state.note_durable(position),
            CursorMessage::Acked if state.written_at.elapsed() < CHECKPOINT_SPACING => {}
            CursorMessage::Acked | CursorMessage::Tick => {
                state.checkpoint().await;
                state.forget_crashes_once_past_them().await;
                state.context.pass(Point::CursorCheckpointed).await?;
            }
            CursorMessage::Finish(reply) => {
                let is_durable = state.checkpoint().await && state.forget_crashes().await;
                // The caller may have stopped waiting.
                let _sent = reply.send(is_durable);
            }
            CursorMessage::Resume(reply) => {
                let resume = state.resume().await;
                let _sent = reply.send(resume);
            }
            CursorMessage::FutureCursor => state.start_over().await,
        }
        Ok(())
    }
}

impl CursorState {
    /// Writes the low watermark, if no transaction has done so. Returns whether it is durable.
    async fn checkpoint(&mut self) -> bool {
        let Some(durable) = self.load().await else {
            return false;
        };
        let ledger = &self.context.ledger;
        let watermark = ledger.acked_through();
        if watermark.seq <= durable.seq {
            // The first seqs may be no proven position yet, though their events are durable.
            if ledger.received() > 0 && ledger.is_idle() {
                self.note_stream_start();
            }
            return true;
        }
        self.written_at = Instant::now();
        let batch = WriteBatch {
            source: ledger.source(),
            effects: &[],
            position: watermark,
            sequence_restarted: false,
        };
        let written = within_deadline(self.context.store.apply(&batch)).await;
        self.show_database(written.as_ref().err());
        if written.is_ok() {
            self.note_durable(watermark);
        }
        written.is_ok()
    }

    /// Returns the durable cursor, which is read once. Sets the position of a ledger that has none.
    async fn load(&mut self) -> Option<Position> {
        if self.durable.is_some() {
            return self.durable;
        }
        // Nothing is read before the set of interest is in force under which it is read.
        if !self.context.ledger.is_positioned() {
            self.adopt_interest().await?;
        }
        let ledger = &self.context.ledger;
        let loaded = within_deadline(self.context.store.load_cursor(ledger.source())).await;
        self.show_reading(loaded.as_ref().err());
        let stored = loaded.ok()?;
        let ledger = &self.context.ledger;
        if !ledger.is_positioned() {
            self.apply_crash_history().await?;
            ledger.restart_at(stored.position, self.gap_before(&stored));
            self.report_change_of_source(&stored);
        }
        self.note_durable(stored.position);
        self.durable
    }

    /// Makes the rules of this worker the set of interest in force. `None` while that is not done:
    /// a large database takes several calls.
    async fn adopt_interest(&self) -> Option<()> {
        let context = &self.context;
        let set = context.processor.rules.interest.set();
        let adopting = interest::adopt(&*context.store, context.source.id(), set, ADOPTION_TIME);
        let adopted = within_deadline(adopting).await;
        self.show_database(adopted.as_ref().err());
        let Adopted {
            is_done,
            has_new_gap,
        } = adopted.ok()?;
        if has_new_gap {
            context.metrics.gaps(GapCause::InterestWidened).increment(1);
            context
                .status
                .update(|status| status.source_mut(context.source.id()).open_interest_gaps += 1);
        }
        if !is_done {
            return None;
        }
        // Repositories that are fetched again are due.
        if let Some(repositories) = &context.repositories {
            repositories.wake();
        }
        Some(())
    }

    /// Reads how the runs before this one ended. If several ended without a word, a frame may be the
    /// cause. Then frames are read one by one, until everything that may have been in flight is
    /// passed.
    async fn apply_crash_history(&self) -> Option<()> {
        let context = &self.context;
        let begun = within_deadline(context.store.begin_run(context.source.id())).await;
        self.show_database(begun.as_ref().err());
        let history = begun.ok()?;
        context.status.update(|status| {
            status.unfinished_runs = history.crashes;
        });
        if history.crashes >= CRASH_LOOP {
            tracing::warn!(
                runs = history.crashes,
                "the last runs ended without a word (killed, out of memory, or power lost); reading one frame at a time until what was in flight is passed"
            );
            context.ledger.hand_out_singly(context.budget.limit_bytes());
        }
        if let Some(repositories) = &context.repositories {
            let is_crash_loop = history.crashes >= CRASH_LOOP;
            repositories.isolation.note_crash_loop(is_crash_loop);
            repositories.wake();
        }
        // It is set already if an earlier CursorActor read it and died before it positioned the
        // ledger.
        let _set = context.crash_history.set(history);
        Some(())
    }

    async fn forget_crashes_once_past_them(&mut self) {
        let context = &self.context;
        let is_past = context.ledger.acked_bytes() >= context.budget.limit_bytes();
        if is_past && !self.is_past_crashes {
            self.is_past_crashes = self.forget_crashes().await;
        }
    }

    async fn forget_crashes(&self) -> bool {
        let forgetting = self.context.store.forget_crashes(self.context.source.id());
        let forgotten = within_deadline(forgetting).await;
        self.show_database(forgotten.as_ref().err());
        forgotten.is_ok()
    }

    /// Returns why events before the first one of a new source may be missing.
    fn gap_before(&self, stored: &StoredCursor) -> Option<GapCause> {
        match (stored.is_new, self.context.options.start) {
            // What is tracked may have changed since the other source was left.
            (true, _) if stored.follows.is_some() => Some(GapCause::SourceChanged),
            (true, Start::Live) => Some(GapCause::StartedLive),
            _ => None,
        }
    }

    /// Says that a new source follows another one, whose seqs have nothing to do with its own.
    fn report_change_of_source(&self, stored: &StoredCursor) {
        let Some((before, left_at)) = &stored.follows else {
            return;
        };
        let begins_at = match self.context.options.start {
            Start::Live => "its live end",
            Start::Oldest => "its oldest event",
        };
        tracing::warn!(
            source = %self.context.source.id(),
            begins_at,
            before = %before,
            left_at_seq = left_at.seq,
            left_at_time = left_at.time.map(tracing::field::display),
            "another source is configured than before; it has a cursor and seqs of its own, and what \
             happened between the two is recorded as a gap; the cursor of the source before is kept, \
             and it continues there if it is configured again"
        );
    }

    /// Returns where a connection resumes: after everything that was read, which the ledger
    /// remembers. The last event of that is requested once more, to check that the sequence is
    /// still the same. It is not requested twice before a new event has arrived: otherwise a
    /// connection that brings nothing else would look like progress each time.
    async fn resume(&mut self) -> Option<Resume> {
        self.load().await?;
        let ledger = &self.context.ledger;
        // Only a new source has a gap before its first event.
        let is_new = ledger.epoch().gap.is_some();
        let joins_live = is_new && self.context.options.start == Start::Live;
        let seq = ledger.received();
        Some(match self.requested_again {
            _ if seq == 0 && joins_live => Resume::Live,
            _ if seq == 0 => Resume::Oldest,
            Some(before) if before == seq => Resume::After(seq),
            _ => {
                self.requested_again = Some(seq);
                Resume::With(seq)
            }
        })
    }

    /// Goes back to the oldest event that the source has, when everything that was read is acked.
    /// The gap is written with the cursor.
    async fn start_over(&mut self) {
        let ledger = self.context.ledger.clone();
        // The source's error frame is itself still on its way through the decoders. If the database
        // blocks the events before it, the next error frame causes the next attempt.
        let acked = tokio::time::timeout(ACK_DEADLINE, ledger.idle()).await;
        if acked.is_err() {
            return;
        }
        let from = ledger.acked_through();
        let gap = Gap {
            cause: GapCause::FutureCursor,
            from_seq: from.seq,
            from_time: from.time,
            to_seq: None,
            to_time: None,
        };
        let moved =
            self.context
                .store
                .move_cursor(ledger.source(), Position::default(), Some(&gap));
        let moved = within_deadline(moved).await;
        self.show_database(moved.as_ref().err());
        if moved.is_ok() {
            tracing::error!(
                source = %ledger.source(),
                from_seq = from.seq,
                "the cursor is ahead of the source's log; gap recorded, continuing at the source's oldest event"
            );
            self.context.metrics.gaps(gap.cause).increment(1);
            ledger.restart_at(Position::default(), None);
            self.durable = Some(Position::default());
            self.show_cursor(Position::default());
        }
    }

    fn note_durable(&mut self, position: Position) {
        self.durable = Some(position);
        if position.seq > 0 {
            self.note_stream_start();
        }
        self.show_cursor(position);
    }

    fn note_stream_start(&self) {
        if let Some(repositories) = &self.context.repositories {
            repositories.stream_start.note_durable();
        }
    }

    fn show_cursor(&self, position: Position) {
        let source = self.context.ledger.source();
        self.context.status.update(|status| {
            status
                .source_mut(source)
                .set_applied(position, Timestamp::now());
        });
    }

    /// Shows whether the cursor can be read. That it can says nothing about writes: a full disk can be
    /// read.
    fn show_reading(&mut self, error: Option<&StoreError>) {
        let was_unreadable = std::mem::replace(&mut self.is_unreadable, error.is_some());
        if error.is_some() || was_unreadable {
            self.show_database(error);
        }
    }

    /// Shows whether the database works. While no event matches, only checkpoints notice a failure.
    fn show_database(&self, error: Option<&StoreError>) {
        match error {
            None => self.context.note_unblocked(),
            Some(error) => self.context.note_blocked(error),
        }
    }
}

async fn within_deadline<T>(
    query: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    tokio::time::timeout(QUERY_DEADLINE, query)
        .await
        .unwrap_or(Err(StoreError::Deadline))
}
