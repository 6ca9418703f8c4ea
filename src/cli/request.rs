//! Gives a command: to the worker that runs on the database, or without one.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::{Instant, sleep};

use huddle_firehose::admin::control::client::{ClientError, ControlClient};
use huddle_firehose::command::{self, Command, Needs};
use huddle_firehose::config::Config;
use huddle_firehose::model::{CommandRow, CommandState, NewCommand, RandomId, Submitted};
use huddle_firehose::store::sqlite::{SqliteStore, path_of};
use huddle_firehose::telemetry::excerpt::shown_json;
use huddle_firehose::worker;

use super::signals::StopSignals;
use super::{database, print, print_error};

/// How long a worker may take to begin to listen.
const START_TIME: Duration = Duration::from_secs(10);
/// How long a worker that still listens may be out of reach, while it starts again.
const RESTART_TIME: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(100);
/// How often it is looked how far a command is.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// A command that is given once, to whichever process takes it.
struct New {
    command: Command,
    reason: Option<String>,
    /// A second request with it is the same command.
    key: String,
}

fn new_key() -> String {
    RandomId::random().to_string()
}

/// Gives `command`, and waits for its end. A command that needs a worker waits for the next one where none
/// runs: its row is returned as it is then. `name` is the command of the command line, for the lock.
///
/// A command that needs a worker for long is not waited for.
pub(super) async fn give(
    config: &Config,
    name: &str,
    command: Command,
    reason: Option<String>,
) -> anyhow::Result<CommandRow> {
    give_and_watch(config, name, command, reason, &mut |_row| {}).await
}

/// The same, and tells `watch` now and then how far the command is.
pub(super) async fn give_and_watch(
    config: &Config,
    name: &str,
    command: Command,
    reason: Option<String>,
    watch: &mut (dyn FnMut(&CommandRow) + Send),
) -> anyhow::Result<CommandRow> {
    let new = New {
        command,
        reason,
        key: new_key(),
    };
    let given = give_new(config, name, new, watch).await;
    given.map_err(|error| database::with_path(config, error))
}

