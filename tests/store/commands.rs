//! Commands as rows: order, effects with their audit rows, interruptions. Holds invariants 13.1 to 13.4.

use std::sync::Arc;
use std::time::Duration;

use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::command::{
    self, BulkLetters, Command, CursorSet, KeptSettings, Scope, SettingChange, SettingName,
    carry_out_without_worker,
};
use huddle_firehose::config::Layers;
use huddle_firehose::lexicon::Schemas;
use huddle_firehose::model::{
    AuditRow, CommandEnd, CommandRow, CommandState, NewCommand, Position, SourceId, Submitted,
};
use huddle_firehose::store::letters::LetterFilter;
use huddle_firehose::store::sqlite::{Cancelled, SqliteStore};
use huddle_firehose::store::{Store, WriteBatch};
use huddle_firehose::worker;
use serde_json::json;
use test_support::commands::new_command;

use crate::fixture::*;

struct Commands {
    database: Database,
    scope: Scope,
}

impl Commands {
    async fn new() -> Self {
        let database = Database::new().await;
        let store = Arc::new(SqliteStore::open(&database.url()).await.unwrap());
        let config = Layers::new().resolve().unwrap().config;
        let options = worker::Options::from(&config);
        let schemas = Schemas::embedded().unwrap();
        let scope = worker::scope(&options, &schemas, store).await.unwrap();
        Self { database, scope }
    }

    async fn submit(&self, command: Command) -> i64 {
        match self
            .scope
            .store
            .submit_command(&new(command))
            .await
            .unwrap()
        {
            Submitted::New(row) => row.id,
            other => panic!("{other:?}"),
        }
    }

    /// Gives a command, and carries it out.
    async fn give(&self, command: Command) -> CommandRow {
        let id = self.submit(command).await;
        carry_out_without_worker(&self.scope).await.unwrap();
        self.row(id).await
    }

    async fn row(&self, id: i64) -> CommandRow {
        self.scope.store.command(id).await.unwrap().unwrap()
    }

    async fn audit(&self) -> Vec<AuditRow> {
        self.scope.store.audit_rows(None, 100).await.unwrap()
    }
}

fn new(command: Command) -> NewCommand {
    NewCommand {
        actor: "uid 7".to_owned(),
        reason: Some("a test".to_owned()),
        ..new_command(command)
    }
}

fn resync(did: &str) -> Command {
    let did = Did::parse(did).unwrap();
    Command::Resync { did }
}

fn set_cursor(seq: u64, accept_gap: bool) -> Command {
    Command::CursorSet(CursorSet {
        source: source(),
        seq,
        accept_gap,
        new_source: false,
    })
}

#[tokio::test]
async fn an_effect_its_audit_row_and_the_end_of_its_command_are_one_transaction() {
    let commands = Commands::new().await;
    let row = commands.give(resync(ALICE)).await;
    assert_eq!(row.state, CommandState::Done);
    let audit = commands.audit().await;
    assert_eq!(audit.len(), 1);
    let entry = &audit[0];
    assert_eq!(
        (
            entry.actor.as_str(),
            entry.action.as_str(),
            entry.target.as_str()
        ),
        ("uid 7", "resync", ALICE)
    );
    assert_eq!(entry.outcome, "ok");
    assert_eq!(entry.reason.as_deref(), Some("a test"));
    assert_eq!(entry.before, Some(json!(null)));
    assert_eq!(
        entry.after,
        Some(json!({ "state": "desynchronized", "cause": "operator" }))
    );

    // Where the end cannot be written, nothing of the effect is.
    commands
        .database
        .execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON audit BEGIN SELECT raise(FAIL, 'no'); END;",
        )
        .await;
    let id = commands.submit(resync(BOB)).await;
    assert!(carry_out_without_worker(&commands.scope).await.is_err());
    let repos = "SELECT did FROM repos ORDER BY did";
    assert_eq!(commands.database.column(repos).await, [ALICE]);
    assert_eq!(commands.row(id).await.state, CommandState::Running);

    // The next run sees it as interrupted, and does it again.
    commands.database.execute("DROP TRIGGER refuse").await;
    assert_eq!(commands.scope.store.interrupt_commands().await.unwrap(), 1);
    let row = commands.row(id).await;
    assert_eq!(
        (row.state, row.interruptions),
        (CommandState::Interrupted, 1)
    );
    carry_out_without_worker(&commands.scope).await.unwrap();
    assert_eq!(commands.row(id).await.state, CommandState::Done);
    assert_eq!(commands.database.column(repos).await, [ALICE, BOB]);
    assert_eq!(commands.audit().await.len(), 2);
}

