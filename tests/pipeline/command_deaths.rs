//! The process is killed while it carries out commands: each is carried out once, or seen as interrupted
//! and done again with the same end. Holds invariant 13.3.

use std::num::NonZeroU32;
use std::process::Stdio;
use std::time::Duration;

use huddle_firehose::command::{Command, SettingChange, SettingName};
use huddle_firehose::model::{
    CommandState, DeadLetter, NewCommand, Position, SourceId, Stage, Submitted,
};
use huddle_firehose::store::plan::effect::Effect;
use huddle_firehose::store::sqlite::{Access, Options, SqliteStore};
use huddle_firehose::store::{Store, WriteBatch};
use huddle_firehose::testing::fault::Point;
use huddle_firehose::testing::mock_relay::{MockRelay, Options as RelayOptions};
use test_support::commands::new_command;
use test_support::mock_relay::relay_with;
use test_support::observed_source;
use test_support::recorded_frames::{frames, last_seq};
use test_support::tables::{Database, assert_same_tables};
use test_support::waiting::soon;
use tokio::process::Child;
use tokio::time::sleep;
use url::Url;

use crate::child::{Orders, ended_itself};
use crate::crash::{crashes, seeded};
use crate::history::History;
use crate::program;

/// How often the process is killed, by default.
const KILLS: u32 = 30;
/// The most commands that are given. All of them are on one page of the list.
const MOST: u32 = 400;

