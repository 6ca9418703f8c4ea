//! Dead letters: their groups, what a retry makes of them, and their limits. Holds invariants 2.10 and 13.9.

use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::Bytes;
use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::atproto::verify::Level;
use huddle_firehose::command::{BulkLetters, Command, Scope, carry_out_without_worker};
use huddle_firehose::config::Layers;
use huddle_firehose::lexicon::Schemas;
use huddle_firehose::model::{CommandRow, CommandState, DeadLetter, Stage};
use huddle_firehose::source::interest::Interest;
use huddle_firehose::source::process::records::Rules;
use huddle_firehose::store::letters::LetterFilter;
use huddle_firehose::store::plan::effect::{
    Effect, EffectPart, RecordChange, RecordDelete, RecordVersion, Rejection,
};
use huddle_firehose::store::sqlite::SqliteStore;
use huddle_firehose::worker;
use ipld_core::ipld::Ipld;
use serde_json::{Value, json};
use simulated_network::car::address_of;
use test_support::commands::{new_command, new_row};

use crate::fixture::*;

pub(crate) const OFFER: &str = "com.huddle.slotOffer";
pub(crate) const LETTERS: &str = "SELECT count(*) FROM dead_letters";
const STATE: &str = "SELECT rkey || ' ' || seq || ' ' || coalesce(validity, 'gone') || ' ' || verified \
                     FROM records ORDER BY rkey";
const REPOS: &str = "SELECT did || ' ' || state || ' ' || coalesce(cause, '') FROM repos";

pub(crate) struct Letters {
    pub(crate) database: Database,
    scope: Scope,
}

impl Letters {
    pub(crate) async fn new() -> Self {
        let database = Database::new().await;
        let store = Arc::new(SqliteStore::open(&database.url()).await.unwrap());
        let config = Layers::new().resolve().unwrap().config;
        let options = worker::Options::from(&config);
        let schemas = Schemas::embedded().unwrap();
        let scope = worker::scope(&options, &schemas, store).await.unwrap();
        Self { database, scope }
    }

    /// From now on records are not validated.
    pub(crate) fn relax(&mut self) {
        self.scope.configured.validation = "off".parse().unwrap();
    }

    async fn submit(&self, command: Command) -> i64 {
        let submitted = self.scope.store.submit_command(&new_command(command)).await;
        new_row(submitted.unwrap()).id
    }

    pub(crate) async fn give(&self, command: Command) -> CommandRow {
        let id = self.submit(command).await;
        carry_out_without_worker(&self.scope).await.unwrap();
        self.scope.store.command(id).await.unwrap().unwrap()
    }

    /// Tries all letters again, and returns what became of them.
    pub(crate) async fn retry(&self) -> Value {
        let row = self.give(Command::DeadLettersRetry(all())).await;
        assert_eq!(row.state, CommandState::Done, "{row:?}");
        row.result.unwrap()["became"].clone()
    }
}

fn all() -> BulkLetters {
    BulkLetters {
        all: true,
        ..BulkLetters::default()
    }
}

pub(crate) fn of(filter: LetterFilter) -> BulkLetters {
    BulkLetters {
        filter,
        ..BulkLetters::default()
    }
}

fn strict() -> Rules {
    Rules {
        source: source(),
        interest: Arc::new(Interest::new(["*".parse().unwrap()])),
        schemas: Schemas::embedded().unwrap(),
        policies: "reject".parse().unwrap(),
    }
}

pub(crate) fn proven(rkey: &str, n: u64) -> RecordVersion {
    RecordVersion {
        verified: Some(Level::Chain),
        ..version(ALICE, OFFER, rkey, n)
    }
}

/// What the stream makes of a record whose title is a number.
pub(crate) fn invalid(version: RecordVersion) -> Effect {
    let title = version.seq;
    let record: Ipld = serde_json::from_value(json!({ "$type": OFFER, "title": title })).unwrap();
    let cbor: Bytes = serde_ipld_dagcbor::to_vec(&record).unwrap().into();
    let (change, letter) = strict().judge_again(version, address_of(&cbor), &cbor, &source());
    let letter = RecordChange::DeadLetter(Box::new(letter.unwrap()));
    Effect::records(vec![letter, change])
}

