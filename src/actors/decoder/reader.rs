//! Reads the frames of one batch, in order: all that is done with bytes from outside is done here.

use bytes::Bytes;

use super::tally::Tally;
use crate::actors::Context;
use crate::actors::batch::{Item, Work};
use crate::actors::examination;
use crate::filter::sieve::{AT_JOINT, Passage, Portion};
use crate::protocol::decode::{Content, DecodeError, Evidence, Fault, Place, decode};
use crate::protocol::event::Event;
use crate::protocol::skim::Kind;
use crate::protocol::syntax::Did;
use crate::queue::accumulator::Load;
use crate::queue::effect::{DeadLetter, Doubt, Stage};
use crate::source::Position;
use crate::supervision::ledger::{FrameSpan, SUSPICION_LIMIT, Witness};

/// What an effect takes beside the bytes of its record, in small allocations, until it is written
/// (`cargo bench -- memory` shows it).
pub const EFFECT_BYTES: usize = 8192;

/// What the frames of a batch say.
pub(super) struct Reading {
    pub(super) items: Vec<Item>,
    /// The bytes that the items hold beside the frames.
    pub(super) weight: usize,
    /// The position of the last frame that has one.
    pub(super) last: Option<Position>,
}

/// Reads `frames`; `witness` is told of each before it is touched.
pub(super) fn read(context: &Context, frames: &FrameSpan, witness: &Witness) -> Reading {
    let mut reader = Reader::new(context);
    for (number, portion) in frames.numbers().zip(frames.portions()) {
        match portion {
            Portion::Joint => reader.join(),
            Portion::Passed(passage) => reader.pass(passage),
            Portion::Frame(frame) => {
                witness.is_at(number);
                context.faults.touch(frame);
                reader.read(frame);
            }
        }
    }
    reader.finish()
}

/// Passes by `frames`, of which none is to be read.
pub(super) fn pass(context: &Context, frames: &FrameSpan) -> Reading {
    let mut reader = Reader::new(context);
    for portion in frames.portions() {
        match portion {
            Portion::Joint => reader.join(),
            Portion::Passed(passage) => reader.pass(passage),
            Portion::Frame(_) => {}
        }
    }
    reader.finish()
}

/// Keeps `frames` as dead letters, unread.
pub(super) fn give_up(context: &Context, frames: &FrameSpan) -> Reading {
    let mut reader = Reader::new(context);
    for frame in frames.frames() {
        reader.give_up(frame);
    }
    reader.finish()
}

struct Reader<'a> {
    context: &'a Context,
    items: Vec<Item>,
    weight: usize,
    /// Its time is read only once it is known to be the last one.
    last: Option<Place<'a>>,
    /// So many more places are told, wherever they are.
    at_joint: u8,
    tally: Tally,
}

impl<'a> Reader<'a> {
    fn new(context: &'a Context) -> Self {
        Self {
            context,
            items: Vec::new(),
            weight: 0,
            last: None,
            at_joint: 0,
            tally: Tally::default(),
        }
    }

    fn finish(self) -> Reading {
        self.tally.count(&self.context.source_metrics);
        Reading {
            items: self.items,
            weight: self.weight,
            last: self.last.map(Place::position),
        }
    }

    fn read(&mut self, frame: &'a Bytes) {
        self.tally.bytes += frame.len() as u64;
        match decode(frame, &self.context.rules.interest) {
            Err(error) => self.set_aside(frame, &error),
            Ok(decoded) => {
                self.tally.note(&decoded);
                self.note_place(decoded.place());
                match decoded.content {
                    Content::Event(event) => self.keep(event, decoded.evidence.as_ref(), frame),
                    // The ConnectionActor has seen it too, and acts on it.
                    Content::Error { .. } | Content::Unknown { .. } | Content::Unwanted => {}
                }
            }
        }
    }

    fn keep(&mut self, event: Event, evidence: Option<&Evidence>, frame: &Bytes) {
        match event {
            Event::Info(info) if info.name == "OutdatedCursor" => {
                self.items.push(Item::OutdatedCursor);
            }
            Event::Info(info) => {
                tracing::info!(name = info.name, message = info.message, "the source says");
            }
            event => {
                let position = event.position();
                let effects = examination::effects_of(self.context, event, evidence, frame);
                if effects.is_empty() {
                    return;
                }
                // Records are copied out of the frame, and are there once more as JSON.
                let changes = Load::of(&effects).total();
                self.weight += 2 * frame.len() + changes * EFFECT_BYTES;
                self.items.push(Item::Work(Work { position, effects }));
            }
        }
    }

    /// A frame that can't be read is passed by, and kept as it came.
    fn set_aside(&mut self, frame: &Bytes, error: &DecodeError) {
        self.tally.malformed += 1;
        if let Fault::Proof(fault) = &error.fault {
            self.context
                .metrics
                .verify_errors(fault.name())
                .increment(1);
        }
        self.doubt(error);
        self.keep_dead_letter(DeadLetter {
            stage: match error.fault {
                Fault::Proof(_) => Stage::Verify,
                _ => Stage::Decode,
            },
            error: error.to_string(),
            seq: error.seq,
            did: error.did.clone(),
            uri: None,
            task: None,
            raw: frame.clone(),
            attempts: 1,
        });
    }

    /// A frame that can't be read may have been a step of a repository from which something is kept.
    fn doubt(&mut self, error: &DecodeError) {
        if self.context.repositories.is_none() {
            return;
        }
        // Whose paths could be read is looked into only because one of them is wanted.
        let is_wanted = error.kind == Some(Kind::Commit)
            && !matches!(error.fault, Fault::Skim(_) | Fault::Seq(_));
        if let Some(Ok(did)) = error.did.as_deref().map(Did::parse) {
            self.items.push(Item::Doubt(Doubt { did, is_wanted }));
        }
    }

    /// A frame that killed whoever read it is kept unread.
    fn give_up(&mut self, frame: &Bytes) {
        self.tally.bytes += frame.len() as u64;
        self.tally.malformed += 1;
        tracing::error!(
            bytes = frame.len(),
            "a frame has killed every actor that touched it; kept as a dead letter, unread"
        );
        self.keep_dead_letter(DeadLetter {
            stage: Stage::Poison,
            error: "killed every actor that touched it".to_owned(),
            seq: None,
            did: None,
            uri: None,
            task: None,
            raw: frame.clone(),
            attempts: SUSPICION_LIMIT,
        });
    }

    fn keep_dead_letter(&mut self, letter: DeadLetter) {
        self.items.push(Item::DeadLetter(Box::new(letter)));
    }

    fn join(&mut self) {
        self.items.push(Item::Joint);
        self.at_joint = AT_JOINT;
    }

    fn pass(&mut self, passage: &'a Passage) {
        self.tally.commit += passage.events;
        self.tally.bytes += passage.bytes;
        self.note_place(Some(passage.first()));
        self.last = Some(passage.last());
    }

    fn note_place(&mut self, place: Option<Place<'a>>) {
        let Some(place) = place else {
            return;
        };
        let is_told = self.at_joint > 0;
        self.at_joint = self.at_joint.saturating_sub(1);
        match self.last {
            Some(last) if last.seq < place.seq && is_told => {
                self.items.push(Item::At(place.position()));
            }
            Some(last) if last.seq < place.seq => {}
            last => {
                let reached = last.map(|last| Item::Reached(last.position()));
                self.items.extend(reached);
                self.items.push(Item::At(place.position()));
            }
        }
        self.last = Some(place);
    }
}
