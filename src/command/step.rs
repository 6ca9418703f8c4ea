//! One step: the next command, or a piece of one, is begun, carried out and ended.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use super::carry_out::{carry_out, check};
use super::error::is_transient;
use super::scope::{Asked, Outcome, Run, Scope};
use super::{Command, CommandError, InvalidCommand, Needs};
use crate::model::{AuditEntry, AuditOutcome, CommandEnd, CommandRow};
use crate::store::StoreError;
use crate::testing::fault::{Faults, Point};

/// A command at which so many runs in a row ended is not tried again.
const MOST_INTERRUPTIONS: u32 = 3;
/// How long a command, or a piece of one, may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// How long a process without a worker waits for a long command to go on. One that waits for a worker
/// goes on later.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A row, and the command that it holds.
type Open = (CommandRow, Result<Command, InvalidCommand>);

/// Which command is next. Short ones come in their order; long ones take turns behind them.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// The id of the long command that had the last turn.
    last: i64,
    /// When a long command goes on.
    not_before: BTreeMap<i64, Instant>,
}

/// What is next.
#[derive(Debug, PartialEq)]
enum Next {
    Do(usize),
    /// This command is carried out while no pipeline runs.
    NeedsStop(usize),
    Nothing,
}

/// What a step has done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Did(Option<Asked>),
    /// The next command is carried out while no pipeline runs.
    NeedsStop,
    Nothing,
}

impl Turns {
    fn next(&self, open: &[Open], is_live: bool, now: Instant) -> Next {
        match next_short(open, is_live) {
            Next::Nothing => self.next_long(open, is_live, now),
            next => next,
        }
    }

    fn next_long(&self, open: &[Open], is_live: bool, now: Instant) -> Next {
        let due = |(row, command): &Open| {
            let is_possible = command.as_ref().is_ok_and(|command| {
                command.is_long() && (is_live || command.needs() == Needs::Database)
            });
            let has_come = self.not_before.get(&row.id).is_none_or(|at| *at <= now);
            is_possible && has_come
        };
        let after = open
            .iter()
            .position(|open| due(open) && open.0.id > self.last);
        let next = after.or_else(|| open.iter().position(due));
        next.map_or(Next::Nothing, Next::Do)
    }

    /// When the next long command goes on, if that is before `limit`. It is told once: the command may have
    /// been cancelled meanwhile.
    fn soon(&mut self, limit: Instant) -> Option<Instant> {
        let (id, at) = self.not_before.iter().min_by_key(|(_, at)| **at)?;
        let (id, at) = (*id, *at);
        (at < limit).then(|| {
            self.not_before.remove(&id);
            at
        })
    }

    fn note(&mut self, id: i64, wait: Option<Duration>) {
        self.last = id;
        match wait {
            Some(wait) => _ = self.not_before.insert(id, Instant::now() + wait),
            None => _ = self.not_before.remove(&id),
        }
    }
}

/// The first short command that can be carried out now.
fn next_short(open: &[Open], is_live: bool) -> Next {
    for (index, (_, command)) in open.iter().enumerate() {
        let Ok(command) = command else {
            return Next::Do(index);
        };
        if command.is_long() {
            continue;
        }
        match command.needs() {
            Needs::StoppedPipeline if is_live => return Next::NeedsStop(index),
            Needs::Worker if !is_live => {}
            _ => return Next::Do(index),
        }
    }
    Next::Nothing
}

/// Carries out the next command, or a piece of it.
///
/// # Errors
/// If the database fails. The command is done again.
pub(super) async fn step(
    scope: &Scope,
    turns: &mut Turns,
    faults: &Faults,
) -> Result<Step, StoreError> {
    let open = open(scope).await?;
    scope.keep_only(&open.iter().map(|(row, _)| row.id).collect::<Vec<_>>());
    let next = turns.next(&open, scope.live.is_some(), Instant::now());
    do_next(scope, turns, faults, open, next).await
}

async fn do_next(
    scope: &Scope,
    turns: &mut Turns,
    faults: &Faults,
    open: Vec<Open>,
    next: Next,
) -> Result<Step, StoreError> {
    let (index, needs_stop) = match next {
        Next::Nothing => return Ok(Step::Nothing),
        Next::NeedsStop(index) => (index, true),
        Next::Do(index) => (index, false),
    };
    let Some((row, command)) = open.into_iter().nth(index) else {
        return Ok(Step::Nothing);
    };
    let command = match command {
        Ok(command) => command,
        Err(error) => {
            fail(scope, &row, String::new(), error.to_string()).await?;
            return Ok(Step::Did(None));
        }
    };
    if let Some(problem) = hopeless(&row, &command, scope.live.is_some()) {
        fail(scope, &row, command.target(), problem).await?;
        return Ok(Step::Did(None));
    }
    let run = Run {
        scope,
        row: &row,
        command: &command,
    };
    if needs_stop {
        return check_first(&run).await;
    }
    if !scope.store.start_command(row.id).await? {
        return Ok(Step::Did(None));
    }
    faults.pass_without_actor(Point::CommandBegun).await?;
    let outcome = timeout(DEADLINE, carry_out(&run)).await;
    let outcome = outcome.unwrap_or(Err(StoreError::Deadline.into()));
    let (wait, asked) = end(&run, outcome).await?;
    turns.note(row.id, wait);
    faults.pass_without_actor(Point::CommandEnded).await?;
    Ok(Step::Did(asked))
}

