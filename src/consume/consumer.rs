//! Applies the tasks of one part of a queue: takes some, applies them, acks them behind the commit, and
//! looks by halves for what the target refuses.

use std::collections::{BTreeSet, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, interval, timeout_at};

use crate::model::RandomId;
use crate::sink::SinkError;
use crate::sink::bisection::{Bisection, Verdict};
use crate::sink::queue::{QueueSource, Taken};
use crate::sink::target::{Feeds, TableTarget};
use crate::sink::task::Task;
use crate::telemetry::excerpt::shown;
use crate::testing::fault::Faults;

/// Tasks that are applied in one transaction.
const BATCH: usize = 100;
/// The deadline of a transaction, and of the wait for those of the other consumers of the process.
const DEADLINE: Duration = Duration::from_secs(45);
/// A transaction that took no longer may be followed by one of twice as many tasks.
const QUICK: Duration = Duration::from_secs(10);
/// How often the queue is told that the tasks are still in hand.
const EXTEND_INTERVAL: Duration = Duration::from_secs(1);

/// What all consumers of a process apply to. Their transactions take turns.
pub type SharedTarget = Arc<Mutex<Box<dyn TableTarget>>>;

/// What a consumer is made of.
pub struct Parts {
    pub source: Box<dyn QueueSource>,
    pub target: SharedTarget,
    /// Retries of a task that the target refuses, before it is a dead letter.
    pub retries: u32,
    pub faults: Faults,
}

/// Applies the tasks of one part of a queue. What it has in memory comes again if it is lost.
pub struct Consumer {
    parts: Parts,
    hand: VecDeque<InHand>,
    feeds: Feeds,
    /// How much of it is applied at once.
    bisection: Bisection,
}

/// A message, and the task that is in it.
struct InHand {
    taken: Taken,
    task: Result<Task, String>,
}

/// What a step did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pace {
    /// So many tasks were applied. The next step can follow at once.
    Applied(u64),
    /// There was nothing to apply.
    Idle,
    /// The target refused a task; it is tried again a moment later.
    Refused(String),
    /// A task became a dead letter.
    SetAside { reason: String, attempts: u32 },
}

impl Consumer {
    pub fn new(parts: Parts) -> Self {
        Self {
            bisection: Bisection::new(parts.retries),
            parts,
            hand: VecDeque::new(),
            feeds: Feeds::new(),
        }
    }

    /// Whether it has its part of the queue.
    pub fn has_part(&self) -> bool {
        self.parts.source.has_part()
    }

    /// Does one step.
    ///
    /// # Errors
    /// If the queue or the target gives no answer. All that is in hand comes again, here or elsewhere.
    pub async fn step(&mut self) -> Result<Pace, SinkError> {
        let stepped = self.try_step().await.map_err(SinkError::shown);
        if stepped.is_err() {
            self.forget();
            self.parts.source.pause().await;
        }
        stepped
    }

    /// Gives the part back.
    pub async fn release(&mut self) {
        self.forget();
        self.parts.source.release().await;
    }

    fn forget(&mut self) {
        self.hand.clear();
        self.bisection.restart();
    }

    async fn try_step(&mut self) -> Result<Pace, SinkError> {
        if self.hand.is_empty() {
            let taken = self.parts.source.fetch().await?;
            if taken.is_empty() {
                return Ok(Pace::Idle);
            }
            self.hand.extend(taken.into_iter().map(InHand::of));
        }
        if let Some(reason) = self.hand.front().and_then(InHand::verdict) {
            return self.set_aside(reason, 0).await;
        }
        let count = self.count();
        let numbers: Vec<u64> = self.hand.iter().take(count).map(InHand::number).collect();
        self.learn(count).await?;
        let started = Instant::now();
        match self.apply(&numbers).await {
            Ok(()) => {
                self.parts.source.ack(&numbers).await?;
                self.hand.drain(..count);
                self.bisection.note_delivered(started.elapsed() <= QUICK);
                Ok(Pace::Applied(count as u64))
            }
            Err(SinkError::Refused(reason)) => {
                // Until it is tried again, its consumer may end by another part's task.
                self.parts.source.begin(&[]).await?;
                self.refused(count, shown(&reason)).await
            }
            Err(error) => {
                self.bisection.note_unanswered(count);
                Err(error)
            }
        }
    }

