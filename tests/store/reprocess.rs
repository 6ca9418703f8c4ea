//! Stored records are judged again when the rules have changed. Holds invariant 2.10.

use std::sync::Arc;

use bytes::Bytes;
use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::lexicon::Schemas;
use huddle_firehose::model::{NewCommand, Submitted};
use huddle_firehose::repo::reprocess::{Counts, Place, Progress, Reprocessing, judgements};
use huddle_firehose::source::interest::Interest;
use huddle_firehose::source::process::records::Rules;
use huddle_firehose::store::plan::effect::{Effect, RecordChange};
use huddle_firehose::store::rejudge_store::{RejudgeStore, Rejudged, RejudgedRecord, Selection};
use huddle_firehose::store::repo_store::{RepoChange, RepoStore};
use ipld_core::ipld::Ipld;
use serde_json::{Value, json};
use simulated_network::car::address_of;

use crate::fixture::*;

const NOTE: &str = "com.example.note";
const STATE: &str = "SELECT rkey || ' ' || seq || ' ' || coalesce(validity, 'refused') FROM records \
                     ORDER BY rkey";
const LETTERS: &str = "SELECT count(*) FROM dead_letters";

/// Rules under which a note is a text of at most so many bytes.
fn rules(longest: usize, policies: &str) -> Rules {
    let object =
        json!({"type": "object", "properties": {"text": {"type": "string", "maxLength": longest}}});
    let main = json!({"type": "record", "key": "any", "record": object});
    let note = json!({"lexicon": 1, "id": NOTE, "defs": {"main": main}}).to_string();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/lexicons/com/");
    let own = ["atproto/repo/strongRef", "huddle/slotOffer"];
    let own = own.map(|name| std::fs::read_to_string(format!("{folder}{name}.json")).unwrap());
    let documents = own.iter().map(String::as_str).chain([note.as_str()]);
    Rules {
        source: source(),
        interest: Arc::new(Interest::new(["*".parse().unwrap()])),
        schemas: Schemas::load(documents).unwrap(),
        policies: policies.parse().unwrap(),
    }
}

fn cbor(record: &Value) -> Bytes {
    let ipld: Ipld = serde_json::from_value(record.clone()).unwrap();
    serde_ipld_dagcbor::to_vec(&ipld).unwrap().into()
}

fn note(text: &str) -> Value {
    json!({"$type": NOTE, "text": text})
}

/// What the stream makes of a record at commit `n`.
fn came_as(
    rules: &Rules,
    did: &str,
    collection: &str,
    rkey: &str,
    n: u64,
    record: &Value,
) -> Effect {
    let cbor = cbor(record);
    let version = version(did, collection, rkey, n);
    let (change, letter) = rules.judge_again(version, address_of(&cbor), &cbor, &rules.source);
    let letter = letter.map(|letter| RecordChange::DeadLetter(Box::new(letter)));
    Effect::records(letter.into_iter().chain([change]).collect())
}

fn came(rules: &Rules, rkey: &str, n: u64, text: &str) -> Effect {
    came_as(rules, ALICE, NOTE, rkey, n, &note(text))
}

fn all() -> Reprocessing {
    Reprocessing {
        selection: Selection::default(),
        is_forced: false,
        is_dry_run: false,
    }
}

fn of(selection: Selection) -> Reprocessing {
    Reprocessing { selection, ..all() }
}

async fn run(database: &Database, reprocessing: &Reprocessing, rules: &Rules) -> Counts {
    let mut progress = Progress::default();
    while progress.at != Place::Over {
        let step = reprocessing.step(&database.store, rules, &mut progress);
        step.await.unwrap();
    }
    progress.counts
}

