//! Tests the IndexerActor between the FilterActor, the store and the CursorActor.

use std::sync::Arc;
use std::time::Duration;

use cid::Cid;
use huddle_firehose::atproto::syntax::{Nsid, RecordKey, Tid};
use huddle_firehose::config::Config;
use huddle_firehose::model::{Judgement, Position, Stage, Validity};
use huddle_firehose::pipeline::Context;
use huddle_firehose::pipeline::accumulator::{CommitPoint, IndexWork};
use huddle_firehose::pipeline::cursor::CursorMessage;
use huddle_firehose::pipeline::indexer::{IndexerActor, IndexerMessage};
use huddle_firehose::store::StoreError;
use huddle_firehose::store::plan::effect::{
    Effect, EffectPart, RecordChange, RecordUpsert, RecordVersion, Rejection,
};
use ractor::{Actor, ActorRef};
use test_support::neighbours::{Neighbour, arguments_for};
use test_support::running_worker::config;
use test_support::scripted_store::{Answer, ScriptedStore, Transaction, unavailable};
use tokio::time::Instant;

use crate::pipeline_parts::{at, context, decoded, effects, leased};

const BATCH: usize = 100;
const RETRIES: u32 = 3;
const WAIT: Duration = Duration::from_millis(5);

struct Indexer {
    context: Arc<Context>,
    store: Arc<ScriptedStore>,
    actor: ActorRef<IndexerMessage>,
    cursor: Neighbour<CursorMessage>,
}

impl Indexer {
    async fn start() -> Self {
        let (context, store) = context(Config {
            index_batch: BATCH,
            index_retries: RETRIES,
            index_wait: WAIT,
            ..config()
        });
        let cursor = Neighbour::at(&context.cursor).await;
        let arguments = arguments_for(&context);
        let (actor, _) = Actor::spawn(None, IndexerActor, arguments).await.unwrap();
        // The CursorActor does this when it has read the cursor: the first epoch begins.
        context.ledger.restart_at(Position::default(), None);
        Self {
            context,
            store,
            actor,
            cursor,
        }
    }

    /// Sends one batch, with one event for each of `seqs`.
    fn index(&self, seqs: std::ops::RangeInclusive<u64>) {
        let end = at(*seqs.end());
        let mark = |(index, seq)| CommitPoint {
            effects: index + 1,
            position: at(seq),
        };
        let work = IndexWork {
            batch: decoded(leased(&self.context, end.seq), Vec::new(), end),
            commit_points: seqs.clone().enumerate().map(mark).collect(),
            effects: effects(seqs),
            position: end,
            sequence_restarted: false,
            is_suspect: false,
        };
        let message = IndexerMessage::Index(Box::new(work));
        self.actor.cast(message).unwrap();
    }

    /// Sends one batch, with one event for each of `effects`, with seqs from 1 on.
    fn index_commits(&self, effects: Vec<Effect>) {
        let end = at(effects.len() as u64);
        let points = (1..=effects.len()).map(|effects| CommitPoint {
            effects,
            position: at(effects as u64),
        });
        let batch = leased(&self.context, end.seq);
        let work = IndexWork {
            batch: decoded(batch, Vec::new(), end),
            commit_points: points.collect(),
            effects,
            position: end,
            sequence_restarted: false,
            is_suspect: false,
        };
        let message = IndexerMessage::Index(Box::new(work));
        self.actor.cast(message).unwrap();
    }

    /// Asserts that the next message to the CursorActor has this position.
    async fn tells_cursor(&mut self, position: Position) {
        match self.cursor.next().await {
            CursorMessage::Applied(applied) => assert_eq!(applied, position),
            other => panic!("{other:?}"),
        }
    }

    fn acked_seq(&self) -> u64 {
        self.context.ledger.acked_through().seq
    }
}

fn refusal(effect: usize) -> Answer {
    let reason = "a constraint".to_owned();
    let part = EffectPart {
        effect,
        record: None,
    };
    Answer::Error(StoreError::Rejected(vec![Rejection { part, reason }]))
}

