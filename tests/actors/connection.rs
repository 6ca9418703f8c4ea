//! Tests the ConnectionActor between a source, the CursorActor and the ledger.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
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

    /// Answers as the CursorActor, which is asked for the resume point.
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

/// Waits longer than a step of the actor takes, but less than any of its timers.
async fn a_moment() {
    sleep(Duration::from_millis(100)).await;
}

/// Holds invariant 1.3: the CursorActor decides where to resume.
#[tokio::test(start_paused = true)]
async fn it_resumes_at_the_cursor_and_enters_what_it_reads() {
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

/// Holds invariant 8: without an answer of the CursorActor, it tries again.
#[tokio::test(start_paused = true)]
async fn it_does_not_dial_without_a_cursor() {
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

/// Holds invariant 4.2.
#[tokio::test(start_paused = true)]
async fn nothing_is_read_while_the_budget_is_spent() {
    let mut connection = Connection::prepare([Script::Silent(frames())]).await;
    let budget = connection.context.budget.clone();
    let charge = budget.charge(budget.limit_bytes());
    connection.run().await;
    connection.resumes(Resume::Oldest).await;
    sleep(10 * SILENCE).await;
    assert_eq!(connection.received(), 0);
    // The wait for the budget does not count as silence of the source.
    assert_eq!(connection.source.asked().len(), 1);
    drop(charge);
    a_moment().await;
    assert_eq!(connection.received(), last_seq(&frames()));
}

/// Holds invariant 8.2.
#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_given_up() {
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

/// Holds invariant 8.2: what comes is a sign of life, whether or not it can be read.
#[tokio::test(start_paused = true)]
async fn frames_that_cannot_be_read_are_no_silence() {
    let garbage = vec![Bytes::from_static(b"no frame"); 20];
    let script = Script::Paced(garbage, SILENCE / 2);
    let mut connection = Connection::start([script]).await;
    connection.resumes(Resume::Oldest).await;
    sleep(9 * SILENCE).await;
    assert_eq!(connection.source.asked().len(), 1);
    assert!(matches!(
        connection.state(),
        ConnectionState::Connected { .. }
    ));
}

/// Holds invariant 8: the same frames that cannot be read are not read again at full speed, however
/// long each connection lasts.
#[tokio::test(start_paused = true)]
async fn a_source_that_brings_nothing_new_that_can_be_read_is_dialled_ever_less_often() {
    const PAUSE: Duration = Duration::from_secs(10);
    let known = [frames()[0].clone(), frames()[1].clone()];
    let garbage = [const { Bytes::from_static(b"no frame") }; 20];
    let sent = [known.as_slice(), &garbage].concat();
    let lasts = PAUSE.as_secs_f64() * sent.len() as f64;
    let scripts = (0..5).map(|_| Script::Paced(sent.clone(), PAUSE));
    let mut connection = Connection::start(scripts).await;
    for _ in 0..6 {
        connection.resumes(Resume::Oldest).await;
    }
    a_moment().await;
    let asked = connection.source.asked();
    let pauses = asked
        .windows(2)
        .map(|pair| (pair[1].0 - pair[0].0).as_secs_f64() - lasts);
    for (pause, least) in pauses.zip([0.7, 1.4, 2.8, 5.6, 11.2]) {
        assert!((least..=2.0 * least).contains(&pause), "{pause} s");
    }
}

/// Holds invariant 8: it tries again, after delays that grow.
#[tokio::test(start_paused = true)]
async fn a_source_that_refuses_is_dialled_again_with_delays_that_double() {
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

/// Holds invariant 6: frames from before a cut are valid.
#[tokio::test(start_paused = true)]
async fn frames_that_were_read_before_a_cut_are_entered() {
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

/// Holds invariant 6.1: the CursorActor handles a cursor that is ahead of the source's log.
#[tokio::test(start_paused = true)]
async fn a_future_cursor_is_reported_to_the_cursor_actor() {
    let refusal = Script::Silent(vec![error("FutureCursor")]);
    let mut connection = Connection::start([refusal]).await;
    connection.resumes(Resume::After(99)).await;
    let message = connection.cursor.next().await;
    assert!(
        matches!(message, CursorMessage::FutureCursor),
        "{message:?}"
    );
}

/// Holds invariant 3.6: a drain ends the reading, and keeps what was read.
#[tokio::test(start_paused = true)]
async fn a_drain_stops_reading() {
    let mut connection = Connection::start([Script::Silent(frames())]).await;
    connection.context.stop_reading.cancel();
    a_moment().await;
    connection.cursor.rest().await;
    assert!(matches!(connection.state(), ConnectionState::Stopped));
    assert_eq!(connection.source.asked(), []);
}