/// What the indexer makes of a record that the database refuses.
fn refused_by_the_database(version: RecordVersion) -> Effect {
    let effects = vec![upsert(version, None)];
    let part = EffectPart {
        effect: 0,
        record: Some(0),
    };
    let reason = "CHECK constraint failed".to_owned();
    let rejection = Rejection { part, reason };
    let mut effects = Effect::without_refused(effects, &source(), vec![rejection]);
    effects.remove(0)
}

/// Holds invariant 2.10.
#[tokio::test]
async fn a_record_that_is_valid_now_is_applied_at_the_rev_that_is_known() {
    let mut letters = Letters::new().await;
    letters.database.apply(&[invalid(proven("a", 1))]).await;
    assert_eq!(letters.retry().await, json!({ "refused": 1 }));
    let tried = "SELECT attempts FROM dead_letters WHERE retried_at IS NOT NULL";
    assert_eq!(letters.database.number(tried).await, 2);

    letters.relax();
    assert_eq!(letters.retry().await, json!({ "applied": 1 }));
    assert_eq!(letters.database.number(LETTERS).await, 0);
    assert_eq!(
        letters.database.column(STATE).await,
        ["a 1 unvalidated chain"]
    );
}

#[tokio::test]
async fn an_old_letter_never_overwrites_what_came_later() {
    let mut letters = Letters::new().await;
    let database = &letters.database;
    database
        .apply(&[invalid(proven("a", 1)), invalid(proven("b", 2))])
        .await;
    database.apply(&[upsert(proven("a", 3), None)]).await;
    let deletion = RecordDelete {
        version: proven("b", 4),
    };
    database
        .apply(&[Effect::records(vec![RecordChange::Delete(deletion)])])
        .await;
    letters.relax();
    assert_eq!(letters.retry().await, json!({ "superseded": 2 }));
    assert_eq!(
        letters.database.column(STATE).await,
        ["a 3 valid chain", "b 4 gone chain"]
    );
    assert_eq!(letters.database.number(LETTERS).await, 0);
}

#[tokio::test]
async fn a_record_that_the_database_refused_is_written_where_no_newer_row_is() {
    let mut letters = Letters::new().await;
    let database = &letters.database;
    let refused = [
        refused_by_the_database(proven("new", 5)),
        refused_by_the_database(proven("old", 6)),
        refused_by_the_database(proven("overtaken", 7)),
    ];
    database.apply(&refused).await;
    database
        .apply(&[
            upsert(proven("old", 1), None),
            upsert(proven("overtaken", 9), None),
        ])
        .await;
    letters.relax();
    assert_eq!(
        letters.retry().await,
        json!({ "applied": 2, "superseded": 1 })
    );
    assert_eq!(
        letters.database.column(STATE).await,
        [
            "new 5 unvalidated chain",
            "old 6 unvalidated chain",
            "overtaken 9 valid chain"
        ]
    );
}

#[tokio::test]
async fn where_a_letter_lacks_what_it_takes_its_repository_is_fetched() {
    let mut letters = Letters::new().await;
    letters.relax();
    for forget in [
        "UPDATE dead_letters SET raw = x''",
        "UPDATE dead_letters SET task = NULL",
        "UPDATE dead_letters SET task = json_remove(task, '$.verified')",
        "UPDATE dead_letters SET task = json_set(task, '$.verified', 'none')",
        // A fetch may have shown that the record is gone.
        "INSERT INTO resyncs (did, cause, started_at, ended_at, rev) \
         VALUES ('did:plc:alice', 'gap', '2999-01-01T00:00:00.000Z', '2999-01-01T00:00:00.000Z', 'x')",
    ] {
        letters.database.execute("DELETE FROM repos").await;
        letters.database.execute("DELETE FROM records").await;
        letters.database.apply(&[invalid(proven("a", 1))]).await;
        letters.database.execute(forget).await;
        assert_eq!(
            letters.retry().await,
            json!({ "fetch_requested": 1 }),
            "{forget}"
        );
        assert_eq!(letters.database.number(LETTERS).await, 0);
        assert_eq!(
            letters.database.column(REPOS).await,
            ["did:plc:alice desynchronized operator"],
            "{forget}"
        );
        assert_eq!(letters.database.column(STATE).await, ["a 1 gone chain"]);
    }
}

