//! Readiness: whether the worker does its work, and if not, why. A pure function of its status and
//! the time.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::status::{ActorState, ActorStatus, ConnectionState, Failure, SourceStatus, Status};
use crate::model::Pause;

/// A commit that is parked for longer is worth a warning.
const LONG_PARKED: Duration = Duration::from_secs(60);

/// How long a fault may last before the worker is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// A source without a connection, with reconnects in progress.
    pub disconnected: Duration,
    /// A cursor that does not move although events were received.
    pub stalled: Duration,
    /// An actor that failed and waits for its restart.
    pub actor_down: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    pub ready: bool,
    /// The reasons if not `ready`, and warnings.
    pub reasons: Vec<Reason>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// `worker`, `database`, `directory`, `queue`, `repositories`, `actor NAME`, `sink NAME` or `source ID`.
    pub component: String,
    pub message: String,
    /// The worker is ready all the same.
    #[serde(skip_serializing_if = "is_false")]
    pub is_warning: bool,
}

/// serde passes a reference.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// Evaluates `status` at the time `now`.
pub fn readiness(status: &Status, now: Timestamp, thresholds: &Thresholds) -> Readiness {
    let worker = worker_fault(status).map(|message| ("worker".to_owned(), message));
    let queue = queue_fault(status, now).map(|message| ("queue".to_owned(), message));
    let presence = presence_fault(status, now).map(|message| ("queue".to_owned(), message));
    let database = database_fault(status, now).map(|message| ("database".to_owned(), message));
    let directory = directory_fault(status, now).map(|message| ("directory".to_owned(), message));
    let actors = status.actors.iter().filter_map(|(name, actor)| {
        let message = actor_fault(actor, now, thresholds)?;
        Some((format!("actor {name}"), message))
    });
    let sources = status.sources.iter().flat_map(|(id, source)| {
        [
            connection_fault(source, now, thresholds),
            reading_fault(source, now),
            cursor_fault(source, now, thresholds),
        ]
        .into_iter()
        .flatten()
        .map(move |message| (format!("source {id}"), message))
    });
    let reasons: Vec<_> = worker
        .into_iter()
        .chain(queue)
        .chain(presence)
        .chain(database)
        .chain(directory)
        .chain(actors)
        .chain(sources)
        .map(|(component, message)| Reason {
            component,
            message,
            is_warning: false,
        })
        .chain(warnings(status))
        .chain(parked_warning(status, now))
        .chain(slowed_warnings(status, now))
        .chain(pause_warnings(status))
        .chain(rules_warning(status))
        .chain(paused_sinks(status))
        .chain(sink_warnings(status, now))
        .chain(consumption_warnings(status, now))
        .collect();
    Readiness {
        ready: reasons.iter().all(|reason| reason.is_warning),
        reasons,
    }
}

/// What an operator should know although the worker does its work.
fn warnings(status: &Status) -> impl Iterator<Item = Reason> {
    let next = match status.repositories {
        Some(_) => "until their repositories are fetched",
        None => "and no host is asked for them at level `none`",
    };
    let widened = status.sources.iter();
    let widened = widened.filter(|(_, source)| source.open_interest_gaps > 0);
    widened.map(move |(id, source)| Reason {
        component: format!("source {id}"),
        message: format!(
            "records may be missing that were not kept before the set of interest was widened, \
             {next} (open gaps with the cause interest_widened: {})",
            source.open_interest_gaps
        ),
        is_warning: true,
    })
}

/// A commit that waits for long, although not for its own account.
fn parked_warning(status: &Status, now: Timestamp) -> Option<Reason> {
    let waiting = elapsed(status.oldest_parked_at()?, now);
    let parked = status.repositories.as_ref()?.parked;
    (waiting > LONG_PARKED).then(|| Reason {
        component: "repositories".to_owned(),
        message: format!(
            "the oldest parked commit has waited for {} s ({} commits wait for a key, {} for their \
             repository)",
            waiting.as_secs(),
            parked.key.commits,
            parked.repository.commits
        ),
        is_warning: true,
    })
}