/// Ends a command that would fail, so that the pipeline is not stopped for it.
async fn check_first(run: &Run<'_>) -> Result<Step, StoreError> {
    let checked = timeout(DEADLINE, check(run)).await;
    match checked.unwrap_or(Err(StoreError::Deadline.into())) {
        Ok(()) => Ok(Step::NeedsStop),
        Err(error) => {
            end(run, Err(error)).await?;
            Ok(Step::Did(None))
        }
    }
}

async fn open(scope: &Scope) -> Result<Vec<Open>, StoreError> {
    let rows = scope.store.open_commands().await?;
    let parsed = rows.into_iter().map(|row| {
        let command = Command::from_parts(&row.kind, &row.arguments);
        (row, command)
    });
    Ok(parsed.collect())
}

/// Why a command that is left from an earlier run is not done, if it is not. What was asked of a worker
/// that ran is not asked of the next one.
fn hopeless(row: &CommandRow, command: &Command, is_live: bool) -> Option<String> {
    let runs = row.interruptions;
    if command.needs() == Needs::RunningWorker && (runs > 0 || !is_live) {
        let problem = "the worker ended before it was done; ask again if it is still wanted";
        return Some(problem.to_owned());
    }
    (runs >= MOST_INTERRUPTIONS).then(|| {
        format!(
            "{runs} runs of the worker ended while it was carried out; find the reason in the log, \
             then ask again"
        )
    })
}

/// Writes what became of a command. Returns when it goes on, and what the process has to do.
async fn end(
    run: &Run<'_>,
    outcome: Result<Outcome, CommandError>,
) -> Result<(Option<Duration>, Option<Asked>), StoreError> {
    let (scope, row) = (run.scope, run.row);
    match outcome {
        Ok(Outcome::Ended) => {
            log_done(scope, row);
            Ok((None, None))
        }
        Ok(Outcome::Done { act, result, asked }) => {
            let entry = run.entry(act);
            let end = CommandEnd::Done(result);
            scope.store.end_command(row.id, &end, Some(&entry)).await?;
            log_done(scope, row);
            Ok((None, asked))
        }
        Ok(Outcome::Later { progress, wait }) => {
            scope.store.note_command_progress(row.id, &progress).await?;
            Ok((Some(wait), None))
        }
        Ok(Outcome::Noted { wait }) => Ok((Some(wait), None)),
        Err(CommandError::Store(error)) if is_transient(&error) => Err(error),
        Err(error) => {
            fail(scope, row, run.command.target(), error.to_string()).await?;
            Ok((None, None))
        }
    }
}

fn log_done(scope: &Scope, row: &CommandRow) {
    if scope.is_logged {
        tracing::info!(
            command = row.id,
            kind = row.kind,
            actor = row.actor,
            "command done"
        );
    }
}

async fn fail(
    scope: &Scope,
    row: &CommandRow,
    target: String,
    problem: String,
) -> Result<(), StoreError> {
    if scope.is_logged {
        tracing::warn!(
            command = row.id,
            kind = row.kind,
            actor = row.actor,
            problem,
            "command failed"
        );
    }
    let entry = AuditEntry {
        actor: row.actor.clone(),
        command: Some(row.id),
        action: row.kind.clone(),
        target,
        before: None,
        after: None,
        reason: row.reason.clone(),
        outcome: AuditOutcome::Failed(problem.clone()),
    };
    let end = CommandEnd::Failed(problem);
    scope.store.end_command(row.id, &end, Some(&entry)).await
}

/// Notes that what was in progress is interrupted. It is done again.
///
/// # Errors
/// If the database fails.
pub(super) async fn interrupt(scope: &Scope) -> Result<(), StoreError> {
    let interrupted = scope.store.interrupt_commands().await?;
    if interrupted > 0 && scope.is_logged {
        tracing::warn!(
            commands = interrupted,
            "commands were interrupted by the end of the last run; they are done again"
        );
    }
    Ok(())
}

