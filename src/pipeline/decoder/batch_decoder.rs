//! Reads the frames of one batch, in order. All work on bytes of the stream happens here.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::counts::FrameCounts;
use crate::atproto::event::Event;
use crate::atproto::skim::Kind;
use crate::atproto::syntax::Did;
use crate::delivery::ledger::{DELIVERY_FAILURE_LIMIT, FrameSpan, ProgressMarker};
use crate::delivery::segment::{RawPosition, Requested, Segment, SkippedRun};
use crate::delivery::sequence::{Account, LONG_STEP};
use crate::model::{DeadLetter, Position, Stage};
use crate::pipeline::Context;
use crate::pipeline::messages::{DecodedItem, Work};
use crate::source::firehose::decode::{Content, DecodeError, Evidence, Fault, decode};
use crate::source::firehose::prefilter::{NEAR_RECONNECT, OBSERVED_AFTER_JUMP};
use crate::source::interest::Interest;
use crate::store::plan::effect::{Recheck, RecheckReason};
use crate::telemetry::excerpt::{LOGGED, excerpt};

/// The content of the frames of a batch.
pub(super) struct DecodedSpan {
    pub(super) items: Vec<DecodedItem>,
    /// The position of the last frame that has one.
    pub(super) last: Option<Position>,
}

/// Reads `frames`, which came at `received_at`. `marker` gets the number of each frame before it is
/// read.
pub(super) fn read(
    context: &Context,
    frames: &FrameSpan,
    received_at: Instant,
    marker: &ProgressMarker,
) -> DecodedSpan {
    let mut decoder = BatchDecoder::new(context, received_at);
    for (number, segment) in frames.numbers().zip(frames.segments()) {
        match segment {
            Segment::ReconnectMarker(requested) => decoder.note_reconnect(*requested),
            Segment::Skipped(run) => decoder.skip(run),
            Segment::Frame(frame) => {
                marker.is_at(number);
                context.faults.touch(frame);
                decoder.read(frame);
            }
        }
    }
    decoder.finish()
}

/// Notes the positions of `frames`, of which none has to be read.
pub(super) fn skip(context: &Context, frames: &FrameSpan, received_at: Instant) -> DecodedSpan {
    let mut decoder = BatchDecoder::new(context, received_at);
    for segment in frames.segments() {
        match segment {
            Segment::ReconnectMarker(requested) => decoder.note_reconnect(*requested),
            Segment::Skipped(run) => decoder.skip(run),
            Segment::Frame(_) => {}
        }
    }
    decoder.finish()
}

/// Keeps `frames` unread, as dead letters.
pub(super) fn give_up(context: &Context, frames: &FrameSpan, received_at: Instant) -> DecodedSpan {
    let mut decoder = BatchDecoder::new(context, received_at);
    for frame in frames.frames() {
        decoder.give_up(frame);
    }
    decoder.finish()
}

struct BatchDecoder<'a> {
    context: &'a Context,
    received_at: Instant,
    interest: Arc<Interest>,
    items: Vec<DecodedItem>,
    /// Its time is parsed only when no later position follows.
    last: Option<RawPosition<'a>>,
    /// This many more positions are given as items, because a reconnect or a jump was near.
    observed: u8,
    counts: FrameCounts,
    /// Why the last frame that could not be read could not.
    last_error: Option<String>,
}

impl<'a> BatchDecoder<'a> {
    fn new(context: &'a Context, received_at: Instant) -> Self {
        Self {
            interest: context.interest.current(),
            context,
            received_at,
            items: Vec::new(),
            last: None,
            observed: 0,
            counts: FrameCounts::default(),
            last_error: None,
        }
    }

    fn finish(self) -> DecodedSpan {
        self.counts.count(&self.context.source_metrics);
        self.context.note_reading(
            self.counts.readable(),
            self.counts.unreadable(),
            self.last_error.as_deref(),
        );
        DecodedSpan {
            items: self.items,
            last: self.last.map(RawPosition::position),
        }
    }

    fn read(&mut self, frame: &'a Bytes) {
        self.counts.bytes += frame.len() as u64;
        match decode(frame, &self.interest) {
            Err(error) => self.set_aside(frame, &error),
            Ok(decoded) => {
                self.counts.note(&decoded);
                let account = match &decoded.content {
                    Content::Event(event) => event.did().map(|did| Account::of(did.as_str())),
                    _ => None,
                };
                self.note_position(decoded.raw_position(), account);
                match decoded.content {
                    Content::Event(event) => self.keep(event, decoded.evidence.as_ref(), frame),
                    // The ConnectionActor handles an error frame.
                    Content::Error { .. } | Content::Unknown { .. } | Content::Unwanted => {}
                }
            }
        }
    }

