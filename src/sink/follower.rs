//! Follows the change feed for one sink: reads a page, delivers it, and cuts it where the sink refuses
//! something.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::bisection::{Bisection, Verdict};
use super::pages::{FEED_DEADLINE, Page, Pages, within_deadline};
use super::{Delivery, Sink, SinkError};
use crate::delivery::budget::SinkShare;
use crate::model::{Change, ChangedRow, DeadLetter, Feed, Stage};
use crate::store::change_feed::ChangeFeed;
use crate::store::{PieceLimit, StoreError};
use crate::telemetry::excerpt::shown;

/// The deadline of one call of a sink. What is not answered until then is asked again.
///
/// The supervisor takes an actor for stuck that has been at the same work for 60 s (`stuck_after_ms`). The
/// longest step is 55 s: a read of the feed (10), a delivery that is refused (25), its dead letter (10), and
/// the count of the rows behind (10). The position moves over a dead letter in the step behind it.
const SINK_DEADLINE: Duration = Duration::from_secs(25);
/// A delivery that took no longer may be followed by one of twice as many changes.
const QUICK: Duration = Duration::from_secs(6);
/// The deadline of a rewind, which may take over before it moves the position. With the count of the rows
/// behind it is 55 s too.
const REWIND_DEADLINE: Duration = Duration::from_secs(45);
/// How often a position moves over numbers behind which there is no change, so that accounts of which
/// nothing is kept do not cost each sink a transaction each.
const EMPTY_INTERVAL: Duration = Duration::from_secs(1);

/// What a follower is made of.
pub struct Parts {
    pub name: Arc<str>,
    pub feed: Arc<dyn ChangeFeed>,
    pub sink: Box<dyn Sink>,
    pub share: SinkShare,
    /// Retries of a change that the sink refuses, before it becomes a dead letter.
    pub retries: u32,
}

/// Follows the feed for one sink. It keeps nothing that would be lost with it: the position is the
/// sink's.
pub struct Follower {
    name: Arc<str>,
    feed: Arc<dyn ChangeFeed>,
    sink: Box<dyn Sink>,
    /// What the sink has taken over, and up to where it has everything. `None`: it has to be asked.
    taken: Option<(Feed, u64)>,
    pages: Pages,
    page: Option<Page>,
    /// How much of the page is delivered at once.
    bisection: Bisection,
    /// When the position was moved.
    moved_at: Option<Instant>,
    has_upkeep: bool,
    /// The last step did upkeep, so it is the turn of the feed.
    did_upkeep: bool,
}

/// What a step did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pace {
    /// The next step can follow at once. So many changes were delivered.
    Next(u64),
    /// The sink has everything that the feed has.
    CaughtUp,
    /// The sink refused a change; it is tried again a moment later.
    Refused(String),
}

/// What became of a rewind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewound {
    /// The position was this one before.
    From(u64),
    /// The sink has not come so far, so there is nothing to rewind.
    Ahead { at: u64 },
}

impl Follower {
    pub fn new(parts: Parts) -> Self {
        let Parts {
            name,
            feed,
            sink,
            share,
            retries,
        } = parts;
        Self {
            name,
            pages: Pages::new(feed.clone(), share, sink.cbor()),
            feed,
            sink,
            bisection: Bisection::new(retries),
            taken: None,
            page: None,
            moved_at: None,
            has_upkeep: true,
            did_upkeep: false,
        }
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The number up to which the sink has everything; `None` while that is unknown.
    pub fn position(&self) -> Option<u64> {
        self.taken.as_ref().map(|(_, after)| *after)
    }

    /// When the next change was written that the sink does not have, if it was read already.
    pub fn oldest_undelivered(&self) -> Option<&str> {
        let next = self.page.as_ref()?.changes.front()?;
        Some(match &next.row {
            ChangedRow::Account(account) => &account.updated_at,
            ChangedRow::Record(record) => &record.last_indexed_at,
        })
    }

    /// How many rows the sink does not have, counted up to `most`.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn behind(&mut self, most: u64) -> Result<u64, StoreError> {
        let after = self.position().unwrap_or_default();
        let counted = timeout(FEED_DEADLINE, self.feed.count_changes(after, most));
        counted.await.unwrap_or(Err(StoreError::Deadline))
    }

    /// Does one step: takes over, or delivers some changes, or a piece of upkeep.
    ///
    /// # Errors
    /// If the sink or the database gives no answer. What the sink has is unknown then: the next step
    /// asks it.
    pub async fn step(&mut self) -> Result<Pace, SinkError> {
        let stepped = self.try_step().await.map_err(SinkError::shown);
        if stepped.is_err() {
            self.taken = None;
            self.forget();
            self.has_upkeep = true;
        }
        stepped
    }