/// A source that is read more slowly, because too much waits for the PLC directory.
fn slowed_warnings(status: &Status, now: Timestamp) -> impl Iterator<Item = Reason> {
    status.sources.iter().filter_map(move |(id, source)| {
        let slowed = source.slowed_by_directory.as_ref()?;
        let seconds = elapsed(slowed.at, now).as_secs();
        Some(Reason {
            component: format!("source {id}"),
            message: format!(
                "it has been read more slowly for {seconds} s, because too many commits wait for \
                 keys of the PLC directory: {}",
                slowed.reason
            ),
            is_warning: true,
        })
    })
}

/// A source that an operator has paused.
fn pause_warnings(status: &Status) -> impl Iterator<Item = Reason> {
    status.sources.iter().filter_map(|(id, source)| {
        let ConnectionState::Paused { since, by } = &source.connection else {
            return None;
        };
        Some(Reason {
            component: format!("source {id}"),
            message: format!("has been paused since {since} by {by}; nothing is read from it"),
            is_warning: true,
        })
    })
}

/// A sink that an operator has paused.
fn paused_sinks(status: &Status) -> impl Iterator<Item = Reason> {
    status.sinks.iter().filter_map(|(name, sink)| {
        let Pause { since, actor, .. } = sink.pause.as_ref()?;
        let behind = sink.behind.unwrap_or_default();
        Some(Reason {
            component: format!("sink {name}"),
            message: format!(
                "has been paused since {since} by {actor}; its changes wait in the database ({behind} \
                 rows so far)"
            ),
            is_warning: true,
        })
    })
}

/// A sink that takes nothing, or refuses what it gets. The worker goes on, and a restart of it would help
/// nothing.
fn sink_warnings(status: &Status, now: Timestamp) -> impl Iterator<Item = Reason> {
    status.sinks.iter().filter_map(move |(name, sink)| {
        let seconds = |since| elapsed(since, now).as_secs();
        let behind = sink.behind.unwrap_or_default();
        let problem = match (sink.failing_since, sink.refusing_since) {
            (Some(since), _) => format!(
                "it has taken nothing for {} s; its changes wait in the database ({behind} rows so far)",
                seconds(since)
            ),
            (None, Some(since)) => format!(
                "it has refused changes for {} s and taken none; they become dead letters of stage sink",
                seconds(since)
            ),
            (None, None) => return None,
        };
        let reason = sink.last_error.as_deref().unwrap_or("unknown");
        Some(Reason {
            component: format!("sink {name}"),
            message: format!("{problem}: {reason}"),
            is_warning: true,
        })
    })
}

/// What fails beside the tasks, which are applied.
fn consumption_warnings(status: &Status, now: Timestamp) -> impl Iterator<Item = Reason> {
    let consumption = status.consumption.as_ref();
    let presence = consumption
        .filter(|consumption| consumption.members.is_some())
        .and_then(|consumption| consumption.presence_failure.as_ref());
    let presence = presence.map(|failure| {
        let problem = "this process is not counted among the consumers; the partitions that it has \
                       stay, but may be shared unevenly";
        ("queue", problem, failure)
    });
    let upkeep = consumption.and_then(|consumption| consumption.upkeep_failure.as_ref());
    let upkeep = upkeep.map(|failure| {
        let problem = "the upkeep of the tables fails; rows of removed accounts stay, and nothing is \
                       purged by age";
        ("database", problem, failure)
    });
    let warning = move |(component, problem, failure): (&str, &str, &Failure)| Reason {
        component: component.to_owned(),
        message: format!(
            "{problem} (for {} s so far): {}",
            elapsed(failure.at, now).as_secs(),
            failure.reason
        ),
        is_warning: true,
    };
    presence.into_iter().chain(upkeep).map(warning)
}

/// Records that were judged by other rules than those in force.
fn rules_warning(status: &Status) -> Option<Reason> {
    let outdated = &status.outdated_collections;
    (!outdated.is_empty()).then(|| Reason {
        component: "database".to_owned(),
        message: format!(
            "records of {} were judged by other lexicons or policies than those in force; \
             `reprocess --invalid` judges those again that were invalid",
            outdated.join(", ")
        ),
        is_warning: true,
    })
}