#[tokio::test]
async fn what_the_rules_do_not_want_stays_a_letter() {
    let mut letters = Letters::new().await;
    letters.database.apply(&[invalid(proven("a", 1))]).await;
    letters.relax();
    letters.scope.configured.dids_deny = vec![Did::parse(ALICE).unwrap()];
    assert_eq!(letters.retry().await, json!({ "unwanted": 1 }));
    assert_eq!(letters.database.number(LETTERS).await, 1);
    assert_eq!(letters.database.column(STATE).await, ["a 1 gone chain"]);
}

#[tokio::test]
async fn a_dry_run_tells_what_would_become_of_the_letters_and_writes_nothing() {
    let mut letters = Letters::new().await;
    letters
        .database
        .apply(&[invalid(proven("a", 1)), invalid(proven("b", 2))])
        .await;
    letters
        .database
        .apply(&[upsert(proven("b", 3), None)])
        .await;
    letters.relax();
    let before = letters.database.contents().await;
    for command in [Command::DeadLettersRetry, Command::DeadLettersDiscard] {
        let bulk = BulkLetters {
            dry_run: true,
            ..all()
        };
        let row = letters.give(command(bulk)).await;
        let result = row.result.unwrap();
        assert_eq!(
            (&result["dry_run"], &result["done"]),
            (&json!(true), &json!(2))
        );
        let became = &result["became"];
        let expected = [
            json!({ "applied": 1, "superseded": 1 }),
            json!({ "discarded": 2 }),
        ];
        assert!(expected.contains(became), "{became}");
        assert_eq!(letters.database.contents().await, before);
    }
}

#[tokio::test]
async fn a_letter_of_a_sink_has_its_row_told_again() {
    let letters = Letters::new().await;
    letters
        .database
        .apply(&[put(ALICE, "a", 1), put(ALICE, "b", 2)])
        .await;
    let change = "SELECT change FROM records WHERE rkey = 'a'";
    let last = "SELECT last FROM change_feed";
    let before = letters.database.number(last).await;
    for rkey in ["a", "gone"] {
        let letter = DeadLetter {
            stage: Stage::Sink,
            error: "422".to_owned(),
            seq: Some(1),
            did: Some(ALICE.to_owned()),
            uri: Some(uri(ALICE, "com.huddle.profile", rkey)),
            task: None,
            raw: Bytes::from_static(b"\xa0"),
            attempts: 3,
        };
        let letter = [Effect::DeadLetter(Box::new(letter))];
        letters.database.apply(&letter).await;
    }
    assert_eq!(
        letters.retry().await,
        json!({ "superseded": 1, "told_again": 1 })
    );
    assert_eq!(letters.database.number(change).await, before + 1);
    assert_eq!(letters.database.number(last).await, before + 1);
    assert_eq!(letters.database.number(LETTERS).await, 0);
}

#[tokio::test]
async fn frames_wait_for_a_worker_and_what_needs_none_is_done() {
    let mut letters = Letters::new().await;
    let frame = DeadLetter {
        stage: Stage::Poison,
        error: "killed every actor that touched it".to_owned(),
        seq: None,
        did: None,
        uri: None,
        task: None,
        raw: Bytes::from_static(b"\xa1"),
        attempts: 4,
    };
    let frame = Effect::DeadLetter(Box::new(frame));
    letters
        .database
        .apply(&[frame, invalid(proven("a", 1))])
        .await;
    letters.relax();
    let row = letters.give(Command::DeadLettersRetry(all())).await;
    assert_eq!(row.state, CommandState::Running);
    let progress = row.progress.unwrap();
    assert_eq!(progress["became"], json!({ "applied": 1 }));
    assert!(progress["waits_for"].as_str().unwrap().contains("worker"));
    assert_eq!(letters.database.number(LETTERS).await, 1);
}

