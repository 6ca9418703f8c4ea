//! The state of the worker, for its operator: plain values that the actors write once for each
//! batch, and that `/status` and `/readyz` read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::model::{Pause, Position, RepoCounts, SourceId, Trips};
use crate::telemetry::clocks::ClockStatus;

/// The shared copy of the [`Status`].
#[derive(Clone, Debug, Default)]
pub struct StatusBoard(Arc<Mutex<Status>>);

impl StatusBoard {
    /// A consistent copy.
    pub fn snapshot(&self) -> Status {
        self.lock().clone()
    }

    /// Changes the status in place. `change` must be fast, because readers wait for it.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, Status> {
        // Every field is valid by itself, so a panic during an update leaves a valid status.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    pub started_at: Option<Timestamp>,
    /// The number of consecutive earlier runs that ended without a word: killed, out of memory, or
    /// the power was lost.
    pub unfinished_runs: u32,
    /// Set as soon as the worker was told to stop.
    pub draining: bool,
    /// The supervisor's children by name.
    pub actors: BTreeMap<String, ActorStatus>,
    /// The sources by id.
    pub sources: BTreeMap<String, SourceStatus>,
    pub queue: QueueStatus,
    /// The counts of tracked repositories; `None` if nothing is verified.
    pub repositories: Option<RepoCounts>,
    /// Since when, and why, the PLC directory gives no usable answers.
    pub directory: Option<DirectoryFailure>,
    pub budget: BudgetStatus,
    /// Removed accounts whose rows are still being deleted.
    pub pending_removals: u64,
    /// The size of the database's write-ahead log.
    pub wal_bytes: u64,
    pub dead_letters: DeadLetterStatus,
    /// Collections of which records were judged by other lexicons, policies or code than are in force.
    pub outdated_collections: Vec<String>,
    /// The transactions of the database.
    pub writer: Trips,
    pub clock: ClockStatus,
    /// The sinks by name.
    pub sinks: BTreeMap<String, SinkStatus>,
    /// What `consume` does; `None` in a worker.
    pub consumption: Option<Consumption>,
}

/// The most outdated collections that are named.
const MAX_OUTDATED: usize = 10;

impl Status {
    pub fn set_outdated(&mut self, mut collections: Vec<String>) {
        collections.truncate(MAX_OUTDATED);
        self.outdated_collections = collections;
    }

    /// Since when the oldest parked commit waits that is late because of the worker, or of what all
    /// accounts share.
    pub fn oldest_parked_at(&self) -> Option<Timestamp> {
        self.repositories.as_ref()?.parked.lagging_since()
    }

    /// The status of `source`. Created if there is none yet.
    pub fn source_mut(&mut self, source: &SourceId) -> &mut SourceStatus {
        self.sources.entry(source.to_string()).or_default()
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct ActorStatus {
    pub state: ActorState,
    pub restarts: u64,
    pub last_failure: Option<Failure>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorState {
    Running,
    /// Failed, and waiting for the end of its backoff.
    BackingOff,
}

#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    pub at: Timestamp,
    pub reason: String,
}

/// A PLC directory that gives no usable answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DirectoryFailure {
    /// Its URL.
    pub directory: String,
    pub at: Timestamp,
    pub reason: String,
}

/// A connected source that has sent nothing for so long has nothing to send.
const QUIET_AFTER: SignedDuration = SignedDuration::from_secs(10);

#[derive(Clone, Debug, Default, Serialize)]
pub struct SourceStatus {
    pub connection: ConnectionState,
    /// Since when there has been no connection; `None` while connected, and before the first
    /// attempt.
    pub disconnected_since: Option<Timestamp>,
    /// Connections made after the first one.
    pub reconnects: u64,
    pub last_frame_at: Option<Timestamp>,
    /// Since when, and why, hardly any frame can be read; `None` while frames can be read.
    pub unreadable: Option<Failure>,
    /// Since when, and why, the source is read more slowly: too much waits for the PLC directory.
    pub slowed_by_directory: Option<Failure>,
    /// The newest event read from the socket.
    pub received: Position,
    /// Everything up to here is durable in the tables. This is the cursor.
    pub applied: Position,
    pub applied_at: Option<Timestamp>,
    /// Since when `applied` has been behind `received`; `None` while it is not behind.
    pub owing_since: Option<Timestamp>,
    pub events: u64,
    pub matched: u64,
    pub open_gaps: u64,
    /// Those of a wider set of interest.
    pub open_interest_gaps: u64,
}

impl SourceStatus {
    /// Sets the state of the connection.
    pub fn set_connection(&mut self, connection: ConnectionState, now: Timestamp) {
        self.disconnected_since = match connection {
            ConnectionState::Connected { .. }
            | ConnectionState::Paused { .. }
            | ConnectionState::Starting => None,
            _ => self.disconnected_since.or(Some(now)),
        };
        self.connection = connection;
    }

