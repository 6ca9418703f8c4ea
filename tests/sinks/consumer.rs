//! A consumer of one part, whose queue and tables do what a test says. Holds invariants 10.9 and 10.11.

use std::collections::VecDeque;
use std::future::ready;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use huddle_firehose::consume::{Consumer, Pace, Parts, SharedTarget};
use huddle_firehose::model::{Feed, RandomId};
use huddle_firehose::sink::SinkError;
use huddle_firehose::sink::queue::{QueueSource, Taken};
use huddle_firehose::sink::target::{Feeds, TableTarget};
use huddle_firehose::sink::task::Task;
use huddle_firehose::testing::fault::Faults;
use tokio::time::sleep;

use crate::consuming::{HIGH, body};

/// What was asked of the queue and the tables, in its order.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<String>>>);

impl Calls {
    fn note(&self, call: impl Into<String>) {
        self.0.lock().unwrap().push(call.into());
    }

    /// What was asked so far, except what changes nothing.
    fn steps(&self) -> Vec<String> {
        let calls = self.0.lock().unwrap();
        let is_step = |call: &&String| !["extend", "feed f"].contains(&call.as_str());
        calls.iter().filter(is_step).cloned().collect()
    }

    fn count(&self, call: &str) -> usize {
        let calls = self.0.lock().unwrap();
        calls.iter().filter(|made| *made == call).count()
    }
}

/// A part of a queue with one batch, which comes again until it is acked.
struct Part {
    calls: Calls,
    batch: Vec<Taken>,
}

impl Part {
    fn drop_all(&mut self, numbers: &[u64]) {
        self.batch.retain(|taken| !numbers.contains(&taken.number));
    }
}

impl QueueSource for Part {
    fn fetch(&mut self) -> BoxFuture<'_, Result<Vec<Taken>, SinkError>> {
        Box::pin(ready(Ok(self.batch.clone())))
    }

    fn begin<'a>(&'a mut self, numbers: &'a [u64]) -> BoxFuture<'a, Result<(), SinkError>> {
        self.calls.note(format!("begin {numbers:?}"));
        Box::pin(ready(Ok(())))
    }

    fn extend(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        self.calls.note("extend");
        Box::pin(ready(Ok(())))
    }

    fn ack<'a>(&'a mut self, numbers: &'a [u64]) -> BoxFuture<'a, Result<(), SinkError>> {
        self.calls.note(format!("ack {numbers:?}"));
        self.drop_all(numbers);
        Box::pin(ready(Ok(())))
    }

    fn set_aside<'a>(
        &'a mut self,
        number: u64,
        reason: &'a str,
        _attempts: u32,
    ) -> BoxFuture<'a, Result<(), SinkError>> {
        self.calls.note(format!("set aside {number}: {reason}"));
        self.drop_all(&[number]);
        Box::pin(ready(Ok(())))
    }

    fn release(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(ready(()))
    }

    fn has_part(&self) -> bool {
        true
    }

    fn feed<'a>(&'a mut self, id: &'a RandomId) -> BoxFuture<'a, Result<Option<Feed>, SinkError>> {
        self.calls.note(format!("feed {id}"));
        Box::pin(ready(Ok(None)))
    }
}

/// Tables with an answer for each transaction; then they take everything.
struct Tables {
    calls: Calls,
    answers: VecDeque<SinkError>,
    /// The time that a transaction takes for each task.
    pace: Duration,
}

impl TableTarget for Tables {
    fn apply<'a>(
        &'a mut self,
        tasks: &'a [&'a Task],
        _feeds: &'a Feeds,
    ) -> BoxFuture<'a, Result<(), SinkError>> {
        self.calls.note(format!("apply {}", tasks.len()));
        let answer = self.answers.pop_front();
        let takes = self.pace * tasks.len() as u32;
        Box::pin(async move {
            sleep(takes).await;
            answer.map_or(Ok(()), Err)
        })
    }

    fn do_upkeep(&mut self) -> BoxFuture<'_, Result<bool, SinkError>> {
        Box::pin(ready(Ok(false)))
    }
}

/// A consumer with these bodies before it, and its tables.
fn consumer(
    calls: &Calls,
    bodies: &[Bytes],
    answers: impl IntoIterator<Item = SinkError>,
) -> (Consumer, SharedTarget) {
    let tables = Tables {
        calls: calls.clone(),
        answers: answers.into_iter().collect(),
        pace: Duration::ZERO,
    };
    consumer_of(calls, bodies, tables)
}

