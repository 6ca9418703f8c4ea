//! Applies the tasks of one part of a queue: takes some, applies them, acks them behind the commit, and
//! looks by halves for what the target refuses.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{interval, timeout};

use crate::sink::SinkError;
use crate::sink::queue::{QueueSource, Taken};
use crate::sink::target::{Feeds, TableTarget};
use crate::sink::task::Task;
use crate::testing::fault::Faults;

/// Tasks that are applied in one transaction.
const BATCH: usize = 100;
/// The deadline of a transaction, and of the wait for those of the other consumers of the process.
const DEADLINE: Duration = Duration::from_secs(45);
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
    /// How many tasks are applied at once. It is halved until a refused task is alone.
    cut: usize,
    refusals: u32,
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
            parts,
            hand: VecDeque::new(),
            feeds: Feeds::new(),
            cut: BATCH,
            refusals: 0,
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
        let stepped = self.try_step().await;
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
        self.cut = BATCH;
        self.refusals = 0;
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
        let tasks = self.hand.iter().take(count);
        let tasks: Vec<Task> = tasks.filter_map(|held| held.task.clone().ok()).collect();
        self.learn(&tasks).await?;
        self.parts.source.begin(&numbers).await?;
        for held in self.hand.iter().take(count) {
            self.parts.faults.touch(&held.taken.body);
        }
        match self.apply(&tasks).await {
            Ok(()) => {
                self.parts.source.ack(&numbers).await?;
                self.hand.drain(..count);
                self.cut = self.cut.saturating_mul(2).min(BATCH);
                self.refusals = 0;
                Ok(Pace::Applied(count as u64))
            }
            Err(SinkError::Refused(_)) if count > 1 => {
                self.cut = count / 2;
                Ok(Pace::Applied(0))
            }
            Err(SinkError::Refused(reason)) => {
                self.cut = 1;
                self.refusals += 1;
                match self.refusals > self.parts.retries {
                    true => self.set_aside(reason, self.refusals).await,
                    false => Ok(Pace::Refused(reason)),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// How many of the first tasks are applied at once. The first one may be.
    fn count(&self) -> usize {
        let mut most = self.cut.min(BATCH);
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

    /// Asks the queue for the epochs of feeds that are not known yet.
    async fn learn(&mut self, tasks: &[Task]) -> Result<(), SinkError> {
        for Task { feed, change } in tasks {
            let known = self.feeds.get(feed);
            let is_known = known.is_some_and(|known| {
                let mut epochs = known.epochs.iter();
                epochs.any(|epoch| epoch.id == change.epoch)
            });
            if !is_known && let Some(found) = self.parts.source.feed(feed).await? {
                self.feeds.insert(feed.clone(), found);
            }
        }
        Ok(())
    }

    async fn apply(&mut self, tasks: &[Task]) -> Result<(), SinkError> {
        let (target, feeds) = (self.parts.target.clone(), &self.feeds);
        let applying = async {
            let mut target = target.lock().await;
            target.apply(tasks, feeds).await
        };
        let mut applying = Box::pin(timeout(DEADLINE, applying));
        let mut extend = interval(EXTEND_INTERVAL);
        loop {
            tokio::select! {
                biased;
                applied = &mut applying => {
                    let late = || {
                        let seconds = DEADLINE.as_secs();
                        SinkError::unavailable(format_args!("no answer within {seconds} s"))
                    };
                    return applied.unwrap_or_else(|_| Err(late()));
                }
                // Where it is no longer this consumer's part, the transaction is not committed.
                _ = extend.tick() => self.parts.source.extend().await?,
            }
        }
    }

    async fn set_aside(&mut self, reason: String, attempts: u32) -> Result<Pace, SinkError> {
        let Some(number) = self.hand.front().map(InHand::number) else {
            return Ok(Pace::Idle);
        };
        let source = &mut self.parts.source;
        source.set_aside(number, &reason, attempts).await?;
        self.hand.pop_front();
        self.refusals = 0;
        self.cut = self.cut.saturating_mul(2).min(BATCH);
        Ok(Pace::SetAside { reason, attempts })
    }
}

impl InHand {
    fn of(taken: Taken) -> Self {
        // A message that is not applied is not read either.
        let task = match &taken.verdict {
            Some(reason) => Err(reason.clone()),
            None => Task::parse(&taken.body).map_err(|error| error.to_string()),
        };
        Self { taken, task }
    }

    fn number(&self) -> u64 {
        self.taken.number
    }

    /// Why it is not applied.
    fn verdict(&self) -> Option<String> {
        self.task.as_ref().err().cloned()
    }
}