    /// Records that the source was read up to `position`.
    pub fn set_received(&mut self, position: Position, now: Timestamp) {
        self.received = position;
        self.last_frame_at = Some(now);
        self.update_owing(now);
    }

    /// Records that everything up to `position` is durable.
    pub fn set_applied(&mut self, position: Position, now: Timestamp) {
        if position != self.applied {
            self.applied = position;
            self.applied_at = Some(now);
        }
        self.update_owing(now);
    }

    // Seqs may begin again at a lower number, so only equal seqs mean that everything is applied.
    fn update_owing(&mut self, now: Timestamp) {
        self.owing_since = if self.last_frame_at.is_none() || self.received.seq == self.applied.seq
        {
            None
        } else {
            self.owing_since.or(Some(now))
        };
    }

    /// How far the tables are behind the newest received event, in seconds: 0 if all that was received
    /// is applied. Commits that are parked since `oldest_parked_at` were received and are not applied.
    /// `None` if it is unknown.
    pub fn lag_seconds(&self, oldest_parked_at: Option<Timestamp>, now: Timestamp) -> Option<f64> {
        let behind = match self.owing_since {
            Some(_) => self.received.time?.duration_since(self.applied.time?),
            None => self.last_frame_at.map(|_| SignedDuration::ZERO)?,
        };
        Some(with_parked(behind, oldest_parked_at, now))
    }

    /// How far the tables are behind the source, in seconds. This includes events that the source
    /// has not sent yet, and parked commits. `None` if it is unknown: without a connection, and
    /// until the source has sent something or is quiet.
    ///
    /// While `applied` is behind, the age of the newest applied event grows with the clock.
    /// Afterwards it is the age that the event had on arrival, until the source is quiet: then there
    /// is nothing that the tables lack.
    pub fn source_lag_seconds(
        &self,
        oldest_parked_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Option<f64> {
        let ConnectionState::Connected { since } = self.connection else {
            return None;
        };
        let last_frame_at = self.last_frame_at.filter(|last| *last >= since);
        let is_quiet = now.duration_since(last_frame_at.unwrap_or(since)) >= QUIET_AFTER;
        let behind = match self.owing_since {
            Some(_) => now.duration_since(self.applied.time?),
            None if is_quiet => SignedDuration::ZERO,
            None => last_frame_at?.duration_since(self.applied.time?),
        };
        Some(with_parked(behind, oldest_parked_at, now))
    }

    /// The share of events that the filter kept, 0 to 1.
    pub fn hit_ratio(&self) -> Option<f64> {
        (self.events > 0).then(|| self.matched as f64 / self.events as f64)
    }
}

/// The longer of `behind` and the wait of the oldest parked commit, in seconds.
fn with_parked(behind: SignedDuration, oldest_parked_at: Option<Timestamp>, now: Timestamp) -> f64 {
    let parked = oldest_parked_at.map(|oldest| now.duration_since(oldest));
    behind
        .max(parked.unwrap_or_default())
        .as_secs_f64()
        .max(0.0)
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ConnectionState {
    #[default]
    Starting,
    Connecting,
    Connected {
        since: Timestamp,
    },
    /// Lost or refused; the next attempt is at `until`.
    BackingOff {
        until: Timestamp,
        reason: String,
    },
    /// An operator has paused it.
    Paused {
        since: String,
        by: String,
    },
    Stopped,
}

/// The dead letters in the database, wherever they come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeadLetterStatus {
    pub kept: u64,
    /// Of what they hold.
    pub bytes: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct QueueStatus {
    /// Effects that wait for a transaction.
    pub depth: u64,
    pub applied: u64,
    pub dead_letters: u64,
    /// Since when, and why, database writes fail.
    pub blocked: Option<Failure>,
    pub last_commit_at: Option<Timestamp>,
}

impl QueueStatus {
    /// Records why database writes fail. Returns whether they did not fail before.
    pub fn set_blocked(&mut self, reason: &str, now: Timestamp) -> bool {
        let blocked = self.blocked.get_or_insert_with(|| Failure {
            at: now,
            reason: String::new(),
        });
        let is_news = blocked.reason != reason;
        reason.clone_into(&mut blocked.reason);
        is_news
    }
}

/// How far a sink has followed the change feed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SinkStatus {
    /// Where it is, without what is secret.
    pub url: String,
    pub state: SinkState,
    /// It has every change up to this number; `None` until that is known.
    pub position: Option<u64>,
    /// The rows that it does not have, counted up to a million; `None` until they are counted.
    pub behind: Option<u64>,
    /// When the oldest row was written that it does not have; `None` if it has everything.
    pub oldest_undelivered_at: Option<Timestamp>,
    /// Rows that it took since the start.
    pub delivered: u64,
    /// Attempts that failed since the start.
    pub errors: u64,
    pub last_error: Option<String>,
    pub last_success_at: Option<Timestamp>,
    /// Since when it takes nothing; `None` while it does.
    pub failing_since: Option<Timestamp>,
    /// Since when it has refused changes and taken none.
    pub refusing_since: Option<Timestamp>,
    /// Who paused it, and since when.
    pub pause: Option<Pause>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkState {
    #[default]
    Starting,
    Following,
    /// It takes nothing, and is asked again later.
    BackingOff,
    /// An operator has paused it.
    Paused,
    /// An operator has removed it, and the configuration still has it.
    Removed,
}

impl SinkState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Following => "following",
            Self::BackingOff => "backing_off",
            Self::Paused => "paused",
            Self::Removed => "removed",
        }
    }
}