#[tokio::test]
async fn a_command_at_which_three_runs_ended_fails_and_those_behind_it_are_carried_out() {
    let commands = Commands::new().await;
    let (first, second) = (
        commands.submit(resync(ALICE)).await,
        commands.submit(resync(BOB)).await,
    );
    for _ in 0..3 {
        assert!(commands.scope.store.start_command(first).await.unwrap());
        commands.scope.store.interrupt_commands().await.unwrap();
    }
    carry_out_without_worker(&commands.scope).await.unwrap();
    let row = commands.row(first).await;
    assert_eq!(row.state, CommandState::Failed);
    assert!(row.error.unwrap().contains("3 runs of the worker ended"));
    assert_eq!(commands.row(second).await.state, CommandState::Done);
    assert_eq!(
        commands.database.column("SELECT did FROM repos").await,
        [BOB]
    );
}

#[tokio::test]
async fn a_failed_command_is_in_the_audit_with_the_reason() {
    let commands = Commands::new().await;
    commands.give(set_cursor(5, true)).await;
    let row = commands.give(set_cursor(500, false)).await;
    assert_eq!(row.state, CommandState::Failed);
    let error = row.error.unwrap();
    assert!(
        error.contains("seq 5 to seq 500") && error.contains("--accept-gap"),
        "{error}"
    );
    let newest = &commands.audit().await[0];
    assert_eq!(newest.outcome, "failed");
    assert_eq!(newest.problem.as_deref(), Some(error.as_str()));
    let cursor = commands.scope.store.load_cursor(&source()).await.unwrap();
    assert_eq!(cursor.position.seq, 5);
}

#[tokio::test]
async fn a_jump_ahead_that_is_accepted_records_its_gap_and_a_step_back_records_none() {
    let commands = Commands::new().await;
    for (seq, gaps) in [(500, 1), (400, 1)] {
        let row = commands.give(set_cursor(seq, true)).await;
        assert_eq!(row.state, CommandState::Done, "{row:?}");
        let open = "SELECT count(*) FROM gaps WHERE cause = 'cursor_moved'";
        assert_eq!(commands.database.number(open).await, gaps);
    }
    let reset = Command::CursorReset { source: source() };
    assert_eq!(commands.give(reset).await.state, CommandState::Done);
    let unknown = Command::CursorReset {
        source: SourceId::new("wss://other.example/"),
    };
    let refused = commands.give(unknown).await;
    assert!(refused.error.unwrap().contains("unknown source"));
}

/// Holds invariant 13.1.
#[tokio::test]
async fn a_refused_move_leaves_no_source_behind_and_one_that_is_accepted_does() {
    let commands = Commands::new().await;
    commands.give(set_cursor(5, true)).await;
    let of_other = |accept_gap| {
        Command::CursorSet(CursorSet {
            source: SourceId::new("wss://other.example/"),
            seq: 7,
            accept_gap,
            new_source: true,
        })
    };
    let sources = "SELECT source || ' ' || cursor FROM firehose_cursor ORDER BY rowid";
    let before = commands.database.column(sources).await;
    let refused = commands.give(of_other(false)).await;
    assert_eq!(refused.state, CommandState::Failed);
    assert_eq!(commands.database.column(sources).await, before);
    let accepted = commands.give(of_other(true)).await;
    assert_eq!(accepted.state, CommandState::Done, "{accepted:?}");
    let after = commands.database.column(sources).await;
    assert_eq!(after.last().unwrap(), "wss://other.example/ 7");
}

/// A mistyped id must not end as if something had been done.
#[tokio::test]
async fn an_act_on_letters_of_which_none_exists_fails() {
    let commands = Commands::new().await;
    let bulk = || BulkLetters {
        filter: LetterFilter {
            ids: vec![999, 998],
            ..LetterFilter::default()
        },
        ..BulkLetters::default()
    };
    for command in [
        Command::DeadLettersDiscard(bulk()),
        Command::DeadLettersRetry(bulk()),
    ] {
        let row = commands.give(command).await;
        assert_eq!(row.state, CommandState::Failed);
        assert!(row.error.unwrap().contains("998, 999"));
    }
}

