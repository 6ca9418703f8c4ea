//! Gives a command: to the worker that runs on the database, or without one.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::{Instant, sleep};

use huddle_firehose::admin::control::client::{ClientError, ControlClient};
use huddle_firehose::command::{self, Command, Needs};
use huddle_firehose::config::Config;
use huddle_firehose::model::{CommandRow, CommandState, NewCommand, Submitted};
use huddle_firehose::store::sqlite::{SqliteStore, path_of};
use huddle_firehose::telemetry::excerpt::shown_json;
use huddle_firehose::worker;

use super::{database, print};

/// How long a worker may take to begin to listen.
const START_TIME: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(100);

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
    let is_awaited = command.needs() != Needs::Worker;
    let client = ControlClient::of(&path_of(&config.database_url)?);
    let deadline = Instant::now() + START_TIME;
    loop {
        match client.give(command.clone(), reason.clone()).await {
            Ok(row) if is_awaited => return checked(client.ended(row, watch).await?),
            Ok(row) => return checked(row),
            Err(ClientError::NoWorker(_)) => {}
            Err(error) => return Err(error.into()),
        }
        match database::open_to_write(config, name).await {
            Ok((store, _lock)) => {
                return checked(without_worker(config, store, command, reason).await?);
            }
            // It has taken the lock a moment ago, and listens soon.
            Err(error) if database::is_held_by_worker(&error) && Instant::now() < deadline => {
                sleep(RETRY).await;
            }
            Err(error) => return Err(error),
        }
    }
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
    command: Command,
    reason: Option<String>,
) -> anyhow::Result<CommandRow> {
    let needs = command.needs();
    if needs == Needs::RunningWorker {
        let path = path_of(&config.database_url)?;
        bail!("no worker runs on {}", path.display());
    }
    let (kind, arguments) = command.into_parts()?;
    let new = NewCommand {
        kind,
        arguments,
        actor: user()?,
        reason,
        idempotency_key: None,
    };
    let store = Arc::new(store);
    let options = worker::Options::from(config);
    let schemas = worker::lexicons(&options)?.schemas;
    let mut scope = worker::scope(&options, &schemas, store.clone()).await?;
    scope.is_logged = false;
    let row = match store.submit_command(&new).await? {
        Submitted::New(row) | Submitted::Known(row) => row,
        Submitted::Full | Submitted::KeyIsTaken => {
            bail!("too many commands wait for a worker already; `commands list` shows them")
        }
    };
    command::carry_out_without_worker(&scope).await?;
    let row = store.command(row.id).await?;
    row.context("the command is not in the database any more")
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
