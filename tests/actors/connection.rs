//! The ConnectionActor between a source, the CursorActor and the ledger.

use std::sync::Arc;
use std::time::Duration;

use huddle_firehose::config::Config;
use huddle_firehose::model::Position;
use huddle_firehose::pipeline::Context;
use huddle_firehose::pipeline::connection::ConnectionActor;
use huddle_firehose::pipeline::cursor::CursorMessage;
use huddle_firehose::source::Resume;
use huddle_firehose::telemetry::status::ConnectionState;
use ractor::Actor;
use simulated_network::frame::error;
use test_support::neighbours::{self, Neighbour, arguments_for};
use test_support::recorded_frames::{frames, last_seq};
use test_support::running_worker::config;
use test_support::scripted_source::{Script, ScriptedSource};
use test_support::scripted_store::ScriptedStore;
use tokio::time::sleep;

const SILENCE: Duration = Duration::from_secs(30);

struct Connection {
    context: Arc<Context>,
    source: Arc<ScriptedSource>,
    cursor: Neighbour<CursorMessage>,
}

impl Connection {
    async fn prepare(scripts: impl IntoIterator<Item = Script>) -> Self {
        let source = ScriptedSource::new(scripts);
        let ms = Duration::from_millis;
        let config = Config {
            reconnect_min: ms(1000),
            reconnect_max: ms(60_000),
            silence_min: SILENCE,
            silence_max: SILENCE,
            ..config()
        };
        let context = neighbours::context(config, source.clone(), ScriptedStore::empty());
        context.ledger.restart_at(Position::default(), None);
        let cursor = Neighbour::at(&context.cursor).await;
        Self {
            context,
            source,
            cursor,
        }
    }

    async fn start(scripts: impl IntoIterator<Item = Script>) -> Self {
        let connection = Self::prepare(scripts).await;
        connection.run().await;
        connection
    }

    async fn run(&self) {
        let arguments = arguments_for(&self.context);
        Actor::spawn(None, ConnectionActor, arguments)
            .await
            .unwrap();
    }

    /// The CursorActor is asked where to go on, and answers.
    async fn resumes(&mut self, resume: Resume) {
        match self.cursor.next().await {
            CursorMessage::Resume(reply) => reply.send(Some(resume)).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn received(&self) -> u64 {
        self.context.ledger.received()
    }

    fn state(&self) -> ConnectionState {
        let sources = self.context.status.snapshot().sources;
        sources.into_values().next().unwrap().connection
    }
}

/// Longer than a step of the actor takes, and shorter than it waits for anything.
async fn a_moment() {
    sleep(Duration::from_millis(100)).await;
}

/// Rule 1: the cursor never leads. Where to go on is the CursorActor's to say.
#[tokio::test(start_paused = true)]
async fn the_source_is_asked_for_what_the_cursor_says_and_what_comes_is_entered() {
    let mut connection = Connection::start([Script::Silent(frames())]).await;
    assert_eq!(connection.source.asked(), []);
    connection.resumes(Resume::With(5)).await;
    a_moment().await;
    let asked = connection.source.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].1, Resume::With(5));
    assert_eq!(connection.received(), last_seq(&frames()));
    assert!(connection.context.ledger.has_unacked());
}

/// Rule 8: nothing waits forever. Without an answer of the cursor there is no dial, and a next attempt.
#[tokio::test(start_paused = true)]
async fn nothing_is_dialled_while_the_cursor_cannot_say() {
    let mut connection = Connection::start([Script::Silent(frames())]).await;
    match connection.cursor.next().await {
        CursorMessage::Resume(reply) => reply.send(None).unwrap(),
        other => panic!("{other:?}"),
    }
    a_moment().await;
    assert_eq!(connection.source.asked(), []);
    assert!(matches!(
        connection.state(),
        ConnectionState::BackingOff { .. }
    ));
    connection.resumes(Resume::Oldest).await;
    a_moment().await;
    assert_eq!(connection.source.asked().len(), 1);
}