fn consumer_of(calls: &Calls, bodies: &[Bytes], tables: Tables) -> (Consumer, SharedTarget) {
    let target: SharedTarget = Arc::new(tokio::sync::Mutex::new(Box::new(tables)));
    let batch = (1..).zip(bodies).map(|(number, body)| Taken {
        number,
        body: body.clone(),
        most: usize::MAX,
        verdict: None,
    });
    let part = Part {
        calls: calls.clone(),
        batch: batch.collect(),
    };
    let consumer = Consumer::new(Parts {
        source: Box::new(part),
        target: target.clone(),
        retries: 0,
        faults: Faults::default(),
    });
    (consumer, target)
}

fn bodies(count: u64) -> Vec<Bytes> {
    (1..=count).map(|n| body("e", n, HIGH).into()).collect()
}

/// A task of another part may end the process meanwhile. Then the next consumer halves what was in hand.
#[tokio::test(start_paused = true)]
async fn what_waits_for_its_turn_is_not_in_hand() {
    let calls = Calls::default();
    let (mut consumer, target) = consumer(&calls, &bodies(2), []);
    let turn_of_another = target.lock_owned().await;
    let stepping = tokio::spawn(async move { consumer.step().await });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(calls.count("extend") > 0, "it does not wait yet");
    assert_eq!(calls.steps(), Vec::<String>::new());
    drop(turn_of_another);
    assert_eq!(stepping.await.unwrap(), Ok(Pace::Applied(2)));
    let expected = ["begin [1, 2]", "apply 2", "ack [1, 2]"];
    assert_eq!(calls.steps(), expected);
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_is_not_in_hand_until_it_is_tried_again() {
    let calls = Calls::default();
    let refusal = SinkError::Refused("no".to_owned());
    let (mut consumer, _) = consumer(&calls, &bodies(2), [refusal]);
    assert_eq!(consumer.step().await, Ok(Pace::Applied(0)));
    let expected = ["begin [1, 2]", "apply 2", "begin []"];
    assert_eq!(calls.steps(), expected);
    assert_eq!(consumer.step().await, Ok(Pace::Applied(1)));
}

/// Otherwise the same tasks would be tried for ever.
#[tokio::test(start_paused = true)]
async fn tables_that_are_too_slow_for_a_transaction_get_smaller_ones() {
    let calls = Calls::default();
    // A transaction has 45 s.
    let tables = Tables {
        calls: calls.clone(),
        answers: VecDeque::new(),
        pace: Duration::from_secs(20),
    };
    let (mut consumer, _) = consumer_of(&calls, &bodies(8), tables);
    let mut steps = Vec::new();
    while steps.last() != Some(&Ok(Pace::Idle)) {
        steps.push(consumer.step().await);
        assert!(steps.len() < 20, "{steps:?}");
    }
    let late = steps.iter().filter(|step| step.is_err()).count();
    let applied = steps.iter().filter(|step| **step == Ok(Pace::Applied(2)));
    assert_eq!((late, applied.count(), steps.len()), (2, 4, 7));
    assert_eq!((calls.count("apply 8"), calls.count("apply 4")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_feed_that_the_queue_does_not_know_is_asked_for_once_a_batch() {
    let calls = Calls::default();
    let (mut consumer, _) = consumer(&calls, &bodies(50), []);
    assert_eq!(consumer.step().await, Ok(Pace::Applied(50)));
    assert_eq!(calls.count("feed f"), 1);
}

/// What databases and hosts say is as long as they like.
#[tokio::test(start_paused = true)]
async fn a_reason_from_outside_is_one_line_of_some_hundred_characters() {
    let long = format!("é\n\u{1b}[2J{}", "é".repeat(1 << 20));
    let calls = Calls::default();
    let answers = [
        SinkError::unavailable(&long),
        SinkError::Refused(long.clone()),
    ];
    let no_task = serde_json::json!({
        "type": long, "feed": "f", "epoch": "e", "change": 1, "did": "did:plc:ann",
        "timestamp": "2026-01-01T00:00:00.000Z",
    });
    let mut all = bodies(1);
    all.push(no_task.to_string().into());
    let is_short = |reason: &str| {
        let is_plain = !reason.contains(char::is_control);
        assert!(is_plain && reason.chars().count() < 600, "{reason:.600}");
    };

    let (mut failing, _) = consumer(&calls, &all, answers.clone());
    is_short(&failing.step().await.unwrap_err().to_string());

    let (mut refusing, _) = consumer(&calls, &all, answers.into_iter().skip(1));
    for _ in 0..2 {
        let Ok(Pace::SetAside { reason, .. }) = refusing.step().await else {
            panic!("it was not set aside");
        };
        is_short(&reason);
        assert!(reason.contains("more bytes"), "{reason}");
    }
    let calls = calls.steps();
    let letters = calls.iter().filter(|call| call.starts_with("set aside"));
    assert_eq!(letters.inspect(|call| is_short(call)).count(), 2);
}