/// A variable of a script that was not set must not mean all letters.
#[tokio::test]
async fn an_empty_text_is_no_filter_of_dead_letters() {
    let commands = Commands::new().await;
    let empty = || Some(String::new());
    let of = |reason, group, source, stage| LetterFilter {
        reason,
        group,
        source,
        stage,
        ..LetterFilter::default()
    };
    for filter in [
        of(empty(), None, None, None),
        of(None, empty(), None, None),
        of(None, None, Some(" ".to_owned()), None),
        of(Some("lexicon".to_owned()), None, None, empty()),
    ] {
        for is_discard in [true, false] {
            let bulk = BulkLetters {
                filter: filter.clone(),
                ..BulkLetters::default()
            };
            let row = commands
                .give(match is_discard {
                    true => Command::DeadLettersDiscard(bulk),
                    false => Command::DeadLettersRetry(bulk),
                })
                .await;
            assert_eq!(row.state, CommandState::Failed, "{filter:?}");
            assert!(row.error.unwrap().contains("empty"), "{filter:?}");
        }
    }
}

#[tokio::test]
async fn a_second_request_with_the_same_key_is_the_first_one() {
    let commands = Commands::new().await;
    let store = &commands.scope.store;
    let request = |did| NewCommand {
        idempotency_key: Some("k".to_owned()),
        ..new(resync(did))
    };
    let Submitted::New(first) = store.submit_command(&request(ALICE)).await.unwrap() else {
        panic!("it is not new");
    };
    let again = store.submit_command(&request(ALICE)).await.unwrap();
    assert_eq!(again, Submitted::Known(first.clone()));
    let other = store.submit_command(&request(BOB)).await.unwrap();
    assert_eq!(other, Submitted::KeyIsTaken);

    commands
        .database
        .execute("UPDATE commands SET created_at = '2020-01-01T00:00:00.000Z'")
        .await;
    let later = store.submit_command(&request(BOB)).await.unwrap();
    assert!(matches!(later, Submitted::New(row) if row.id != first.id));
}

#[tokio::test]
async fn a_command_that_waits_can_be_cancelled_and_one_that_ran_cannot() {
    let commands = Commands::new().await;
    let store = &commands.scope.store;
    let waits = commands.submit(Command::BackfillStart {}).await;
    // It needs a worker, and none runs.
    carry_out_without_worker(&commands.scope).await.unwrap();
    assert_eq!(commands.row(waits).await.state, CommandState::Queued);
    let cancelled = store.cancel_command(waits, "uid 7", None).await.unwrap();
    assert_eq!(cancelled, Cancelled::Done);
    assert_eq!(commands.row(waits).await.state, CommandState::Cancelled);
    assert!(!store.start_command(waits).await.unwrap());

    let runs = commands.submit(resync(ALICE)).await;
    assert!(store.start_command(runs).await.unwrap());
    let too_late = store.cancel_command(runs, "uid 7", None).await.unwrap();
    assert_eq!(too_late, Cancelled::TooLate);
    let end = CommandEnd::Failed("a test".to_owned());
    store.end_command(runs, &end, None).await.unwrap();
    assert_eq!(commands.row(runs).await.state, CommandState::Failed);
}

