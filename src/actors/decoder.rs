//! The DecoderActors: turn frames into what the filter has to look at. They are stateless and take
//! the ledger's batches as they come free, so how many there are and which of them die is all one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::Context;
use super::batch::{DecodedBatch, Item};
use crate::filter::interest::Interest;
use crate::operate::metrics::SourceMetrics;
use crate::protocol::decode::{Content, DecodeError, Decoded, Place, decode};
use crate::protocol::event::Event;
use crate::protocol::skim::Kind;
use crate::queue::effect::{DeadLetter, Stage};
use crate::supervision::address::Address;
use crate::supervision::fault::Point;
use crate::supervision::ledger::{FrameBatch, SUSPICION_LIMIT};
use crate::supervision::progress::Progress;

/// See the module.
pub struct DecoderActor;

/// There may be something to decode.
#[derive(Debug)]
pub struct Ring;

/// Calls a decoder to work. Ringing it again before it comes does nothing more, so the decoder's
/// mailbox never holds more than one call.
#[derive(Debug, Default)]
pub struct Bell {
    decoder: Address<Ring>,
    rung: AtomicBool,
}

pub struct DecoderState {
    context: Arc<Context>,
    progress: Progress,
    index: usize,
}

impl Actor for DecoderActor {
    type Msg = Ring;
    type State = DecoderState;
    type Arguments = (Arc<Context>, Progress, usize);

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        (context, progress, index): Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let faults = &context.faults;
        faults.pass(Point::DecoderStart, myself.get_cell()).await?;
        let state = DecoderState {
            context,
            progress,
            index,
        };
        state.bell().hang(myself);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        Ring: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        state.bell().answer();
        if let Some(mut batch) = state.context.ledger.lease_next() {
            let _busy = state.progress.busy();
            batch.lease.take_in_hand();
            let faults = &state.context.faults;
            faults.pass(Point::DecoderLeased, myself.get_cell()).await?;
            state.decode_and_pass_on(batch);
            faults
                .pass(Point::DecoderPassedOn, myself.get_cell())
                .await?;
        }
        // One batch a message: between two of them the actor can be stopped.
        if state.context.ledger.has_owed() {
            state.bell().ring();
        }
        Ok(())
    }
}

impl DecoderState {
    fn bell(&self) -> &Bell {
        &self.context.decoders[self.index]
    }

    fn decode_and_pass_on(&self, mut batch: FrameBatch) {
        if batch.is_redelivery {
            self.context.metrics.redelivered.increment(1);
        }
        let mut reader = BatchReader::default();
        if batch.is_poison {
            for frame in batch.frames.frames() {
                reader.give_up(frame);
            }
        } else {
            for frame in batch.frames.frames() {
                reader.read(frame, &self.context.rules.interest);
            }
        }
        reader.tally.count(&self.context.source_metrics);
        batch.lease.lay_down();
        let decoded = DecodedBatch {
            lease: batch.lease,
            numbers: batch.frames.numbers(),
            received_at: batch.received_at,
            last: reader.last.map(Place::position),
            charge: self.context.budget.charge(reader.weight),
            items: reader.items,
        };
        if let Err(refused) = self.context.filter.cast(decoded) {
            refused.lease.pause_ledger();
        }
    }
}

impl Bell {
    /// Has the bell call `decoder`, at once and from now on.
    fn hang(&self, decoder: ActorRef<Ring>) {
        self.decoder.set(decoder);
        // The call that its predecessor did not answer went down with it.
        self.rung.store(false, Ordering::Release);
        self.ring();
    }

    pub fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) && self.decoder.cast(Ring).is_err() {
            self.rung.store(false, Ordering::Release);
        }
    }

    fn answer(&self) {
        self.rung.store(false, Ordering::Release);
    }
}

/// Reads the frames of one batch, in order.
#[derive(Default)]
struct BatchReader<'a> {
    items: Vec<Item>,
    tally: Tally,
    /// The bytes that the items hold beside the frames.
    weight: usize,
    last: Option<Place<'a>>,
}