/// Holds invariant 1.1.
#[tokio::test(start_paused = true)]
async fn a_hundred_effects_are_one_transaction_and_do_not_wait() {
    let mut indexer = Indexer::start().await;
    let sent_at = Instant::now();
    for batch in 0..10 {
        indexer.index(batch * 10 + 1..=batch * 10 + 10);
    }
    indexer.tells_cursor(at(100)).await;
    assert_eq!(sent_at.elapsed(), Duration::ZERO);
    indexer.cursor.receives_nothing().await;
    let written = indexer.store.written();
    assert_eq!(written.len(), 1);
    assert_eq!(written[0].effects, effects(1..=100));
    assert_eq!(written[0].position, at(100));
    assert_eq!(indexer.acked_seq(), 100);
}

/// Holds invariant 8: effects do not wait for a full transaction.
#[tokio::test(start_paused = true)]
async fn fewer_effects_are_written_after_a_short_wait() {
    let mut indexer = Indexer::start().await;
    let sent_at = Instant::now();
    indexer.index(1..=3);
    indexer.tells_cursor(at(3)).await;
    assert_eq!(sent_at.elapsed(), WAIT);
    assert_eq!(indexer.store.written().len(), 1);
}

/// Holds invariant 1.2: a batch that is written in two transactions is acked after the second.
#[tokio::test(start_paused = true)]
async fn a_batch_is_acked_with_the_last_of_its_effects() {
    let mut indexer = Indexer::start().await;
    indexer.index(1..=150);
    indexer.tells_cursor(at(100)).await;
    assert_eq!(indexer.acked_seq(), 0);
    indexer.tells_cursor(at(150)).await;
    assert_eq!(indexer.acked_seq(), 150);
}

/// Holds invariant 5.4.
#[tokio::test(start_paused = true)]
async fn an_effect_that_is_refused_after_three_retries_becomes_a_dead_letter_alone() {
    let mut indexer = Indexer::start().await;
    let attempts = RETRIES + 1;
    let refusals = (0..attempts).map(|_| refusal(1));
    indexer.store.answer_next(refusals);
    indexer.index(1..=3);
    indexer.tells_cursor(at(3)).await;
    assert_eq!(indexer.store.tries().len(), attempts as usize + 1);
    let [written] = &indexer.store.written()[..] else {
        panic!("one transaction is written");
    };
    let [first, Effect::DeadLetter(letter), third] = &written.effects[..] else {
        panic!("{:?}", written.effects);
    };
    assert_eq!([first, third].map(Clone::clone), effects([1, 3])[..]);
    assert_eq!((letter.stage, letter.attempts), (Stage::Index, attempts));
    assert_eq!((letter.seq, &*letter.error), (Some(2), "a constraint"));
}

/// Holds invariant 5.4: an effect that succeeds at a retry is written unchanged.
#[tokio::test(start_paused = true)]
async fn an_effect_that_succeeds_at_a_retry_is_no_dead_letter() {
    let mut indexer = Indexer::start().await;
    indexer.store.answer_next((0..RETRIES).map(|_| refusal(0)));
    indexer.index(1..=2);
    indexer.tells_cursor(at(2)).await;
    assert_eq!(indexer.store.written()[0].effects, effects(1..=2));
}

/// Holds invariant 1.6: while database writes fail, no effect is skipped.
#[tokio::test(start_paused = true)]
async fn a_failed_transaction_is_tried_until_it_succeeds() {
    let mut indexer = Indexer::start().await;
    let outage = (0..50).map(|_| Answer::Error(unavailable()));
    indexer.store.answer_next(outage);
    indexer.index(1..=2);
    indexer.index(3..=4);
    indexer.tells_cursor(at(4)).await;
    assert_eq!(indexer.store.tries().len(), 51);
    let [written] = &indexer.store.written()[..] else {
        panic!("one transaction is written");
    };
    assert_eq!(written.effects, effects(1..=4));
    assert!(indexer.context.status.snapshot().queue.blocked.is_none());
}