fn worker_fault(status: &Status) -> Option<String> {
    if status.draining {
        Some("is draining".to_owned())
    } else if status.sources.is_empty() && status.consumption.is_none() {
        Some("has not started a source yet".to_owned())
    } else {
        None
    }
}

/// A consumer whose queue or target does not answer.
fn queue_fault(status: &Status, now: Timestamp) -> Option<String> {
    let consumption = status.consumption.as_ref()?;
    let failing = &consumption.failing;
    let oldest = failing.values().min_by_key(|failure| failure.at);
    match (oldest, consumption.last_success_at) {
        (Some(failure), _) => Some(format!(
            "{} of {} partitions have not been read for up to {} s: {}",
            failing.len(),
            consumption.partitions,
            elapsed(failure.at, now).as_secs(),
            failure.reason
        )),
        (None, None) => Some("has not been reached yet".to_owned()),
        (None, Some(_)) => None,
    }
}

/// A consumer that was never counted among those of its queue takes no partition.
fn presence_fault(status: &Status, now: Timestamp) -> Option<String> {
    let consumption = status.consumption.as_ref()?;
    let failure = consumption.presence_failure.as_ref()?;
    let seconds = elapsed(failure.at, now).as_secs();
    consumption.members.is_none().then(|| {
        format!(
            "this process has not been counted among the consumers for {seconds} s, and takes no \
             partition: {}",
            failure.reason
        )
    })
}

fn database_fault(status: &Status, now: Timestamp) -> Option<String> {
    let blocked = status.queue.blocked.as_ref()?;
    let seconds = elapsed(blocked.at, now).as_secs();
    Some(format!(
        "writes have failed for {seconds} s: {}",
        blocked.reason
    ))
}

fn directory_fault(status: &Status, now: Timestamp) -> Option<String> {
    let fault = status.directory.as_ref()?;
    let seconds = elapsed(fault.at, now).as_secs();
    let waiting = status.repositories.as_ref();
    let waiting = waiting.map_or(0, |counts| counts.parked.key.commits);
    Some(format!(
        "the PLC directory {} has given no usable answer for {seconds} s, so commits whose keys are \
         not known wait ({waiting} so far): {}",
        fault.directory, fault.reason
    ))
}

fn actor_fault(actor: &ActorStatus, now: Timestamp, thresholds: &Thresholds) -> Option<String> {
    let failure = actor.last_failure.as_ref();
    let reason = failure.map_or("unknown", |failure| &failure.reason);
    match actor.state {
        ActorState::Running => None,
        ActorState::BackingOff => {
            let down = elapsed(failure?.at, now);
            (down > thresholds.actor_down)
                .then(|| format!("has been down for {} s: {reason}", down.as_secs()))
        }
    }
}

fn connection_fault(
    source: &SourceStatus,
    now: Timestamp,
    thresholds: &Thresholds,
) -> Option<String> {
    match &source.connection {
        ConnectionState::Connected { .. } | ConnectionState::Paused { .. } => None,
        ConnectionState::Starting => Some("has not been dialled yet".to_owned()),
        ConnectionState::Stopped => Some("has been stopped".to_owned()),
        ConnectionState::Connecting => disconnection(source, now, thresholds),
        ConnectionState::BackingOff { reason, .. } => disconnection(source, now, thresholds)
            .map(|message| format!("{message}; last error: {reason}")),
    }
}

fn reading_fault(source: &SourceStatus, now: Timestamp) -> Option<String> {
    let unreadable = source.unreadable.as_ref()?;
    let seconds = elapsed(unreadable.at, now).as_secs();
    Some(format!(
        "its frames have not been readable for {seconds} s: {}",
        unreadable.reason
    ))
}