    async fn try_step(&mut self) -> Result<Pace, SinkError> {
        let Some((feed, after)) = self.taken.take() else {
            return self.take_over().await;
        };
        self.taken = Some((feed.clone(), after));
        if self.page.is_none() {
            // Both take turns, so that neither waits for the other's end.
            if self.has_upkeep && !self.did_upkeep {
                self.did_upkeep = true;
                self.do_upkeep().await?;
                return Ok(Pace::Next(0));
            }
            self.did_upkeep = false;
            if !self.read_page(&feed, after).await? {
                return Ok(match self.has_upkeep {
                    true => Pace::Next(0),
                    false => Pace::CaughtUp,
                });
            }
        }
        let Some(page) = &mut self.page else {
            // The epochs have changed.
            self.taken = None;
            return Ok(Pace::Next(0));
        };
        let limit = self.sink.limit();
        self.pages.read_ahead(page, limit);
        let changes = page.changes.make_contiguous();
        let count = count_within(changes, self.bisection.most(), limit);
        let to = match count == changes.len() {
            true => page.through,
            false => changes
                .get(count.saturating_sub(1))
                .map_or(after, |last| last.number),
        };
        let delivery = Delivery {
            feed: &feed,
            changes: match self.bisection.is_set_aside() {
                true => &[],
                false => &changes[..count],
            },
            from: after,
            to,
        };
        let started = Instant::now();
        match deliver(&mut *self.sink, delivery).await {
            Ok(()) => {
                let delivered = delivery.changes.len() as u64;
                self.has_upkeep |= delivery.changes.iter().any(is_removal);
                self.bisection.note_delivered(started.elapsed() <= QUICK);
                self.delivered(&feed, count, to);
                Ok(Pace::Next(delivered))
            }
            Err(SinkError::Refused(reason)) if !self.bisection.is_set_aside() => {
                self.refused(count, shown(&reason)).await
            }
            Err(error) => {
                self.bisection.note_unanswered(delivery.changes.len());
                Err(error)
            }
        }
    }

    async fn take_over(&mut self) -> Result<Pace, SinkError> {
        let feed = within_deadline(self.feed.feed()).await?;
        if feed.epochs.is_empty() {
            // The worker has written nothing yet, so there is nothing to deliver.
            return Ok(Pace::CaughtUp);
        }
        let taken = timeout(SINK_DEADLINE, self.sink.take_over(&feed)).await;
        let after = taken.unwrap_or_else(|_| Err(SinkError::late(SINK_DEADLINE)))?;
        tracing::debug!(sink = %self.name, after, last = feed.last, "taken over");
        self.taken = Some((feed, after));
        Ok(Pace::Next(0))
    }

    /// Reads the next page. Returns whether the sink lacks something.
    async fn read_page(&mut self, feed: &Feed, after: u64) -> Result<bool, SinkError> {
        let page = self.pages.next(after, self.sink.limit()).await?;
        if page.feed.id != feed.id || page.feed.epochs != feed.epochs {
            return Ok(true);
        }
        let has_moved = self
            .moved_at
            .is_some_and(|at| at.elapsed() < EMPTY_INTERVAL);
        let is_end = page.through >= page.feed.last;
        if page.through == after || (page.changes.is_empty() && is_end && has_moved) {
            return Ok(false);
        }
        self.page = Some(page);
        Ok(true)
    }

    async fn do_upkeep(&mut self) -> Result<(), SinkError> {
        let done = timeout(SINK_DEADLINE, self.sink.do_upkeep()).await;
        self.has_upkeep = done.unwrap_or_else(|_| Err(SinkError::late(SINK_DEADLINE)))?;
        Ok(())
    }

    /// Moves the position back to `to`: what comes behind it is delivered again.
    ///
    /// # Errors
    /// As [`Self::step`]. Then the position may have moved.
    pub async fn rewind(&mut self, to: u64) -> Result<Rewound, SinkError> {
        // Whatever fails, the next step asks the sink where it is.
        let taken = self.taken.take();
        self.forget();
        let rewinding = self.rewind_from(taken, to);
        let rewound = timeout(REWIND_DEADLINE, rewinding).await;
        let rewound = rewound.unwrap_or_else(|_| Err(SinkError::late(REWIND_DEADLINE)));
        rewound.map_err(SinkError::shown)
    }