/// Holds invariant 8.3.
#[tokio::test(start_paused = true)]
async fn a_transaction_without_an_answer_is_tried_again() {
    let mut indexer = Indexer::start().await;
    indexer.store.answer_next([Answer::Never]);
    indexer.index(1..=2);
    indexer.tells_cursor(at(2)).await;
    assert_eq!(indexer.store.tries().len(), 2);
    assert_eq!(indexer.acked_seq(), 2);
}

fn sizes(transactions: &[Transaction]) -> Vec<usize> {
    let effects = transactions.iter().map(|transaction| &transaction.effects);
    effects.map(Vec::len).collect()
}

/// Holds invariant 8.11. Time stands still, so each group may be twice as large as the one before.
#[tokio::test(start_paused = true)]
async fn while_there_is_a_backlog_several_batches_are_one_transaction() {
    let mut indexer = Indexer::start().await;
    indexer.index(1..=1520);
    for seq in [100, 300, 700, 1500, 1520] {
        indexer.tells_cursor(at(seq)).await;
    }
    let written = indexer.store.written();
    assert_eq!(sizes(&written), [100, 200, 400, 800, 20]);
    let all = written.into_iter().flat_map(|written| written.effects);
    assert_eq!(all.collect::<Vec<_>>(), effects(1..=1520));
    assert_eq!(indexer.acked_seq(), 1520);
}

/// Holds invariant 5.9: a refused group is written batch by batch, only the refused one is searched,
/// and no group forms before it is settled.
#[tokio::test(start_paused = true)]
async fn a_refused_group_is_taken_apart_and_only_one_effect_becomes_a_dead_letter() {
    let mut indexer = Indexer::start().await;
    indexer.index(1..=100);
    indexer.tells_cursor(at(100)).await;
    let of_group = [Answer::Error(StoreError::Rejected(Vec::new()))];
    let of_batch = (0..=RETRIES).map(|_| refusal(1));
    indexer
        .store
        .answer_next(of_group.into_iter().chain(of_batch));
    indexer.index(101..=700);
    for seq in [200, 300, 700] {
        indexer.tells_cursor(at(seq)).await;
    }
    let tries = indexer.store.tries();
    assert_eq!(sizes(&tries), [100, 200, 100, 100, 100, 100, 100, 100, 400]);
    let written = indexer.store.written();
    assert_eq!(sizes(&written), [100, 100, 100, 400]);
    let letters = |transaction: &Transaction| {
        let letters = transaction.effects.iter().flat_map(Effect::dead_letters);
        letters.map(|letter| letter.seq).collect::<Vec<_>>()
    };
    assert_eq!(letters(&written[1]), [Some(102)]);
    assert_eq!(written.iter().flat_map(letters).count(), 1);
    assert_eq!(indexer.acked_seq(), 700);
}

/// Holds invariant 8.11: what is too large for one transaction is written in smaller ones.
#[tokio::test(start_paused = true)]
async fn a_group_that_misses_its_deadline_is_taken_apart() {
    let mut indexer = Indexer::start().await;
    indexer.index(1..=100);
    indexer.tells_cursor(at(100)).await;
    indexer.store.answer_next([Answer::Never]);
    indexer.index(101..=300);
    for seq in [200, 300] {
        indexer.tells_cursor(at(seq)).await;
    }
    assert_eq!(sizes(&indexer.store.tries()), [100, 200, 100, 100]);
    let blocked = indexer.context.status.snapshot().queue.blocked;
    assert!(blocked.is_none());
}

/// A commit of one record, with `bytes` of it.
fn commit(seq: u64, bytes: usize) -> Effect {
    let Effect::Identity(identity) = effects([seq]).remove(0) else {
        panic!("an identity");
    };
    let version = RecordVersion {
        did: identity.did,
        collection: Nsid::parse("com.huddle.note").unwrap(),
        rkey: RecordKey::parse("one").unwrap(),
        rev: Tid::parse("3jzfcijpj2z2a").unwrap(),
        seq,
        time: identity.time,
        data: Cid::default(),
        verified: None,
    };
    Effect::records(vec![RecordChange::Upsert(Box::new(RecordUpsert {
        version,
        cid: Cid::default(),
        cbor: vec![1; bytes].into(),
        json_bytes: bytes,
        validity: Validity::Unvalidated,
        judgement: Judgement::of(["the rules"]),
        projection: None,
    }))])
}