#[tokio::test]
async fn a_record_that_was_refused_comes_back_at_its_rev_when_it_is_valid() {
    let database = Database::new().await;
    let strict = rules(3, "reject");
    database
        .apply(&[
            came(&strict, "long", 1, "four"),
            came(&strict, "short", 2, "two"),
        ])
        .await;
    assert_eq!(
        database.column(STATE).await,
        ["long 1 refused", "short 2 valid"]
    );
    assert_eq!(database.number(LETTERS).await, 1);
    let invalid = of(Selection {
        is_invalid_only: true,
        ..Selection::default()
    });
    let counts = run(&database, &invalid, &rules(9, "reject")).await;
    assert_eq!((counts.selected, counts.valid, counts.restored), (1, 1, 1));
    assert_eq!(
        database.column(STATE).await,
        ["long 1 valid", "short 2 valid"]
    );
    assert_eq!(database.number(LETTERS).await, 0);
    let row = "SELECT source || time || (record ->> '$.text') || coalesce(refused_cid, '') || rev FROM records \
               WHERE rkey = 'long'";
    let expected = format!("{}2023-11-14T22:13:21.000Zfour{}", source(), rev(1));
    assert_eq!(database.column(row).await, [expected]);
}

#[tokio::test]
async fn a_record_that_is_no_longer_valid_is_refused_or_flagged_by_its_policy() {
    for (policy, state, letters) in [("reject", "refused", 1), ("flag", "invalid", 0)] {
        let database = Database::new().await;
        database
            .apply(&[came(&rules(9, "reject"), "a", 1, "four")])
            .await;
        let strict = rules(3, policy);
        let counts = run(&database, &all(), &strict).await;
        assert_eq!(counts.refused + counts.invalid, 1);
        assert_eq!(database.column(STATE).await, [format!("a 1 {state}")]);
        assert_eq!(database.number(LETTERS).await, letters);
        // And back.
        let counts = run(&database, &all(), &rules(9, policy)).await;
        assert_eq!(counts.valid, 1);
        assert_eq!(database.column(STATE).await, ["a 1 valid"]);
        assert_eq!(database.number(LETTERS).await, 0);
    }
}

#[tokio::test]
async fn the_rows_of_projections_follow() {
    let database = Database::new().await;
    let offer = json!({
        "$type": "com.huddle.slotOffer", "title": "piano", "startsAt": "2026-03-01T10:00:00Z",
        "endsAt": "2026-03-01T11:00:00Z", "createdAt": "2026-02-01T10:00:00Z",
    });
    let rows = "SELECT count(*) FROM offers_index WHERE title = 'piano'";
    database
        .apply(&[came_as(
            &rules(1, "reject"),
            ALICE,
            "com.huddle.slotOffer",
            "a",
            1,
            &offer,
        )])
        .await;
    // As a hand, or a bug of an earlier version, may leave it.
    database.execute("DELETE FROM offers_index").await;
    run(&database, &all(), &rules(1, "reject")).await;
    assert_eq!(
        database.number(rows).await,
        0,
        "these rules have judged it already"
    );
    let forced = Reprocessing {
        is_forced: true,
        ..all()
    };
    let counts = run(&database, &forced, &rules(1, "reject")).await;
    assert_eq!(counts.as_before, 1);
    assert_eq!(database.number(rows).await, 1);
}

#[tokio::test]
async fn a_dry_run_counts_and_writes_nothing() {
    let database = Database::new().await;
    let strict = rules(3, "reject");
    database
        .apply(&[came(&strict, "a", 1, "four"), came(&strict, "b", 2, "two")])
        .await;
    let before = database.contents().await;
    let dry = Reprocessing {
        is_dry_run: true,
        ..all()
    };
    let counts = run(&database, &dry, &rules(2, "reject")).await;
    assert_eq!(
        (counts.selected, counts.refused, counts.as_before),
        (2, 1, 1)
    );
    assert_eq!(database.contents().await, before);
    let mut wet = run(&database, &all(), &rules(2, "reject")).await;
    // A refused record has a dead letter now, which is looked at too.
    wet.looked_at = counts.looked_at;
    assert_eq!(wet, counts);
}