/// Rule 4: memory is bounded by bytes.
#[tokio::test(start_paused = true)]
async fn nothing_is_read_while_the_budget_is_spent() {
    let mut connection = Connection::prepare([Script::Silent(frames())]).await;
    let budget = connection.context.budget.clone();
    let charge = budget.charge(budget.limit_bytes());
    connection.run().await;
    connection.resumes(Resume::Oldest).await;
    sleep(10 * SILENCE).await;
    assert_eq!(connection.received(), 0);
    // Nor is it taken for the source's silence.
    assert_eq!(connection.source.asked().len(), 1);
    drop(charge);
    a_moment().await;
    assert_eq!(connection.received(), last_seq(&frames()));
}

/// Rule 8: nothing waits forever.
#[tokio::test(start_paused = true)]
async fn a_connection_that_carries_nothing_is_given_up() {
    let mut connection = Connection::start([Script::Silent(vec![])]).await;
    connection.resumes(Resume::Oldest).await;
    a_moment().await;
    assert!(matches!(
        connection.state(),
        ConnectionState::Connected { .. }
    ));
    connection.resumes(Resume::Oldest).await;
    a_moment().await;
    let asked = connection.source.asked();
    assert!(asked[1].0 - asked[0].0 >= SILENCE);
}

/// Rule 8: nothing waits forever, and nobody is asked without a pause.
#[tokio::test(start_paused = true)]
async fn a_source_that_refuses_is_asked_again_after_pauses_that_double() {
    let refused = (0..4).map(|_| Script::Refused(500));
    let mut connection = Connection::start(refused).await;
    for _ in 0..5 {
        connection.resumes(Resume::Oldest).await;
    }
    a_moment().await;
    let asked: Vec<_> = connection
        .source
        .asked()
        .into_iter()
        .map(|it| it.0)
        .collect();
    let pauses = asked.windows(2).map(|pair| pair[1] - pair[0]);
    for (pause, least) in pauses.zip([0.7, 1.4, 2.8, 5.6]) {
        let pause = pause.as_secs_f64();
        assert!((least..=2.0 * least).contains(&pause), "{pause} s");
    }
}

/// Rule 6: no silent gap. What came before a connection was cut is good.
#[tokio::test(start_paused = true)]
async fn what_was_read_before_a_cut_is_entered() {
    let frames = frames();
    let (before, after) = frames.split_at(20);
    let scripts = [Script::Cut(before.to_vec()), Script::Silent(after.to_vec())];
    let mut connection = Connection::start(scripts).await;
    connection.resumes(Resume::Oldest).await;
    a_moment().await;
    assert_eq!(connection.received(), last_seq(before));
    connection.resumes(Resume::After(last_seq(before))).await;
    a_moment().await;
    assert_eq!(connection.received(), last_seq(after));
}

/// Rule 6: no silent gap. That the cursor lies ahead of the source's log is the CursorActor's to mend.
#[tokio::test(start_paused = true)]
async fn the_cursor_is_told_that_it_lies_ahead_of_the_source() {
    let refusal = Script::Silent(vec![error("FutureCursor")]);
    let mut connection = Connection::start([refusal]).await;
    connection.resumes(Resume::After(99)).await;
    let told = connection.cursor.next().await;
    assert!(matches!(told, CursorMessage::FutureCursor), "{told:?}");
}

/// Rule 3: a drain ends the reading and leaves what was read.
#[tokio::test(start_paused = true)]
async fn nothing_is_read_once_reading_is_to_stop() {
    let mut connection = Connection::start([Script::Silent(frames())]).await;
    connection.context.stop_reading.cancel();
    a_moment().await;
    connection.cursor.rest().await;
    assert!(matches!(connection.state(), ConnectionState::Stopped));
    assert_eq!(connection.source.asked(), []);
}