/// Carries out the short commands that need no worker, in their order, before the pipeline starts.
///
/// # Errors
/// If the database fails. What is left is done by the next call.
pub async fn carry_out_before_start(scope: &Scope, faults: &Faults) -> Result<(), StoreError> {
    interrupt(scope).await?;
    let mut turns = Turns::default();
    loop {
        let open = open(scope).await?;
        let next = next_short(&open, false);
        if do_next(scope, &mut turns, faults, open, next).await? == Step::Nothing {
            return Ok(());
        }
    }
}

/// Carries out all commands that need no worker, short ones in their order, without a worker.
///
/// # Errors
/// If the database fails. What is left is done by the next call.
pub async fn carry_out_without_worker(scope: &Scope) -> Result<(), StoreError> {
    interrupt(scope).await?;
    let (mut turns, faults) = (Turns::default(), Faults::default());
    loop {
        while step(scope, &mut turns, &faults).await? != Step::Nothing {}
        match turns.soon(Instant::now() + LONGEST_PAUSE) {
            Some(at) => sleep_until(at).await,
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::CommandState;

    fn open(commands: &[(i64, &str, Value)]) -> Vec<Open> {
        let rows = commands.iter().map(|(id, kind, arguments)| {
            let row = CommandRow {
                id: *id,
                kind: (*kind).to_owned(),
                arguments: arguments.clone(),
                actor: "test".to_owned(),
                reason: None,
                created_at: String::new(),
                state: CommandState::Queued,
                started_at: None,
                ended_at: None,
                interruptions: 0,
                progress: None,
                result: None,
                error: None,
            };
            let command = Command::from_parts(kind, arguments);
            (row, command)
        });
        rows.collect()
    }

    fn resync(id: i64) -> (i64, &'static str, Value) {
        (id, "resync", json!({ "did": "did:plc:ann" }))
    }

    #[test]
    fn short_commands_come_in_their_order_before_long_ones_which_take_turns() {
        let now = Instant::now();
        let long = |id| (id, "backfill_cancel", json!({}));
        let mut turns = Turns::default();
        let both = open(&[long(1), long(2), resync(3), resync(4)]);
        assert_eq!(turns.next(&both, true, now), Next::Do(2));
        let longs = open(&[long(1), long(2)]);
        assert_eq!(turns.next(&longs, true, now), Next::Do(0));
        turns.note(1, Some(Duration::ZERO));
        assert_eq!(turns.next(&longs, true, Instant::now()), Next::Do(1));
        turns.note(2, Some(Duration::from_secs(60)));
        let now = Instant::now();
        assert_eq!(turns.next(&longs, true, now), Next::Do(0));
        turns.note(1, Some(Duration::from_secs(60)));
        assert_eq!(turns.next(&longs, true, now), Next::Nothing);
        let later = now + Duration::from_secs(120);
        assert_eq!(turns.next(&longs, true, later), Next::Do(1));
    }

    #[test]
    fn a_command_that_goes_on_soon_is_waited_for_once() {
        let mut turns = Turns::default();
        turns.note(1, Some(Duration::from_secs(3600)));
        let limit = Instant::now() + Duration::from_secs(60);
        assert_eq!(turns.soon(limit), None);
        turns.note(2, Some(Duration::from_secs(1)));
        assert!(turns.soon(limit).is_some());
        assert_eq!(turns.soon(limit), None);
    }

    #[test]
    fn a_command_that_needs_a_worker_waits_for_one_and_holds_up_no_other() {
        let (turns, now) = (Turns::default(), Instant::now());
        let commands = open(&[(1, "backfill_start", json!({})), resync(2)]);
        assert_eq!(turns.next(&commands, false, now), Next::Do(1));
        assert_eq!(turns.next(&commands[..1], false, now), Next::Nothing);
        assert_eq!(turns.next(&commands[..1], true, now), Next::Do(0));
    }

    #[test]
    fn what_needs_a_stopped_pipeline_waits_for_that_and_holds_up_what_comes_behind_it() {
        let (turns, now) = (Turns::default(), Instant::now());
        let reset = (2, "cursor_reset", json!({ "source": "wss://relay/" }));
        let commands = open(&[resync(1), reset.clone(), resync(3)]);
        assert_eq!(turns.next(&commands, true, now), Next::Do(0));
        assert_eq!(turns.next(&commands[1..], true, now), Next::NeedsStop(0));
        assert_eq!(turns.next(&commands[1..], false, now), Next::Do(0));
    }

    #[test]
    fn what_is_no_command_of_this_version_comes_in_its_order_and_fails() {
        let (turns, now) = (Turns::default(), Instant::now());
        let commands = open(&[(1, "explode", json!({})), resync(2)]);
        assert_eq!(turns.next(&commands, true, now), Next::Do(0));
    }
}