#[tokio::test]
async fn what_was_asked_of_a_worker_that_ended_is_not_asked_of_the_next_one() {
    let commands = Commands::new().await;
    let row = commands.give(Command::Drain {}).await;
    assert_eq!(row.state, CommandState::Failed);
    let error = row.error.unwrap();
    assert!(
        error.contains("the worker ended before it was done"),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_denied_is_a_row_and_an_audit_row_and_is_never_carried_out() {
    let commands = Commands::new().await;
    let store = &commands.scope.store;
    let request = new(resync(ALICE));
    store
        .deny_command(&request, ALICE, "resync needs the role operate")
        .await
        .unwrap();
    carry_out_without_worker(&commands.scope).await.unwrap();
    let rows = store.commands(None, 10).await.unwrap();
    assert_eq!(rows[0].state, CommandState::Denied);
    let entry = &commands.audit().await[0];
    assert_eq!(
        (entry.outcome.as_str(), entry.target.as_str()),
        ("denied", ALICE)
    );
    assert_eq!(
        commands.database.number("SELECT count(*) FROM repos").await,
        0
    );
}

#[tokio::test]
async fn a_setting_of_the_run_time_is_in_force_until_it_is_reset_or_the_configuration_changes() {
    let commands = Commands::new().await;
    let (store, configured) = (&commands.scope.store, &commands.scope.configured);
    let set = |value| Command::SettingSet {
        name: SettingName::Collections,
        value,
        expects: None,
    };
    let added = SettingChange::Items([("app.example.*".to_owned(), true)].into());
    let row = commands.give(set(added)).await;
    assert_eq!(row.state, CommandState::Done, "{row:?}");
    let notes = row.result.unwrap()["notes"].to_string();
    assert!(notes.contains("backfill start"), "{notes}");
    let in_force = async || {
        let kept = command::in_force(store, configured).await.unwrap();
        kept.list(SettingName::Collections)
    };
    assert_eq!(in_force().await, ["com.huddle.*", "app.example.*"]);

    let reset = Command::SettingReset {
        name: SettingName::Collections,
    };
    commands.give(reset).await;
    assert_eq!(in_force().await, ["com.huddle.*"]);

    let whole = SettingChange::Whole(vec!["*".to_owned()]);
    commands.give(set(whole)).await;
    let changed = KeptSettings {
        collections: vec!["com.huddle.booking".parse().unwrap()],
        ..configured.clone()
    };
    let kept = command::adopt(store, &changed).await.unwrap();
    assert_eq!(kept, changed);
    assert_eq!(store.run_time_settings().await.unwrap(), []);
    let entry = &commands.audit().await[0];
    assert_eq!(
        (entry.actor.as_str(), entry.action.as_str()),
        ("configuration", "setting_reset")
    );
    assert_eq!(entry.before, Some(json!(["*"])));
    assert_eq!(entry.after, Some(json!(["com.huddle.booking"])));

    let invalid = commands
        .give(set(SettingChange::Whole(vec!["com.*.x".to_owned()])))
        .await;
    assert!(invalid.error.unwrap().contains("com.*.x"));
}

#[tokio::test]
async fn a_backfill_that_is_cancelled_ends_its_searches_and_forgets_what_it_has_found() {
    let commands = Commands::new().await;
    let started = commands.submit(Command::BackfillStart {}).await;
    commands
        .database
        .execute(
            "INSERT INTO discoveries (collection, started_at) \
             VALUES ('com.huddle.booking', '2026-01-01T00:00:00.000Z'); \
             INSERT INTO repos (did, state, cause, updated_at) VALUES \
             ('did:plc:alice', 'desynchronized', 'backfill', '2026-01-01T00:00:00.000Z'), \
             ('did:plc:bob', 'desynchronized', 'prev_data', '2026-01-01T00:00:00.000Z'), \
             ('did:plc:carol', 'desynchronized', 'backfill', '2026-01-01T00:00:00.000Z');",
        )
        .await;
    let offer = put(ALICE, "o", 3);
    commands.database.apply(&[offer]).await;
    let row = commands.give(Command::BackfillCancel {}).await;
    assert_eq!(row.state, CommandState::Done, "{row:?}");
    assert_eq!(row.result, Some(json!({ "forgotten": 2 })));
    // Records of the first are kept, so it stays.
    let repos = "SELECT did || ' ' || state FROM repos ORDER BY did";
    assert_eq!(
        commands.database.column(repos).await,
        [
            "did:plc:alice unverified_chain",
            "did:plc:bob desynchronized"
        ]
    );
    let open = "SELECT count(*) FROM discoveries WHERE ended_at IS NULL";
    assert_eq!(commands.database.number(open).await, 0);
    assert_eq!(commands.row(started).await.state, CommandState::Cancelled);
}

#[tokio::test]
async fn a_cursor_is_set_back_by_a_time_or_to_the_oldest_mark_which_it_says() {
    let commands = Commands::new().await;
    let store = &commands.scope.store;
    let rewind = |by_seconds| Command::CursorRewind {
        source: source(),
        by_seconds,
    };
    let reach = async |seq| {
        let batch = WriteBatch {
            source: &source(),
            effects: &[],
            position: Position {
                seq,
                time: Some(second(60 * seq)),
            },
            sequence_restarted: false,
        };
        store.apply(&batch).await.unwrap();
        let window = Duration::from_secs(3600 * 24);
        store
            .mark_positions(second(60 * seq), window)
            .await
            .unwrap();
    };
    reach(1).await;
    let unknown = commands.give(rewind(60)).await;
    assert!(unknown.error.unwrap().contains("no position"));
    for seq in 2..=10 {
        reach(seq).await;
    }
    let row = commands.give(rewind(180)).await;
    let result = row.result.unwrap();
    assert_eq!(
        (&result["from"]["seq"], &result["to"]["seq"]),
        (&10.into(), &7.into())
    );
    assert_eq!(result["note"], json!(null));
    let result = commands.give(rewind(86_400)).await.result.unwrap();
    assert_eq!(result["to"]["seq"], 1);
    assert!(
        result["note"]
            .as_str()
            .unwrap()
            .contains("this is the oldest one")
    );
    let gaps = "SELECT count(*) FROM gaps";
    assert_eq!(commands.database.number(gaps).await, 0);
}