/// Holds invariant 8.9.
#[tokio::test(start_paused = true)]
async fn an_event_that_is_never_written_in_time_becomes_a_dead_letter_and_the_others_go_on() {
    let mut indexer = Indexer::start().await;
    indexer
        .store
        .answer_next([Answer::Never, Answer::Never, Answer::Never]);
    indexer.index_commits(vec![commit(1, 10), commit(2, 1000), commit(3, 10)]);
    indexer.tells_cursor(at(3)).await;
    assert_eq!(indexer.store.tries().len(), 4);
    let written = indexer.store.written().remove(0).effects;
    assert_eq!((&written[0], &written[2]), (&commit(1, 10), &commit(3, 10)));
    let letters: Vec<_> = written[1].dead_letters().collect();
    assert_eq!(
        (letters[0].stage, letters[0].raw.len()),
        (Stage::Index, 1000)
    );
    assert_eq!((letters[0].attempts, letters.len()), (3, 1));
}

/// A database that answers nothing is not the fault of an event. Holds invariant 8.9.
#[tokio::test(start_paused = true)]
async fn while_the_database_does_not_answer_no_event_is_given_up() {
    let mut indexer = Indexer::start().await;
    indexer.store.answer_next([Answer::Never]);
    indexer.index_commits(vec![commit(1, 10)]);
    tokio::time::sleep(Duration::from_secs(14)).await;
    indexer.store.set_down(true);
    tokio::time::sleep(Duration::from_secs(600)).await;
    indexer.store.set_down(false);
    indexer.tells_cursor(at(1)).await;
    assert_eq!(indexer.store.written()[0].effects, [commit(1, 10)]);
}

/// Neither a transaction nor the question after it has an answer. Holds invariant 8.9.
#[tokio::test(start_paused = true)]
async fn while_the_database_is_silent_no_event_is_given_up() {
    let mut indexer = Indexer::start().await;
    indexer.store.set_silent(true);
    indexer.index_commits(vec![commit(1, 10)]);
    tokio::time::sleep(Duration::from_secs(600)).await;
    indexer.store.set_silent(false);
    indexer.tells_cursor(at(1)).await;
    assert_eq!(indexer.store.written()[0].effects, [commit(1, 10)]);
}

/// Holds invariant 1.5: what is held from an earlier epoch is handed out again.
#[tokio::test(start_paused = true)]
async fn effects_of_an_earlier_epoch_are_not_written() {
    let mut indexer = Indexer::start().await;
    indexer.index(1..=3);
    indexer.context.ledger.begin_epoch();
    let again = indexer.context.ledger.lease_next().unwrap();
    let work = IndexWork {
        batch: decoded(again, Vec::new(), at(3)),
        commit_points: Vec::new(),
        effects: effects(1..=3),
        position: at(3),
        sequence_restarted: false,
        is_suspect: false,
    };
    let message = IndexerMessage::Index(Box::new(work));
    indexer.actor.cast(message).unwrap();
    indexer.tells_cursor(at(3)).await;
    indexer.cursor.receives_nothing().await;
    assert_eq!(indexer.store.tries().len(), 1);
    assert_eq!(indexer.acked_seq(), 3);
}

/// Holds invariant 3.2.
#[tokio::test(start_paused = true)]
async fn effects_are_written_without_a_cursor_actor() {
    let mut indexer = Indexer::start().await;
    indexer.context.cursor.clear();
    indexer.index(1..=2);
    indexer.cursor.receives_nothing().await;
    assert_eq!(indexer.store.cursor(), at(2));
    assert_eq!(indexer.acked_seq(), 2);
}