impl SinkStatus {
    pub fn of(url: String) -> Self {
        Self {
            url,
            ..Self::default()
        }
    }

    /// How far it is behind the tables, in seconds; `None` if that is unknown.
    pub fn lag_seconds(&self, now: Timestamp) -> Option<f64> {
        match (self.behind?, self.oldest_undelivered_at) {
            (0, _) => Some(0.0),
            (_, oldest) => Some(now.duration_since(oldest?).as_secs_f64().max(0.0)),
        }
    }
}

/// What a consumer of a queue does.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Consumption {
    /// The queue, without what is secret.
    pub from: String,
    /// The target, without what is secret.
    pub into: String,
    /// How many partitions there are, and which this process has.
    pub partitions: u32,
    pub held: BTreeSet<u32>,
    /// How many consumers share them; `None` until that is known.
    pub members: Option<u32>,
    /// Tasks that were applied since the start.
    pub applied: u64,
    /// Tasks that became dead letters since the start.
    pub dead_letters: u64,
    /// Attempts that failed since the start.
    pub errors: u64,
    pub last_error: Option<String>,
    pub last_success_at: Option<Timestamp>,
    /// Since when, and why, a partition is not read.
    pub failing: BTreeMap<u32, Failure>,
    /// Since when, and why, this process cannot be counted among the consumers.
    pub presence_failure: Option<Failure>,
    /// Since when, and why, the upkeep of the tables fails.
    pub upkeep_failure: Option<Failure>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct BudgetStatus {
    pub limit_bytes: u64,
    pub in_flight_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn position(seq: u64, seconds: i64) -> Position {
        Position {
            seq,
            time: Some(at(seconds)),
        }
    }

    #[test]
    fn a_source_is_behind_from_the_first_event_that_is_not_applied() {
        let mut source = SourceStatus::default();
        source.set_applied(position(9, 90), at(100));
        assert_eq!(source.owing_since, None, "nothing has been received yet");

        source.set_received(position(10, 100), at(101));
        source.set_received(position(11, 101), at(102));
        assert_eq!(source.owing_since, Some(at(101)));

        source.set_applied(position(10, 100), at(103));
        assert_eq!(source.owing_since, Some(at(101)));
        source.set_applied(position(11, 101), at(104));
        assert_eq!(source.owing_since, None);
    }

    #[test]
    fn a_source_with_a_new_sequence_is_behind() {
        let mut source = SourceStatus::default();
        source.set_applied(position(1000, 90), at(100));
        source.set_received(position(5, 100), at(101));
        assert_eq!(source.owing_since, Some(at(101)));
    }

    #[test]
    fn a_source_is_disconnected_from_loss_to_return() {
        let mut source = SourceStatus::default();
        source.set_connection(ConnectionState::Connecting, at(1));
        source.set_connection(ConnectionState::Stopped, at(2));
        assert_eq!(source.disconnected_since, Some(at(1)));
        source.set_connection(ConnectionState::Connected { since: at(3) }, at(3));
        assert_eq!(source.disconnected_since, None);
    }

    fn connected() -> SourceStatus {
        let mut source = SourceStatus::default();
        source.set_connection(ConnectionState::Connected { since: at(50) }, at(50));
        source
    }

    #[test]
    fn a_quiet_source_is_not_late_and_a_stalled_one_grows_later() {
        let mut source = connected();
        // It was late on arrival, for example since the worker was down.
        source.set_received(position(10, 100), at(400));
        source.set_applied(position(10, 100), at(401));
        assert_eq!(source.source_lag_seconds(None, at(401)), Some(300.0));
        assert_eq!(source.source_lag_seconds(None, at(410)), Some(0.0));
        assert_eq!(source.source_lag_seconds(None, at(1000)), Some(0.0));
        assert_eq!(source.lag_seconds(None, at(1000)), Some(0.0));

        source.set_received(position(11, 1000), at(1001));
        assert_eq!(source.source_lag_seconds(None, at(1100)), Some(1000.0));
        assert_eq!(source.lag_seconds(None, at(1100)), Some(900.0));
    }

    #[test]
    fn what_is_parked_is_late() {
        let mut source = connected();
        source.set_received(position(10, 100), at(102));
        source.set_applied(position(10, 100), at(103));
        let parked_at = Some(at(110));
        assert_eq!(source.lag_seconds(parked_at, at(710)), Some(600.0));
        assert_eq!(source.source_lag_seconds(parked_at, at(710)), Some(600.0));
    }

    #[test]
    fn the_lag_is_unknown_without_a_connection_and_before_the_source_has_said_anything() {
        let mut source = SourceStatus::default();
        assert_eq!(source.lag_seconds(None, at(60)), None);
        assert_eq!(source.source_lag_seconds(None, at(60)), None);
        source.set_received(position(10, 40), at(41));
        source.set_applied(position(10, 40), at(42));
        source.set_connection(ConnectionState::Connected { since: at(50) }, at(50));
        assert_eq!(source.source_lag_seconds(None, at(51)), None);
        assert_eq!(source.source_lag_seconds(None, at(60)), Some(0.0));
        source.set_connection(ConnectionState::Connecting, at(70));
        assert_eq!(source.source_lag_seconds(None, at(71)), None);
    }

    #[test]
    fn a_database_is_blocked_since_its_first_refusal_and_for_its_last_reason() {
        let mut queue = QueueStatus::default();
        assert!(queue.set_blocked("locked", at(1)));
        assert!(!queue.set_blocked("locked", at(2)));
        assert!(queue.set_blocked("full", at(3)));
        let blocked = queue.blocked.unwrap();
        assert_eq!((blocked.at, blocked.reason.as_str()), (at(1), "full"));
    }

    #[test]
    fn the_lag_of_a_sink_is_the_age_of_the_oldest_row_that_it_does_not_have() {
        let mut sink = SinkStatus::of("postgres://db".to_owned());
        assert_eq!(sink.lag_seconds(at(60)), None);
        sink.behind = Some(3);
        assert_eq!(sink.lag_seconds(at(60)), None);
        sink.oldest_undelivered_at = Some(at(50));
        assert_eq!(sink.lag_seconds(at(60)), Some(10.0));
        sink.behind = Some(0);
        assert_eq!(sink.lag_seconds(at(60)), Some(0.0));
    }

    #[test]
    fn the_hit_ratio_of_nothing_is_unknown() {
        let mut source = SourceStatus::default();
        assert_eq!(source.hit_ratio(), None);
        source.events = 4;
        source.matched = 1;
        assert_eq!(source.hit_ratio(), Some(0.25));
    }
}