impl<'a> BatchReader<'a> {
    fn read(&mut self, frame: &'a Bytes, interest: &Interest) {
        self.tally.bytes += frame.len() as u64;
        match decode(frame, interest) {
            Err(error) => self.set_aside(frame, &error),
            Ok(decoded) => {
                self.tally.note(&decoded);
                self.note_place(decoded.place());
                match decoded.content {
                    Content::Event(event) => self.keep(event, frame.len()),
                    // The ConnectionActor has seen it too, and acts on it.
                    Content::Error { .. } | Content::Unknown { .. } | Content::Unwanted => {}
                }
            }
        }
    }

    fn keep(&mut self, event: Event, frame_bytes: usize) {
        match event {
            Event::Info(info) if info.name == "OutdatedCursor" => {
                self.items.push(Item::OutdatedCursor);
            }
            Event::Info(info) => {
                tracing::info!(name = info.name, message = info.message, "the source says");
            }
            event => {
                // Records are copied out of the frame, and will be once more as JSON.
                self.weight += 2 * frame_bytes;
                self.items.push(Item::Event(event));
            }
        }
    }

    /// A frame that can't be read is passed by, and kept as it came.
    fn set_aside(&mut self, frame: &Bytes, error: &DecodeError) {
        self.tally.malformed += 1;
        self.items.push(Item::DeadLetter(Box::new(DeadLetter {
            stage: Stage::Decode,
            error: error.to_string(),
            seq: error.seq,
            did: error.did.clone(),
            uri: None,
            task: None,
            raw: frame.clone(),
            attempts: 1,
        })));
    }

    /// A frame that killed whoever read it is kept unread.
    fn give_up(&mut self, frame: &Bytes) {
        self.tally.bytes += frame.len() as u64;
        self.tally.malformed += 1;
        tracing::error!(
            bytes = frame.len(),
            "a frame has killed every actor that touched it; kept as a dead letter, unread"
        );
        self.items.push(Item::DeadLetter(Box::new(DeadLetter {
            stage: Stage::Poison,
            error: "killed every actor that touched it".to_owned(),
            seq: None,
            did: None,
            uri: None,
            task: None,
            raw: frame.clone(),
            attempts: SUSPICION_LIMIT,
        })));
    }

    fn note_place(&mut self, place: Option<Place<'a>>) {
        let Some(place) = place else {
            return;
        };
        if self.last.is_none_or(|last| place.seq <= last.seq) {
            self.items.push(Item::At(place.position()));
        }
        self.last = Some(place);
    }
}

/// How many frames of which kind a batch had. Counted here, so that the shared counters are touched
/// once a batch.
#[derive(Debug, Default)]
struct Tally {
    account: u64,
    commit: u64,
    error: u64,
    handle: u64,
    identity: u64,
    info: u64,
    malformed: u64,
    sync: u64,
    tombstone: u64,
    unknown: u64,
    bytes: u64,
}

impl Tally {
    fn note(&mut self, decoded: &Decoded<'_>) {
        let count = match (decoded.kind, &decoded.content) {
            (Some(Kind::Account), _) => &mut self.account,
            (Some(Kind::Commit), _) => &mut self.commit,
            (Some(Kind::Handle), _) => &mut self.handle,
            (Some(Kind::Identity), _) => &mut self.identity,
            (Some(Kind::Info), _) => &mut self.info,
            (Some(Kind::Sync), _) => &mut self.sync,
            (Some(Kind::Tombstone), _) => &mut self.tombstone,
            (None, Content::Error { .. }) => &mut self.error,
            (None, _) => &mut self.unknown,
        };
        *count += 1;
    }

    fn count(&self, metrics: &SourceMetrics) {
        let events = &metrics.events;
        for (counter, count) in [
            (&events.account, self.account),
            (&events.commit, self.commit),
            (&events.error, self.error),
            (&events.handle, self.handle),
            (&events.identity, self.identity),
            (&events.info, self.info),
            (&events.malformed, self.malformed),
            (&events.sync, self.sync),
            (&events.tombstone, self.tombstone),
            (&events.unknown, self.unknown),
            (&metrics.frames_bytes, self.bytes),
        ] {
            if count > 0 {
                counter.increment(count);
            }
        }
    }
}