#[tokio::test]
async fn what_the_rules_have_judged_is_left_as_it_is_and_keeps_its_time() {
    let database = Database::new().await;
    let loose = rules(9, "reject");
    database.apply(&[came(&loose, "a", 1, "four")]).await;
    database
        .execute("UPDATE records SET last_indexed_at = '2020-01-01T00:00:00.000Z'")
        .await;
    let counts = run(&database, &all(), &loose).await;
    assert_eq!((counts.selected, counts.current), (1, 1));
    let counts = run(&database, &all(), &rules(8, "reject")).await;
    assert_eq!((counts.as_before, counts.overtaken), (1, 0));
    let indexed = "SELECT last_indexed_at FROM records";
    assert_eq!(database.column(indexed).await, ["2020-01-01T00:00:00.000Z"]);
}

#[tokio::test]
async fn a_selection_leaves_the_others_alone() {
    let strict = rules(3, "reject");
    let selections = [
        Selection {
            did: Some(Did::parse(BOB).unwrap()),
            ..Selection::default()
        },
        Selection {
            collection: Some("com.example.*".parse().unwrap()),
            did: Some(Did::parse(BOB).unwrap()),
            ..Selection::default()
        },
        Selection {
            collection: Some("com.huddle.*".parse().unwrap()),
            ..Selection::default()
        },
        Selection {
            since: Some("2999-01-01T00:00:00Z".parse().unwrap()),
            ..Selection::default()
        },
    ];
    for (selection, restored) in selections.into_iter().zip([1, 1, 0, 0]) {
        let database = Database::new().await;
        database
            .apply(&[
                came(&strict, "a", 1, "four"),
                came_as(&strict, BOB, NOTE, "b", 1, &note("four")),
                came_as(&strict, BOB, NOTE, "c", 2, &note("two")),
            ])
            .await;
        let counts = run(&database, &of(selection), &rules(9, "reject")).await;
        assert_eq!(counts.restored, restored);
        assert_eq!(database.number(LETTERS).await, 2 - restored as i64);
    }
}

#[tokio::test]
async fn it_goes_on_at_any_step_and_a_step_that_is_done_again_changes_nothing() {
    let database = Database::new().await;
    let strict = rules(3, "reject");
    let effects: Vec<Effect> = (0..1200)
        .map(|n| {
            came(
                &strict,
                &format!("{n:04}"),
                n + 1,
                ["one", "four"][n as usize % 2],
            )
        })
        .collect();
    database.apply(&effects).await;
    let loose = rules(9, "reject");
    let (mut progress, mut steps) = (Progress::default(), 0);
    while progress.at != Place::Over {
        // As after a death: the step is done, and what was kept of it is not.
        let mut lost = progress.clone();
        all()
            .step(&database.store, &loose, &mut lost)
            .await
            .unwrap();
        let kept = serde_json::to_string(&progress).unwrap();
        progress = serde_json::from_str(&kept).unwrap();
        all()
            .step(&database.store, &loose, &mut progress)
            .await
            .unwrap();
        steps += 1;
    }
    assert!(steps >= 4, "{steps}");
    let valid = "SELECT count(*) FROM records WHERE validity = 'valid'";
    assert_eq!(database.number(valid).await, 1200);
    assert_eq!(database.number(LETTERS).await, 0);
}