async fn give_new(
    config: &Config,
    name: &str,
    new: New,
    watch: &mut (dyn FnMut(&CommandRow) + Send),
) -> anyhow::Result<CommandRow> {
    let is_awaited = new.command.needs() != Needs::Worker;
    let client = ControlClient::of(&path_of(&config.database_url)?);
    let deadline = Instant::now() + START_TIME;
    loop {
        match give_to_worker(&client, &new).await {
            Ok(row) => return checked(watched(config, &client, row, is_awaited, watch).await?),
            Err(ClientError::NoWorker(_)) => {}
            // The key makes the next request the same command. What takes it is this process, if the
            // worker has ended.
            Err(ClientError::Broken(_)) if Instant::now() < deadline => {
                sleep(RETRY).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        match database::open_to_write(config, name).await {
            Ok((store, _lock)) => {
                return checked(without_worker(config, store, new, watch).await?);
            }
            // It has taken the lock a moment ago, and listens soon.
            Err(error) if database::is_held_by_worker(&error) && Instant::now() < deadline => {
                sleep(RETRY).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether a worker runs on the database: what needs the network does not wait for the next run.
pub(super) async fn has_worker(config: &Config) -> anyhow::Result<bool> {
    let client = ControlClient::of(&path_of(&config.database_url)?);
    let answer = client.operations().await;
    Ok(!matches!(answer, Err(ClientError::NoWorker(_))))
}

/// What is said of work on the network that no worker takes now.
pub(super) const NEXT_RUN: &str = "; no worker runs, so it waits for the next run";

/// Gives a command to the worker that runs. A long one that is in progress already is not given twice.
async fn give_to_worker(client: &ControlClient, new: &New) -> Result<CommandRow, ClientError> {
    if new.command.is_long() {
        let open = client.operations().await?;
        if let Some(same) = open.into_iter().find(|row| is_same(row, &new.command)) {
            tell_same(&same);
            return Ok(same);
        }
    }
    client
        .give(new.command.clone(), new.reason.clone(), &new.key)
        .await
}

/// Waits for the end of a command that the worker has taken, and tells `watch` how far it is. One that is
/// not awaited is only looked at for a moment.
async fn watched(
    config: &Config,
    client: &ControlClient,
    mut row: CommandRow,
    is_awaited: bool,
    watch: &mut (dyn FnMut(&CommandRow) + Send),
) -> anyhow::Result<CommandRow> {
    let mut heard_at = Instant::now();
    while !row.state.is_ended() {
        match client.look(row.id).await {
            Ok(seen) => {
                row = seen;
                heard_at = Instant::now();
                watch(&row);
                if !is_awaited {
                    break;
                }
            }
            Err(error @ ClientError::Refused(_)) => return Err(error.into()),
            // A worker that starts again keeps its socket meanwhile.
            Err(ClientError::NoWorker(_)) => {
                return left(config, row, "the worker has ended").await;
            }
            Err(error) if heard_at.elapsed() > RESTART_TIME => {
                return left(config, row, &error.to_string()).await;
            }
            Err(_) => sleep(RETRY).await,
        }
    }
    Ok(row)
}

/// The row of a command whose worker is out of reach, from the database.
///
/// # Errors
/// If the command has not ended there.
async fn left(config: &Config, known: CommandRow, why: &str) -> anyhow::Result<CommandRow> {
    let store = database::open_to_read(config).await?;
    let row = store.command(known.id).await?.unwrap_or(known);
    match row.state.is_ended() {
        true => Ok(row),
        false => bail!("{}", told_left(&row, why)),
    }
}

/// What becomes of a command whose worker is out of reach.
fn told_left(row: &CommandRow, why: &str) -> String {
    let (id, kind) = (row.id, &row.kind);
    let needs = Command::from_parts(kind, &row.arguments).map(|command| command.needs());
    match needs {
        Ok(Needs::RunningWorker) => {
            format!("{why}, and command {id} ({kind}) is not done; ask again if it is still wanted")
        }
        _ => format!(
            "{why}, and command {id} ({kind}) is not done; it is kept, and the next run goes on with it; \
             `commands list` shows how far it is"
        ),
    }
}

/// Whether a row is of this command.
fn is_same(row: &CommandRow, command: &Command) -> bool {
    Command::from_parts(&row.kind, &row.arguments).is_ok_and(|known| known == *command)
}

fn tell_same(row: &CommandRow) {
    print_error(&format!(
        "the same is in progress already, as command {}",
        row.id
    ));
}

/// The row, unless the command has failed.
fn checked(row: CommandRow) -> anyhow::Result<CommandRow> {
    let error = row.error.as_deref().unwrap_or("no reason is known");
    match row.state {
        CommandState::Done
        | CommandState::Interrupted
        | CommandState::Queued
        | CommandState::Running => Ok(row),
        CommandState::Cancelled => bail!("the command was cancelled"),
        CommandState::Denied | CommandState::Failed => bail!("{error}"),
    }
}

async fn without_worker(
    config: &Config,
    store: SqliteStore,
    new: New,
    watch: &mut (dyn FnMut(&CommandRow) + Send),
) -> anyhow::Result<CommandRow> {
    let needs = new.command.needs();
    if needs == Needs::RunningWorker {
        let path = path_of(&config.database_url)?;
        bail!("no worker runs on {}", path.display());
    }
    let store = Arc::new(store);
    let options = worker::Options::from(config);
    let lexicons = worker::lexicons(&options)?;
    let mut scope = worker::scope(&options, &lexicons.schemas, store.clone()).await?;
    scope.views = lexicons.views.into();
    scope.is_logged = false;
    let id = submit(&store, new).await?;
    for other in &told_others(&store.open_commands().await?, id) {
        print_error(other);
    }
    let mut signals = StopSignals::listen()?;
    let carrying_out = command::carry_out_without_worker(&scope);
    tokio::pin!(carrying_out);
    loop {
        tokio::select! {
            biased;
            signal = signals.next() => {
                print_error(&format!("stopped by {signal}; nothing that was done is undone"));
                break;
            }
            ended = &mut carrying_out => {
                ended?;
                break;
            }
            () = sleep(LOOK_INTERVAL) => {
                if let Some(row) = store.command(id).await? {
                    watch(&row);
                }
            }
        }
    }
    let row = store.command(id).await?;
    row.context("the command is not in the database any more")
}

/// The commands that are carried out too, because they wait or were interrupted, and may take long.
fn told_others(open: &[CommandRow], id: i64) -> Vec<String> {
    let is_possible = |row: &&CommandRow| {
        let command = Command::from_parts(&row.kind, &row.arguments);
        let needs = command.map(|command| command.needs());
        row.id != id && matches!(needs, Ok(Needs::Database | Needs::StoppedPipeline))
    };
    let told = |row: &CommandRow| {
        let why = match row.state {
            CommandState::Queued => "waits",
            _ => "was interrupted",
        };
        let (id, kind) = (row.id, &row.kind);
        format!(
            "carrying out command {id} ({kind}) too, which {why}; a signal leaves the rest for later"
        )
    };
    open.iter().filter(is_possible).map(told).collect()
}

/// Writes the command, and returns its id. A long one that was broken off is gone on with.
async fn submit(store: &SqliteStore, new: New) -> anyhow::Result<i64> {
    let New {
        command,
        reason,
        key,
    } = new;
    if command.is_long() {
        let open = store.open_commands().await?;
        if let Some(same) = open.into_iter().find(|row| is_same(row, &command)) {
            tell_same(&same);
            return Ok(same.id);
        }
    }
    let (kind, arguments) = command.into_parts()?;
    let new = NewCommand {
        kind,
        arguments,
        actor: user()?,
        reason,
        idempotency_key: Some(key),
    };
    match store.submit_command(&new).await? {
        Submitted::New(row) | Submitted::Known(row) => Ok(row.id),
        Submitted::Full | Submitted::KeyIsTaken => {
            bail!("too many commands wait for a worker already; `commands list` shows them")
        }
    }
}

/// Who runs this process, as in the audit.
fn user() -> anyhow::Result<String> {
    // A file of our own has our user, on every system.
    let uid = tempfile::tempfile()?.metadata()?.uid();
    Ok(format!("uid {uid}"))
}

/// Shows what came of a command that has no other output.
pub(super) fn show(row: &CommandRow) -> anyhow::Result<()> {
    if !row.state.is_ended() {
        let id = row.id;
        let text = match row.state {
            CommandState::Queued => {
                format!("command {id} waits for a worker, which begins with it\n")
            }
            _ => format!("command {id} is in progress; `commands list` shows how far it is\n"),
        };
        return Ok(print(&text)?);
    }
    let result = row.result.clone().unwrap_or_default();
    let text = serde_json::to_string_pretty(&result)?;
    Ok(print(&(shown_json(&text) + "\n"))?)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn row(id: i64, kind: &str, arguments: Value, state: CommandState) -> CommandRow {
        CommandRow {
            id,
            kind: kind.to_owned(),
            arguments,
            actor: "test".to_owned(),
            reason: None,
            created_at: String::new(),
            state,
            started_at: None,
            ended_at: None,
            interruptions: 0,
            progress: None,
            result: None,
            error: None,
        }
    }

    #[test]
    fn commands_that_are_carried_out_too_are_told_and_those_that_wait_for_a_worker_are_not() {
        let (running, queued) = (CommandState::Running, CommandState::Queued);
        let resync = json!({ "did": "did:plc:ann" });
        let told = told_others(
            &[
                row(12, "dead_letters_retry", json!({ "all": true }), running),
                row(13, "backfill_start", json!({}), queued),
                row(14, "resync", resync.clone(), queued),
                row(15, "resync", resync, queued),
            ],
            15,
        );
        assert_eq!(
            told,
            [
                "carrying out command 12 (dead_letters_retry) too, which was interrupted; a signal leaves \
                 the rest for later",
                "carrying out command 14 (resync) too, which waits; a signal leaves the rest for later",
            ]
        );
    }

    #[test]
    fn a_command_of_a_worker_that_ended_is_kept_or_has_to_be_given_again() {
        let running = CommandState::Running;
        let kept = told_left(&row(1, "backfill_cancel", json!({}), running), "it ended");
        assert!(kept.contains("command 1 (backfill_cancel)"), "{kept}");
        assert!(kept.contains("`commands list`"), "{kept}");
        let drain = told_left(&row(2, "drain", json!({}), running), "it ended");
        assert!(
            drain.ends_with("ask again if it is still wanted"),
            "{drain}"
        );
    }
}