    fn keep(&mut self, event: Event, evidence: Option<&Evidence>, frame: &Bytes) {
        match event {
            Event::Info(info) if info.name == "OutdatedCursor" => {
                self.items.push(DecodedItem::OutdatedCursor);
            }
            Event::Info(info) => {
                tracing::info!(
                    name = excerpt(&info.name, LOGGED),
                    text = info.message.as_deref().map(|text| excerpt(text, LOGGED)),
                    "info message from the source"
                );
            }
            event => {
                let position = event.position();
                self.note_time(&event);
                let processor = &self.context.processor;
                let effects = processor.effects_of(event, evidence, frame, self.received_at);
                if effects.is_empty() {
                    return;
                }
                self.items
                    .push(DecodedItem::Work(Work { position, effects }));
            }
        }
    }

    /// Lets the event's time correct our clock, before the event itself is judged by it.
    fn note_time(&self, event: &Event) {
        let time = event.position().and_then(|position| position.time);
        if let Some((did, time)) = event.did().zip(time) {
            self.context.processor.clock.note(did, time);
        }
    }

    /// Keeps a frame that can't be read as a dead letter.
    fn set_aside(&mut self, frame: &Bytes, error: &DecodeError) {
        self.counts.malformed += 1;
        if let Fault::Proof(fault) = &error.fault {
            self.counts.unproven += 1;
            self.context
                .metrics
                .verify_errors(fault.name())
                .increment(1);
        } else {
            self.last_error = Some(error.to_string());
        }
        self.recheck_repository(error);
        self.keep_dead_letter(error.dead_letter(frame));
    }

    /// Asks for a recheck of the repository, because a frame that can't be read may have changed
    /// it.
    fn recheck_repository(&mut self, error: &DecodeError) {
        if self.context.repositories.is_none() {
            return;
        }
        // After the skim and the check of its seq, a commit is decoded only if one of its paths is
        // wanted or its repository is tracked.
        let is_wanted = error.kind == Some(Kind::Commit)
            && !matches!(error.fault, Fault::Skim(_) | Fault::Seq(_));
        if let Some(Ok(did)) = error.did.as_deref().map(Did::parse) {
            self.items.push(DecodedItem::Recheck(Recheck {
                did,
                reason: RecheckReason::Refused { is_wanted },
            }));
        }
    }

    /// Keeps a frame unread, because it killed every actor that read it.
    fn give_up(&mut self, frame: &Bytes) {
        self.counts.bytes += frame.len() as u64;
        self.counts.malformed += 1;
        tracing::error!(
            bytes = frame.len(),
            "a frame killed every actor that read it; kept unread as a dead letter"
        );
        self.keep_dead_letter(DeadLetter {
            stage: Stage::Poison,
            error: "killed every actor that touched it".to_owned(),
            seq: None,
            did: None,
            uri: None,
            task: None,
            raw: frame.clone(),
            attempts: DELIVERY_FAILURE_LIMIT,
        });
    }

    fn keep_dead_letter(&mut self, letter: DeadLetter) {
        self.items.push(DecodedItem::DeadLetter(Box::new(letter)));
    }

    fn note_reconnect(&mut self, requested: Requested) {
        self.items.push(DecodedItem::ReconnectMarker(requested));
        self.observed = NEAR_RECONNECT;
    }

    fn skip(&mut self, run: &'a SkippedRun) {
        self.counts.commit += run.events;
        self.counts.bytes += run.bytes;
        self.note_position(Some(run.first()), None);
        self.last = Some(run.last());
    }

    fn note_position(&mut self, position: Option<RawPosition<'a>>, account: Option<Account>) {
        let Some(position) = position else {
            return;
        };
        let is_observed = self.observed > 0;
        self.observed = self.observed.saturating_sub(1);
        let is_next =
            |last: RawPosition<'_>| last.seq < position.seq && position.seq - last.seq <= LONG_STEP;
        match self.last {
            Some(last) if is_next(last) && is_observed => {
                self.items
                    .push(DecodedItem::At(position.position(), account));
            }
            Some(last) if is_next(last) => {}
            last => {
                if last.is_some() {
                    self.observed = OBSERVED_AFTER_JUMP;
                }
                let reached = last.map(|last| DecodedItem::Reached(last.position()));
                self.items.extend(reached);
                self.items
                    .push(DecodedItem::At(position.position(), account));
            }
        }
        self.last = Some(position);
    }
}