fn disconnection(source: &SourceStatus, now: Timestamp, thresholds: &Thresholds) -> Option<String> {
    let missing = elapsed(source.disconnected_since?, now);
    (missing > thresholds.disconnected)
        .then(|| format!("has not been connected for {} s", missing.as_secs()))
}

/// The cursor must move while received events are not applied. A silent source has none.
fn cursor_fault(source: &SourceStatus, now: Timestamp, thresholds: &Thresholds) -> Option<String> {
    let owing_since = source.owing_since?;
    let last_progress = source
        .applied_at
        .map_or(owing_since, |applied_at| applied_at.max(owing_since));
    let stalled = elapsed(last_progress, now);
    (stalled > thresholds.stalled).then(|| {
        format!(
            "its cursor has been at {} for {} s, although {} was received",
            source.applied.seq,
            stalled.as_secs(),
            source.received.seq,
        )
    })
}

/// Zero if the clock was set back in between.
fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Position, RepoCounts};
    use crate::telemetry::status::{Consumption, DirectoryFailure};

    const THRESHOLDS: Thresholds = Thresholds {
        disconnected: Duration::from_secs(200),
        stalled: Duration::from_secs(60),
        actor_down: Duration::from_secs(10),
    };
    const NOW: i64 = 1_000_000;

    fn ago(seconds: i64) -> Timestamp {
        Timestamp::from_second(NOW - seconds).unwrap()
    }

    fn failure(seconds: i64) -> Failure {
        Failure {
            at: ago(seconds),
            reason: "it broke".to_owned(),
        }
    }

    fn at_seq(seq: u64) -> Position {
        Position { seq, time: None }
    }

    fn actor(state: ActorState, last_failure: Option<Failure>) -> ActorStatus {
        ActorStatus {
            state,
            restarts: 0,
            last_failure,
        }
    }

    /// Connected an hour ago, with everything applied and no event since.
    fn healthy() -> Status {
        let mut source = SourceStatus::default();
        source.set_connection(ConnectionState::Connected { since: ago(3600) }, ago(3600));
        source.set_received(at_seq(5), ago(3500));
        source.set_applied(at_seq(5), ago(3500));
        let mut status = Status::default();
        status.sources.insert("wss://relay".to_owned(), source);
        status
            .actors
            .insert("indexer".to_owned(), actor(ActorState::Running, None));
        status
    }

    /// The faults after `change`, as `component: message`.
    fn faults(change: impl FnOnce(&mut Status)) -> Vec<String> {
        let mut status = healthy();
        change(&mut status);
        let readiness = readiness(&status, ago(0), &THRESHOLDS);
        let mut reasons = readiness.reasons.iter();
        assert_eq!(readiness.ready, reasons.all(|reason| reason.is_warning));
        let reasons = readiness.reasons.iter();
        reasons
            .map(|reason| format!("{}: {}", reason.component, reason.message))
            .collect()
    }

    fn source(status: &mut Status) -> &mut SourceStatus {
        status.sources.get_mut("wss://relay").unwrap()
    }

    #[test]
    fn records_that_were_judged_by_other_rules_are_a_warning() {
        let mut status = healthy();
        status.outdated_collections = vec!["com.example.note".to_owned()];
        let readiness = readiness(&status, ago(0), &THRESHOLDS);
        assert!(readiness.ready);
        let reason = readiness.reasons.last().unwrap();
        assert!(reason.is_warning);
        assert!(
            reason.message.contains("`reprocess --invalid`"),
            "{}",
            reason.message
        );
    }

    #[test]
    fn a_silent_source_is_ready() {
        assert_eq!(faults(|_| ()), Vec::<String>::new());
    }

    #[test]
    fn a_worker_that_starts_or_drains_is_not_ready() {
        assert_eq!(
            faults(|status| *status = Status::default()),
            ["worker: has not started a source yet"]
        );
        assert_eq!(
            faults(|status| status.draining = true),
            ["worker: is draining"]
        );
        assert_eq!(
            faults(|status| source(status).connection = ConnectionState::Starting),
            ["source wss://relay: has not been dialled yet"]
        );
        assert_eq!(
            faults(|status| source(status).connection = ConnectionState::Stopped),
            ["source wss://relay: has been stopped"]
        );
    }

    #[test]
    fn a_consumer_is_ready_once_its_queue_was_reached_and_while_each_partition_is_read() {
        let consumption = |failing: Option<Failure>, success| Status {
            consumption: Some(Consumption {
                partitions: 16,
                failing: failing.map(|failure| (3, failure)).into_iter().collect(),
                last_success_at: success,
                ..Consumption::default()
            }),
            ..Status::default()
        };
        assert_eq!(
            faults(|status| *status = consumption(None, None)),
            ["queue: has not been reached yet"]
        );
        assert_eq!(
            faults(|status| *status = consumption(None, Some(ago(5)))),
            Vec::<String>::new()
        );
        assert_eq!(
            faults(|status| *status = consumption(Some(failure(7)), Some(ago(5)))),
            ["queue: 1 of 16 partitions have not been read for up to 7 s: it broke"]
        );
    }

    #[test]
    fn a_consumer_that_was_never_counted_is_not_ready_and_what_fails_beside_the_tasks_is_a_warning()
    {
        let with = |members| Status {
            consumption: Some(Consumption {
                members,
                last_success_at: Some(ago(5)),
                presence_failure: Some(failure(7)),
                upkeep_failure: Some(failure(8)),
                ..Consumption::default()
            }),
            ..Status::default()
        };
        let never = readiness(&with(None), ago(0), &THRESHOLDS);
        assert!(!never.ready);
        assert_eq!(
            never.reasons[0].message,
            "this process has not been counted among the consumers for 7 s, and takes no partition: it \
             broke"
        );
        let no_more = readiness(&with(Some(2)), ago(0), &THRESHOLDS);
        assert!(no_more.ready);
        let components = no_more.reasons.iter().map(|reason| &reason.component[..]);
        assert_eq!(components.collect::<Vec<_>>(), ["queue", "database"]);
        assert_eq!(
            no_more.reasons[1].message,
            "the upkeep of the tables fails; rows of removed accounts stay, and nothing is purged by age \
             (for 8 s so far): it broke"
        );
    }

    #[test]
    fn a_paused_source_is_a_warning() {
        let mut status = healthy();
        let pause = ConnectionState::Paused {
            since: "2026-11-28T05:00:00.000Z".to_owned(),
            by: "uid 0".to_owned(),
        };
        source(&mut status).set_connection(pause, ago(500));
        let readiness = readiness(&status, ago(0), &THRESHOLDS);
        assert!(readiness.ready);
        let message =
            "has been paused since 2026-11-28T05:00:00.000Z by uid 0; nothing is read from it";
        assert_eq!(readiness.reasons[0].message, message);
    }

    #[test]
    fn a_source_may_be_disconnected_for_as_long_as_the_threshold() {
        let lost_for = |seconds| {
            faults(|status| {
                let backing_off = ConnectionState::BackingOff {
                    until: ago(-5),
                    reason: "HTTP 503".to_owned(),
                };
                let source = source(status);
                source.set_connection(ConnectionState::Connecting, ago(seconds));
                source.set_connection(backing_off, ago(1));
            })
        };
        assert_eq!(lost_for(200), Vec::<String>::new());
        assert_eq!(
            lost_for(201),
            ["source wss://relay: has not been connected for 201 s; last error: HTTP 503"]
        );
    }

    #[test]
    fn a_cursor_must_move_while_events_wait() {
        let waiting_for =
            |seconds| faults(|status| source(status).set_received(at_seq(9), ago(seconds)));
        assert_eq!(waiting_for(60), Vec::<String>::new());
        assert_eq!(
            waiting_for(61),
            ["source wss://relay: its cursor has been at 5 for 61 s, although 9 was received"]
        );
    }

    #[test]
    fn a_cursor_that_moves_may_stay_behind() {
        let faults = faults(|status| {
            source(status).set_received(at_seq(9), ago(3000));
            source(status).set_applied(at_seq(6), ago(2));
        });
        assert_eq!(faults, Vec::<String>::new());
    }

    #[test]
    fn a_database_whose_writes_fail_is_a_fault_at_once() {
        assert_eq!(
            faults(|status| status.queue.blocked = Some(failure(0))),
            ["database: writes have failed for 0 s: it broke"]
        );
    }

    #[test]
    fn a_source_of_which_nothing_can_be_read_is_a_fault_at_once() {
        assert_eq!(
            faults(|status| source(status).unreadable = Some(failure(7))),
            ["source wss://relay: its frames have not been readable for 7 s: it broke"]
        );
    }

    #[test]
    fn a_directory_without_usable_answers_is_a_fault() {
        assert_eq!(
            faults(|status| {
                status.directory = Some(DirectoryFailure {
                    directory: "https://plc.example/".to_owned(),
                    at: ago(7),
                    reason: "it broke".to_owned(),
                });
                let mut counts = RepoCounts::default();
                counts.parked.key.commits = 3;
                status.repositories = Some(counts);
            }),
            [
                "directory: the PLC directory https://plc.example/ has given no usable answer for 7 \
                 s, so commits whose keys are not known wait (3 so far): it broke"
            ]
        );
    }

    #[test]
    fn an_actor_may_be_down_for_as_long_as_the_threshold() {
        let down_for = |seconds| {
            faults(|status| {
                let down = actor(ActorState::BackingOff, Some(failure(seconds)));
                status.actors.insert("indexer".to_owned(), down);
            })
        };
        assert_eq!(down_for(10), Vec::<String>::new());
        assert_eq!(
            down_for(11),
            ["actor indexer: has been down for 11 s: it broke"]
        );
    }

    #[test]
    fn a_wider_set_of_interest_is_a_warning() {
        let mut status = healthy();
        source(&mut status).open_interest_gaps = 1;
        let readiness = readiness(&status, ago(0), &THRESHOLDS);
        assert!(readiness.ready, "{readiness:?}");
        let [reason] = &readiness.reasons[..] else {
            panic!("{readiness:?}");
        };
        assert!(reason.is_warning && reason.message.contains("interest_widened"));
    }

    #[test]
    fn commits_that_are_parked_for_long_are_a_warning() {
        let parked_for = |seconds| {
            faults(|status| {
                let mut counts = RepoCounts::default();
                counts.parked.key.commits = 2;
                counts.parked.repository.commits = 5;
                counts.parked.repository.oldest_at = Some(ago(seconds));
                // Its account decides how long it waits.
                counts.parked.account.oldest_at = Some(ago(3600));
                status.repositories = Some(counts);
            })
        };
        assert_eq!(parked_for(60), Vec::<String>::new());
        assert_eq!(
            parked_for(61),
            [
                "repositories: the oldest parked commit has waited for 61 s (2 commits wait for a \
                 key, 5 for their repository)"
            ]
        );
    }

    #[test]
    fn a_source_that_is_slowed_down_for_the_directory_is_a_warning() {
        let mut status = healthy();
        source(&mut status).slowed_by_directory = Some(failure(7));
        let readiness = readiness(&status, ago(0), &THRESHOLDS);
        assert!(readiness.ready, "{readiness:?}");
        let [reason] = &readiness.reasons[..] else {
            panic!("{readiness:?}");
        };
        assert_eq!(
            reason.message,
            "it has been read more slowly for 7 s, because too many commits wait for keys of the PLC \
             directory: it broke"
        );
    }

    #[test]
    fn every_fault_is_reported() {
        let all = faults(|status| {
            status.draining = true;
            status.queue.blocked = Some(failure(5));
            source(status).set_connection(ConnectionState::Connecting, ago(500));
            source(status).set_received(at_seq(9), ago(400));
        });
        assert_eq!(all.len(), 4, "{all:#?}");
    }

    #[test]
    fn a_clock_that_was_set_back_is_no_fault() {
        assert_eq!(
            faults(|status| source(status).set_received(at_seq(9), ago(-3600))),
            Vec::<String>::new()
        );
    }
}