/// Holds invariant 13.3.
#[tokio::test]
async fn an_interrupted_act_goes_on_behind_the_last_letter_and_counts_each_once() {
    let mut letters = Letters::new().await;
    let effects: Vec<Effect> = (1..=5)
        .map(|n| invalid(proven(&format!("r{n}"), n)))
        .collect();
    letters.database.apply(&effects).await;
    letters.relax();
    letters
        .database
        .execute(
            "CREATE TRIGGER stop BEFORE DELETE ON dead_letters WHEN old.id = 3 \
             BEGIN SELECT raise(FAIL, 'no'); END;",
        )
        .await;
    let id = letters.submit(Command::DeadLettersRetry(all())).await;
    assert!(carry_out_without_worker(&letters.scope).await.is_err());
    let row = letters.scope.store.command(id).await.unwrap().unwrap();
    let progress = row.progress.unwrap();
    assert_eq!((&progress["at"], &progress["done"]), (&json!(2), &json!(2)));
    assert_eq!(letters.database.number(LETTERS).await, 3);

    letters.database.execute("DROP TRIGGER stop").await;
    carry_out_without_worker(&letters.scope).await.unwrap();
    let row = letters.scope.store.command(id).await.unwrap().unwrap();
    let result = row.result.unwrap();
    assert_eq!(result["became"], json!({ "applied": 5 }));
    let ids: Vec<i64> = result["letters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|letter| letter["id"].as_i64().unwrap())
        .collect();
    assert_eq!(ids, [1, 2, 3, 4, 5]);
    let audit = letters.scope.store.audit_rows(None, 10).await.unwrap();
    let actions: Vec<&str> = audit.iter().map(|row| row.action.as_str()).collect();
    assert_eq!(actions, ["dead_letters_retry", "dead_letters_retry_begin"]);
}

#[tokio::test]
async fn letters_are_found_by_each_property_and_discarded_by_the_same() {
    let letters = Letters::new().await;
    let database = &letters.database;
    let bob = RecordVersion {
        did: Did::parse(BOB).unwrap(),
        ..proven("b", 2)
    };
    database
        .apply(&[invalid(proven("a", 1)), invalid(bob), dead_letter(3)])
        .await;
    let store = &letters.scope.store;
    let default = LetterFilter::default;
    let groups = store.letter_groups(&default()).await.unwrap();
    let counts: Vec<(i64, &str)> = groups
        .iter()
        .map(|group| (group.letters, group.stage.as_str()))
        .collect();
    assert_eq!(counts, [(2, "validate"), (1, "decode")]);
    assert_eq!(groups[0].sample, 2, "the newest");
    assert!(groups[0].error.contains("missing"), "{}", groups[0].error);

    let filters = [
        (
            LetterFilter {
                ids: vec![1, 3],
                ..default()
            },
            vec![3, 1],
        ),
        (
            LetterFilter {
                group: groups[0].group.clone(),
                ..default()
            },
            vec![2, 1],
        ),
        (
            LetterFilter {
                stage: Some("decode".to_owned()),
                ..default()
            },
            vec![3],
        ),
        (
            LetterFilter {
                reason: Some("CAR".to_owned()),
                ..default()
            },
            vec![3],
        ),
        (
            LetterFilter {
                collection: Some(OFFER.parse().unwrap()),
                ..default()
            },
            vec![2, 1],
        ),
        (
            LetterFilter {
                collection: Some("com.huddle.*".parse().unwrap()),
                ..default()
            },
            vec![2, 1],
        ),
        (
            LetterFilter {
                collection: Some("com.other.*".parse().unwrap()),
                ..default()
            },
            vec![],
        ),
        (
            LetterFilter {
                did: Some(Did::parse(BOB).unwrap()),
                ..default()
            },
            vec![2],
        ),
        (
            LetterFilter {
                source: Some("wss://other/".to_owned()),
                ..default()
            },
            vec![],
        ),
        (
            LetterFilter {
                since: Some(second(0)),
                ..default()
            },
            vec![3, 2, 1],
        ),
        (
            LetterFilter {
                until: Some(second(0)),
                ..default()
            },
            vec![],
        ),
    ];
    for (filter, expected) in &filters {
        let rows = store.dead_letters(filter, None, 10).await.unwrap();
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        assert_eq!(&ids, expected, "{filter:?}");
        let count = store.count_letters(filter).await.unwrap();
        assert_eq!(count.letters, expected.len() as i64);
    }

    let row = letters
        .give(Command::DeadLettersDiscard(BulkLetters::default()))
        .await;
    assert_eq!(
        row.state,
        CommandState::Failed,
        "an empty filter is a mistake"
    );
    let by_group = LetterFilter {
        group: groups[0].group.clone(),
        ..default()
    };
    let bulk = BulkLetters {
        per_second: NonZeroU32::new(100),
        ..of(by_group)
    };
    let row = letters.give(Command::DeadLettersDiscard(bulk)).await;
    assert_eq!(row.result.unwrap()["became"], json!({ "discarded": 2 }));
    assert_eq!(
        database.column("SELECT stage FROM dead_letters").await,
        ["decode"]
    );
}