    async fn rewind_from(
        &mut self,
        taken: Option<(Feed, u64)>,
        to: u64,
    ) -> Result<Rewound, SinkError> {
        let (feed, from) = match taken {
            Some(taken) => taken,
            None => {
                self.take_over().await?;
                let written_nothing = || SinkError::unavailable("the feed has no epoch yet");
                self.taken.take().ok_or_else(written_nothing)?
            }
        };
        if to > from {
            self.taken = Some((feed, from));
            return Ok(Rewound::Ahead { at: from });
        }
        let position_alone = Delivery {
            feed: &feed,
            changes: &[],
            from,
            to,
        };
        deliver(&mut *self.sink, position_alone).await?;
        self.bisection.restart();
        self.taken = Some((feed, to));
        Ok(Rewound::From(from))
    }

    /// Drops what was read.
    fn forget(&mut self) {
        self.page = None;
        self.bisection.note_dropped();
    }

    /// Has the sink asked for its upkeep once more, because time has passed.
    pub fn ask_for_upkeep(&mut self) {
        self.has_upkeep = true;
    }

    fn delivered(&mut self, feed: &Feed, count: usize, to: u64) {
        self.taken = Some((feed.clone(), to));
        self.moved_at = Some(Instant::now());
        if let Some(page) = &mut self.page {
            page.changes.drain(..count);
            if page.changes.is_empty() {
                self.page = None;
            }
        }
    }

    /// Decides what becomes of a delivery that the sink refused. A change that is refused alone, again and
    /// again, becomes a dead letter, and the others go on.
    async fn refused(&mut self, count: usize, reason: String) -> Result<Pace, SinkError> {
        match self.bisection.note_refused(count) {
            Verdict::Halve => Ok(Pace::Next(0)),
            Verdict::Retry => Ok(Pace::Refused(reason)),
            Verdict::SetAside { attempts } => {
                let refused = self.page.as_ref().and_then(|page| page.changes.front());
                if let Some(change) = refused {
                    set_aside(&*self.feed, &self.name, change, (&reason, attempts)).await?;
                    self.bisection.note_set_aside();
                }
                Ok(Pace::Next(0))
            }
        }
    }
}

/// Keeps a change that sink `name` refuses as a dead letter.
async fn set_aside(
    feed: &dyn ChangeFeed,
    name: &str,
    change: &Change,
    refused: (&str, u32),
) -> Result<(), SinkError> {
    let (reason, attempts) = refused;
    let mut letter = dead_letter(change, reason, attempts);
    tracing::warn!(
        sink = name,
        uri = letter.uri,
        did = letter.did,
        error = reason,
        "a sink refuses a change; it is a dead letter, and the others go on"
    );
    let keeping = async {
        if letter.raw.is_empty() {
            let cbor = feed.record_cbor(change.number).await?;
            letter.raw = cbor.unwrap_or_default();
        }
        feed.set_aside(name, letter).await
    };
    within_deadline(keeping).await
}

async fn deliver(sink: &mut dyn Sink, delivery: Delivery<'_>) -> Result<(), SinkError> {
    let delivered = timeout(SINK_DEADLINE, sink.deliver(delivery)).await;
    delivered.unwrap_or_else(|_| Err(SinkError::late(SINK_DEADLINE)))
}

/// How many of the first changes are at most `most`, and within `limit`. At least one, if there is one.
fn count_within(changes: &[Change], most: usize, limit: PieceLimit) -> usize {
    let mut bytes = 0;
    let fits = |change: &&Change| {
        bytes += change.row.bytes() as u64;
        bytes <= limit.bytes
    };
    let rows = usize::try_from(limit.rows).unwrap_or(usize::MAX);
    let within = changes.iter().take(most.min(rows)).take_while(fits).count();
    within.max(1).min(changes.len())
}

fn is_removal(change: &Change) -> bool {
    matches!(&change.row, ChangedRow::Account(account) if account.removal_change.is_some() || account.removed_at.is_some())
}

fn dead_letter(change: &Change, reason: &str, attempts: u32) -> DeadLetter {
    let (seq, uri, raw) = match &change.row {
        ChangedRow::Account(_) => (None, None, None),
        ChangedRow::Record(record) => (
            Some(record.seq),
            Some(record.uri.to_string()),
            record.record_cbor.clone(),
        ),
    };
    DeadLetter {
        stage: Stage::Sink,
        error: reason.to_owned(),
        seq,
        did: Some(change.row.did().to_owned()),
        uri,
        task: None,
        raw: raw.unwrap_or_default(),
        attempts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layers;

    #[test]
    fn the_longest_step_and_a_rewind_end_before_they_count_as_stuck() {
        let stuck_after = Layers::new().resolve().unwrap().config.stuck_after;
        assert!(FEED_DEADLINE + SINK_DEADLINE + FEED_DEADLINE + FEED_DEADLINE < stuck_after);
        assert!(REWIND_DEADLINE + FEED_DEADLINE < stuck_after);
    }
}