#[tokio::test]
async fn what_came_meanwhile_is_not_overwritten() {
    let database = Database::new().await;
    let (strict, loose) = (rules(3, "reject"), rules(9, "reject"));
    database
        .apply(&[came(&strict, "a", 1, "four"), came(&strict, "b", 1, "four")])
        .await;
    let page = database
        .store
        .refused(&Selection::default(), 0, Default::default())
        .await
        .unwrap();
    assert_eq!(page.records.len(), 2);
    let records: Vec<RejudgedRecord> = page
        .records
        .into_iter()
        .map(|stored| {
            let (change, letter) =
                loose.judge_again(stored.version, stored.cid, &stored.cbor, &stored.source);
            RejudgedRecord {
                change,
                letter,
                indexed_at: stored.indexed_at,
                taken_from: stored.letter,
            }
        })
        .collect();
    database
        .apply(&[came(&loose, "a", 2, "newer"), delete(ALICE, NOTE, "b", 2)])
        .await;
    let before = database.contents().await;
    let part = Rejudged {
        source: &source(),
        records: &records,
    };
    let written = database
        .store
        .change(RepoChange::Rejudged(&part))
        .await
        .unwrap();
    assert_eq!((written.records, written.stale), (0, 2));
    assert_eq!(database.contents().await, before);
    // The letters of such records are left alone, too.
    let counts = run(&database, &all(), &loose).await;
    assert_eq!(counts.restored, 0);
    assert_eq!(database.number(LETTERS).await, 2);
}

#[tokio::test]
async fn a_worker_with_other_rules_is_told_until_the_records_were_judged_again() {
    let database = Database::new().await;
    let (strict, loose) = (rules(3, "reject"), rules(9, "reject"));
    database
        .apply(&[came(&strict, "a", 1, "four"), came(&strict, "b", 2, "two")])
        .await;
    let store = &database.store;
    let outdated = async |rules: &Rules| {
        let kept = store.kept_collections().await.unwrap();
        assert_eq!(kept, [NOTE]);
        store.compare_rules(&judgements(rules, kept)).await.unwrap()
    };
    assert!(outdated(&strict).await.is_empty());
    assert_eq!(outdated(&loose).await, [NOTE]);
    // Some records may have been judged by the others meanwhile.
    assert_eq!(outdated(&strict).await, [NOTE]);
    let invalid = of(Selection {
        is_invalid_only: true,
        ..Selection::default()
    });
    run(&database, &invalid, &loose).await;
    assert!(outdated(&loose).await.is_empty());
}

#[tokio::test]
async fn records_of_a_version_that_noted_no_rules_are_told_too() {
    let database = Database::new().await;
    let rules = rules(3, "reject");
    database.apply(&[came(&rules, "a", 1, "two")]).await;
    database
        .execute("UPDATE records SET judgement = NULL")
        .await;
    let kept = database.store.kept_collections().await.unwrap();
    let outdated = database
        .store
        .compare_rules(&judgements(&rules, kept))
        .await;
    assert_eq!(outdated.unwrap(), [NOTE]);
}

#[tokio::test]
async fn under_other_rules_a_reprocess_in_progress_begins_anew() {
    let database = Database::new().await;
    let store = &database.store;
    let first = rules(9, "reject");
    database.apply(&[came(&first, "a", 1, "four")]).await;
    let kept = store.kept_collections().await.unwrap();
    let known = judgements(&first, kept.clone());
    store.compare_rules(&known).await.unwrap();
    let new = NewCommand {
        kind: "reprocess".to_owned(),
        arguments: json!({ "all": true }),
        actor: "test".to_owned(),
        reason: None,
        idempotency_key: None,
    };
    let Submitted::New(row) = store.submit_command(&new).await.unwrap() else {
        panic!("it was submitted before");
    };
    let second = rules(3, "reject");
    let far = json!({ "rules": second.digest().stored() });
    store.note_command_progress(row.id, &far).await.unwrap();
    let progress = async || store.command(row.id).await.unwrap().unwrap().progress;
    // Starts under the rules by which it goes, which the records are not judged by yet.
    for _ in 0..2 {
        let others = judgements(&second, kept.clone());
        store.compare_rules(&others).await.unwrap();
        store.restart_reprocessings(second.digest()).await.unwrap();
        assert_eq!(progress().await, Some(far.clone()));
    }
    store.restart_reprocessings(first.digest()).await.unwrap();
    assert_eq!(progress().await, None);
}
