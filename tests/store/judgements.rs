//! A record is judged again when the rules are others. Holds invariant 2.9.

use cid::Cid;
use huddle_firehose::atproto::verify::Level;
use huddle_firehose::model::Judgement;
use huddle_firehose::store::plan::effect::{Effect, RecordChange, RecordRefusal};
use huddle_firehose::store::repo_store::{HeldRange, RepoStore};

use crate::commits::*;
use crate::fixture::*;

const STATE: &str = "SELECT rkey || ' ' || seq || CASE deleted WHEN 1 THEN ' ' \
     || coalesce(invalid_reason, 'deleted') ELSE ' kept' END FROM records ORDER BY rkey";
const VERIFIED: &str = "SELECT verified FROM records";

/// Commit `n` put a value that these rules refuse.
fn refuse(n: u64, rules: &str) -> Effect {
    let refusal = RecordRefusal {
        version: version(ALICE, PROFILE, "a", n),
        cid: Cid::default(),
        judgement: Judgement::of([rules]),
        reason: format!("refused by {rules}"),
    };
    Effect::records(vec![RecordChange::Refuse(Box::new(refusal))])
}

/// Commit `n` put a value that these rules keep.
fn keep(n: u64, rules: &str) -> Effect {
    let mut effect = put(ALICE, "a", n);
    if let Effect::Commit(commit) = &mut effect
        && let [RecordChange::Upsert(upsert)] = commit.records.as_mut_slice()
    {
        upsert.judgement = Judgement::of([rules]);
    }
    effect
}

fn at_level(mut effect: Effect, level: Level) -> Effect {
    if let Effect::Commit(commit) = &mut effect
        && let [RecordChange::Upsert(upsert)] = commit.records.as_mut_slice()
    {
        upsert.version.verified = Some(level);
    }
    effect
}

#[tokio::test]
async fn a_refused_value_comes_back_at_the_same_rev_when_the_rules_accept_it() {
    let database = Database::new().await;
    database.apply(&[refuse(2, "old rules")]).await;
    assert_eq!(database.column(STATE).await, ["a 2 refused by old rules"]);
    let written = database.apply(&[keep(2, "new rules")]).await;
    assert_eq!((written.records, written.stale), (1, 0));
    assert_eq!(database.column(STATE).await, ["a 2 kept"]);
    // And the other way round.
    database.apply(&[refuse(2, "strict rules")]).await;
    assert_eq!(
        database.column(STATE).await,
        ["a 2 refused by strict rules"]
    );
}

#[tokio::test]
async fn the_same_judgement_of_the_same_rev_writes_nothing() {
    for effect in [refuse(2, "rules"), keep(2, "rules")] {
        let database = Database::new().await;
        database.apply(std::slice::from_ref(&effect)).await;
        let contents = database.contents().await;
        let again = database.apply(&[effect]).await;
        assert_eq!((again.records, again.stale), (0, 1));
        assert_eq!(database.contents().await, contents);
    }
}

#[tokio::test]
async fn a_full_replay_under_other_rules_judges_again_though_its_seqs_are_lower() {
    let database = Database::new().await;
    let history = |rules: &str| [refuse(1, rules), keep(2, rules), keep(3, rules)];
    database.try_apply(&history("old rules"), 9).await.unwrap();
    let stored = "SELECT judgement || '' FROM records";
    let new_rules = Judgement::of(["new rules"]).stored().to_string();
    assert_ne!(
        database.column(stored).await,
        std::slice::from_ref(&new_rules)
    );
    let replayed = database.try_apply(&history("new rules"), 9).await.unwrap();
    assert_eq!(replayed.records, 1);
    assert_eq!(database.column(STATE).await, ["a 3 kept"]);
    assert_eq!(database.column(stored).await, [new_rules]);
}

#[tokio::test]
async fn an_older_rev_never_replaces_a_newer_one_whatever_the_rules() {
    let database = Database::new().await;
    database.apply(&[keep(3, "old rules")]).await;
    for older in [keep(2, "new rules"), refuse(2, "new rules")] {
        assert_eq!(database.apply(&[older]).await.records, 0);
    }
    assert_eq!(database.column(STATE).await, ["a 3 kept"]);
}

#[tokio::test]
async fn a_deleted_record_does_not_come_back_at_the_same_rev() {
    let database = Database::new().await;
    database.apply(&[delete(ALICE, PROFILE, "a", 2)]).await;
    database.apply(&[keep(2, "new rules")]).await;
    assert_eq!(database.column(STATE).await, ["a 2 deleted"]);
}

#[tokio::test]
async fn the_level_of_the_same_value_rises_and_never_falls() {
    let database = Database::new().await;
    for (effect, verified) in [
        (keep(2, "rules"), "none"),
        (at_level(keep(2, "rules"), Level::Commit), "commit"),
        (at_level(keep(2, "rules"), Level::Chain), "chain"),
        (at_level(keep(2, "rules"), Level::Commit), "chain"),
        (keep(2, "other rules"), "chain"),
    ] {
        database.apply(&[effect]).await;
        assert_eq!(database.column(VERIFIED).await, [verified]);
    }
}

#[tokio::test]
async fn a_resync_sees_what_was_refused_and_by_which_rules() {
    let database = Database::new().await;
    database.apply(&[refuse(2, "rules")]).await;
    let range = HeldRange {
        did: &did(ALICE),
        after: "",
        through: None,
        limit: 10,
    };
    let held = database.store.held(range).await.unwrap();
    assert_eq!(held[0].cid, None);
    assert_eq!(held[0].refused_cid, Some(Cid::default().to_string()));
    assert_eq!(held[0].judgement, Some(Judgement::of(["rules"])));
}