    async fn refused(&mut self, count: usize, reason: String) -> Result<Pace, SinkError> {
        match self.bisection.note_refused(count) {
            Verdict::Halve => Ok(Pace::Applied(0)),
            Verdict::Retry => Ok(Pace::Refused(reason)),
            Verdict::SetAside { attempts } => self.set_aside(reason, attempts).await,
        }
    }

    /// How many of the first tasks are applied at once. The first one may be.
    fn count(&self) -> usize {
        let mut most = self.bisection.most().min(BATCH);
        let mut count = 0;
        for held in &self.hand {
            most = most.min(held.taken.most);
            if count >= most.max(1) || held.verdict().is_some() {
                break;
            }
            count += 1;
        }
        count
    }

    /// Asks the queue for the feeds of the first tasks of which an epoch is not known yet, once for each.
    async fn learn(&mut self, count: usize) -> Result<(), SinkError> {
        let tasks = self.hand.iter().take(count).filter_map(InHand::task);
        let is_known = |Task { feed, change }: &&Task| {
            let epochs = self.feeds.get(feed).map(|known| known.epochs.iter());
            epochs.is_some_and(|mut epochs| epochs.any(|epoch| epoch.id == change.epoch))
        };
        let unknown = tasks.filter(|task| !is_known(task));
        let unknown: BTreeSet<RandomId> = unknown.map(|task| task.feed.clone()).collect();
        for id in unknown {
            if let Some(found) = self.parts.source.feed(&id).await? {
                self.feeds.insert(id, found);
            }
        }
        Ok(())
    }

    /// Applies tasks when it is this consumer's turn. Only then they are noted as in hand: a task of
    /// another part that ends the process says nothing about those that wait.
    async fn apply(&mut self, numbers: &[u64]) -> Result<(), SinkError> {
        let Self {
            parts, feeds, hand, ..
        } = self;
        let first = || hand.iter().take(numbers.len());
        let tasks: Vec<&Task> = first().filter_map(InHand::task).collect();
        let source = &mut *parts.source;
        let deadline = Instant::now() + DEADLINE;
        let turn = parts.target.clone().lock_owned();
        let mut target = within(deadline, source, turn).await?;
        source.begin(numbers).await?;
        for held in first() {
            parts.faults.touch(&held.taken.body);
        }
        within(deadline, source, target.apply(&tasks, feeds)).await?
    }

    async fn set_aside(&mut self, reason: String, attempts: u32) -> Result<Pace, SinkError> {
        let Some(number) = self.hand.front().map(InHand::number) else {
            return Ok(Pace::Idle);
        };
        let source = &mut self.parts.source;
        source.set_aside(number, &reason, attempts).await?;
        self.hand.pop_front();
        self.bisection.note_delivered(true);
        Ok(Pace::SetAside { reason, attempts })
    }
}

/// Waits for `work`, and tells the queue meanwhile that what was taken is still in hand.
async fn within<T>(
    deadline: Instant,
    source: &mut dyn QueueSource,
    work: impl Future<Output = T>,
) -> Result<T, SinkError> {
    let mut work = pin!(timeout_at(deadline, work));
    let mut extend = interval(EXTEND_INTERVAL);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done.map_err(|_elapsed| SinkError::late(DEADLINE)),
            // Where it is no longer this consumer's part, the transaction is not committed.
            _ = extend.tick() => source.extend().await?,
        }
    }
}

impl InHand {
    fn of(taken: Taken) -> Self {
        // A message that is not applied is not read either.
        let task = match &taken.verdict {
            Some(reason) => Err(shown(reason)),
            None => Task::parse(&taken.body).map_err(|error| shown(&error.to_string())),
        };
        Self { taken, task }
    }

    fn number(&self) -> u64 {
        self.taken.number
    }

    fn task(&self) -> Option<&Task> {
        self.task.as_ref().ok()
    }

    /// Why it is not applied.
    fn verdict(&self) -> Option<String> {
        self.task.as_ref().err().cloned()
    }
}