fn run(relay: &MockRelay, database: &Database) -> Child {
    program::run(relay, database)
        .args(["--stop-after-idle", "2"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The `n`th command. The last one of each kind decides about the end.
fn command(n: u32, source: &SourceId) -> Command {
    let source = source.clone();
    match n % 4 {
        0 => Command::SourcePause { source },
        1 => Command::SourceResume { source },
        2 => Command::CursorReset { source },
        _ => Command::SettingSet {
            name: SettingName::Validation,
            value: SettingChange::Whole(vec![format!("app.example.n{n}=off")]),
            expects: None,
        },
    }
}

/// Writes commands, as another process would.
async fn submit(database: &Database, source: &SourceId, numbers: std::ops::Range<u32>) {
    let options = Options {
        access: Access::Write,
        ..Options::default()
    };
    // The worker may have been killed before it had made its database.
    let Ok(store) = SqliteStore::open_with(&database.url(), options).await else {
        return;
    };
    for n in numbers {
        let new = NewCommand {
            actor: format!("test {n}"),
            idempotency_key: Some(n.to_string()),
            ..new_command(command(n, source))
        };
        let submitted = store.submit_command(&new).await.unwrap();
        assert!(matches!(submitted, Submitted::New(_) | Submitted::Known(_)));
    }
}

#[tokio::test]
async fn commands_amid_deaths_are_carried_out_once_in_their_order() {
    let mut rng = seeded();
    let frames = frames();
    let end = last_seq(&frames);
    let rate = NonZeroU32::new(1000);
    let relay = relay_with(
        frames,
        RelayOptions {
            rate,
            ..RelayOptions::default()
        },
    )
    .await;
    let source = SourceId::of(&Url::parse(&relay.url()).unwrap());
    let history = History::recorded_from(&relay.url()).await;
    let database = Database::new();
    drop(database.store().await);

    let mut given = 0;
    for _ in 0..crashes(KILLS) {
        let mut process = run(&relay, &database);
        let more = rng.u32(0..4).min(MOST - given);
        submit(&database, &source, given..given + more).await;
        given += more;
        sleep(Duration::from_millis(rng.u64(0..150))).await;
        process.kill().await.unwrap();
    }
    // The last command is one that resumes the source.
    let last = given.next_multiple_of(4) + 2;
    submit(&database, &source, given..last).await;
    let store = SqliteStore::open(&database.url()).await.unwrap();
    let is_over = async || {
        let cursor = store.cursors().await.unwrap();
        let is_at_end = cursor.iter().any(|row| row.position.seq == end);
        is_at_end && store.open_commands().await.unwrap().is_empty()
    };
    while !is_over().await {
        assert!(soon(run(&relay, &database).wait()).await.unwrap().success());
    }
    drop(store);

    let store = SqliteStore::open(&database.url()).await.unwrap();
    let rows = store.commands(None, 500).await.unwrap();
    let ended: Vec<(String, CommandState)> = rows
        .iter()
        .rev()
        .map(|row| (row.actor.clone(), row.state))
        .collect();
    let expected: Vec<_> = (0..last)
        .map(|n| (format!("test {n}"), CommandState::Done))
        .collect();
    assert_eq!(ended, expected);
    let interrupted = rows.iter().filter(|row| row.interruptions > 0).count();
    println!("{last} commands, {interrupted} of them interrupted");
    let audit = store.audit_rows(None, 500).await.unwrap();
    let audited: Vec<String> = audit.iter().rev().map(|row| row.actor.clone()).collect();
    let expected: Vec<String> = (0..last).map(|n| format!("test {n}")).collect();
    assert_eq!(audited, expected, "each has one audit row, in their order");
    assert!(audit.iter().all(|row| row.outcome == "ok"));
    assert!(store.pauses().await.unwrap().is_empty());
    let settings = store.run_time_settings().await.unwrap();
    let newest = (0..last).rev().find(|n| n % 4 == 3).unwrap();
    assert_eq!(
        settings[0].value,
        serde_json::json!([format!("app.example.n{newest}=off")])
    );
    is_whole(&database, &history).await;
}

/// Checks the tables, at the end: before, the cursor may have been reset behind what they hold. A frame that was in hand at three kills is a dead letter of stage `poison`, which the
/// history does not know.
async fn is_whole(database: &Database, history: &History) {
    if !database.copy().has_poison().await {
        history.assert_whole(database).await;
    }
}

/// The points that a worker passes while it carries out a command.
const POINTS: [Point; 6] = [
    Point::CommandStart,
    Point::CommandBegun,
    Point::CommandEnded,
    Point::StoreBegun,
    Point::StoreCommitting,
    Point::StoreCommitted,
];
/// The commands that the child gives itself.
const COMMANDS: u32 = 3;

#[tokio::test]
async fn a_process_that_dies_at_any_point_of_a_command_does_it_once() {
    let relay = relay_with(Vec::new(), RelayOptions::default()).await;
    let mut deaths = 0;
    for point in POINTS {
        for pass in 1..=8 {
            let database = Database::new();
            let mut orders = Orders::new(&relay, &database, 0);
            orders.commands = COMMANDS;
            orders.dies_at = Some((format!("{point:?}"), pass));
            let ended = soon(orders.start().wait()).await.unwrap();
            assert!(ended_itself(ended) || ended.success(), "{ended}");
            deaths += u32::from(ended_itself(ended));
            orders.dies_at = None;
            assert!(soon(orders.start().wait()).await.unwrap().success());

            let store = SqliteStore::open(&database.url()).await.unwrap();
            let rows = store.commands(None, 10).await.unwrap();
            let states: Vec<CommandState> = rows.iter().map(|row| row.state).collect();
            assert_eq!(states, [CommandState::Done; COMMANDS as usize]);
            let audit = store.audit_rows(None, 10).await.unwrap();
            let targets: Vec<&str> = audit.iter().map(|row| row.target.as_str()).collect();
            let accounts = ["did:plc:account2", "did:plc:account1", "did:plc:account0"];
            assert_eq!(targets, accounts, "at pass {pass} of {point:?}");
        }
    }
    println!("{deaths} deaths");
    assert!(deaths > 12);
}

/// The letters that the process tries again, each with a frame of the recording.
const RETRIED: usize = 12;

/// Keeps frames as dead letters, as a worker does that could not read them.
async fn keep_letters(database: &Database) {
    let letters = frames().into_iter().rev().take(RETRIED).rev();
    let letters: Vec<Effect> = letters
        .map(|frame| {
            Effect::DeadLetter(Box::new(DeadLetter {
                stage: Stage::Poison,
                error: "killed every actor that touched it".to_owned(),
                seq: None,
                did: None,
                uri: None,
                task: None,
                raw: frame,
                attempts: 4,
            }))
        })
        .collect();
    let batch = WriteBatch {
        source: &observed_source::id(),
        effects: &letters,
        position: Position { seq: 0, time: None },
        sequence_restarted: false,
    };
    let store = SqliteStore::open(&database.url()).await.unwrap();
    assert_eq!(
        store.apply(&batch).await.unwrap().dead_letters,
        RETRIED as u64
    );
}

/// The records at the end.
pub(crate) async fn records(database: &Database) -> Vec<String> {
    let records = "SELECT uri || ' ' || rev || ' ' || deleted FROM records ORDER BY uri";
    database.rows(records).await
}

/// What became of the letters, and the records.
async fn outcome(database: &Database) -> (serde_json::Value, Vec<String>) {
    let store = SqliteStore::open(&database.url()).await.unwrap();
    let rows = store.commands(None, 10).await.unwrap();
    let states: Vec<CommandState> = rows.iter().map(|row| row.state).collect();
    assert_eq!(states, [CommandState::Done]);
    let audit = store.audit_rows(None, 10).await.unwrap();
    let actions: Vec<&str> = audit.iter().map(|row| row.action.as_str()).collect();
    assert_eq!(actions, ["dead_letters_retry", "dead_letters_retry_begin"]);
    let result = rows[0].result.clone().unwrap();
    (result["became"].clone(), records(database).await)
}

#[tokio::test]
async fn a_process_that_dies_at_any_point_of_a_retry_tries_each_letter_once() {
    let relay = relay_with(Vec::new(), RelayOptions::default()).await;
    let (mut deaths, mut expected) = (0, None);
    for point in POINTS {
        for pass in [1, 2, 3, 5, 8, 13, 21] {
            let database = Database::new();
            keep_letters(&database).await;
            let mut orders = Orders::new(&relay, &database, 0);
            orders.retries = true;
            if expected.is_none() {
                assert!(soon(orders.start().wait()).await.unwrap().success());
                let (became, records) = outcome(&database).await;
                assert!(became["applied"].as_u64().unwrap() > 2, "{became}");
                expected = Some((became, records));
                continue;
            }
            orders.dies_at = Some((format!("{point:?}"), pass));
            let ended = soon(orders.start().wait()).await.unwrap();
            assert!(ended_itself(ended) || ended.success(), "{ended}");
            deaths += u32::from(ended_itself(ended));
            orders.dies_at = None;
            assert!(soon(orders.start().wait()).await.unwrap().success());
            let found = outcome(&database).await;
            assert_eq!(Some(found), expected, "at pass {pass} of {point:?}");
        }
    }
    println!("{deaths} deaths");
    assert!(deaths > 12);
}

/// Holds invariant 13.10.
#[tokio::test]
async fn a_process_that_dies_at_any_point_of_a_rerun_goes_on_from_what_is_durable() {
    let frames = frames();
    let end = last_seq(&frames);
    let relay = relay_with(frames, RelayOptions::default()).await;
    let (mut deaths, mut expected) = (0, Vec::new());
    for point in POINTS {
        for pass in [1, 3, 5, 8, 13] {
            let database = Database::new();
            let position = Position {
                seq: end,
                time: None,
            };
            database.move_cursor(position).await;
            let mut orders = Orders::new(&relay, &database, 0);
            orders.reruns_to = Some(end);
            if !expected.is_empty() {
                orders.dies_at = Some((format!("{point:?}"), pass));
            }
            let ended = soon(orders.start().wait()).await.unwrap();
            assert!(ended_itself(ended) || ended.success(), "{ended}");
            deaths += u32::from(ended_itself(ended));
            orders.dies_at = None;
            assert!(soon(orders.start().wait()).await.unwrap().success());
            let found = records(&database).await;
            if expected.is_empty() {
                expected = found.clone();
            }
            assert!(found.len() > 10);
            assert_eq!(found, expected, "at pass {pass} of {point:?}");
            assert_eq!(database.cursor().await.seq, end);
            let store = SqliteStore::open(&database.url()).await.unwrap();
            let row = store.command(1).await.unwrap().unwrap();
            assert_eq!(row.state, CommandState::Done, "{row:?}");
            assert_eq!(row.result.unwrap()["at"], end);
        }
    }
    println!("{deaths} deaths");
    assert!(deaths > 8);
}

#[tokio::test]
async fn a_process_that_dies_at_any_point_of_a_reprocess_leaves_the_tables_as_it_would_have() {
    let frames = frames();
    let end = last_seq(&frames);
    let relay = relay_with(frames, RelayOptions::default()).await;
    let database = Database::new();
    let orders = Orders::new(&relay, &database, end);
    assert!(soon(orders.start().wait()).await.unwrap().success());
    let expected = database.tables().await;
    let mut deaths = 0;
    for point in [
        Point::CommandEnded,
        Point::ReprocessStepped,
        Point::StoreCommitted,
    ] {
        for pass in 1..=3 {
            let database = database.copy();
            let mut orders = Orders::new(&relay, &database, end);
            orders.reprocesses = true;
            orders.dies_at = Some((format!("{point:?}"), pass));
            let ended = soon(orders.start().wait()).await.unwrap();
            assert!(ended_itself(ended) || ended.success(), "{ended}");
            deaths += u32::from(ended_itself(ended));
            orders.dies_at = None;
            assert!(soon(orders.start().wait()).await.unwrap().success());
            assert_same_tables(&database.tables().await, &expected);
            let store = SqliteStore::open(&database.url()).await.unwrap();
            let row = store.command(1).await.unwrap().unwrap();
            assert_eq!(row.state, CommandState::Done, "{row:?}");
        }
    }
    println!("{deaths} deaths");
    assert!(deaths > 4);
}
