//! The mock relay as a client sees it, and recordings of it.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;
use huddle_firehose::source::error::ReadError;
use huddle_firehose::source::recorder::{Ending, record};
use huddle_firehose::source::{Frames, Resume};
use huddle_firehose::testing::mock_relay::{MockRelay, Options, Repeat};
use huddle_firehose::testing::recording::{self, RecordingWriter};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_ipld_dagcbor::de::Deserializer;
use tokio_util::sync::CancellationToken;

use super::{connect, read, read_to_end, source};

/// An `#identity` frame, reduced to its seq.
fn frame(seq: u64) -> Bytes {
    let header = b"\xa2\x61t\x69#identity\x62op\x01".as_slice();
    let payload = serde_ipld_dagcbor::to_vec(&BTreeMap::from([("seq", seq)])).unwrap();
    [header, &payload].concat().into()
}

fn renumber(_frame: &[u8], seq: u64) -> Option<Vec<u8>> {
    Some(frame(seq).to_vec())
}

#[derive(Debug, Deserialize)]
struct Payload {
    seq: Option<u64>,
    name: Option<String>,
    error: Option<String>,
}

fn payload(frame: &[u8]) -> Payload {
    let mut frame = Deserializer::from_slice(frame);
    IgnoredAny::deserialize(&mut frame).unwrap();
    Payload::deserialize(&mut frame).unwrap()
}

fn seqs(frames: &[Bytes]) -> Vec<u64> {
    let seq = |frame: &Bytes| payload(frame).seq.unwrap();
    frames.iter().map(seq).collect()
}

async fn relay(count: u64, options: Options) -> MockRelay {
    let frames = (1..=count).map(frame).collect();
    MockRelay::start(frames, options).await.unwrap()
}

/// A relay of ten frames that closes after the last one.
async fn short_relay(options: Options) -> MockRelay {
    let close_at_end = true;
    relay(
        10,
        Options {
            close_at_end,
            ..options
        },
    )
    .await
}

async fn follow(relay: &MockRelay, resume: Resume) -> (Vec<Bytes>, ReadError) {
    let mut frames = connect(&relay.url(), resume).await;
    read_to_end(frames.as_mut()).await
}

#[tokio::test]
async fn the_relay_serves_from_the_oldest_event_or_after_the_cursor() {
    let relay = short_relay(Options::default()).await;
    let (frames, end) = follow(&relay, Resume::Oldest).await;
    assert_eq!(seqs(&frames), (1..=10).collect::<Vec<_>>());
    assert!(
        matches!(
            end,
            ReadError::Closed {
                code: Some(1000),
                ..
            }
        ),
        "{end}"
    );
    let (frames, _) = follow(&relay, Resume::After(7)).await;
    assert_eq!(seqs(&frames), [8, 9, 10]);
    assert_eq!(relay.connections(), 2);
}

#[tokio::test]
async fn without_a_cursor_only_later_events_are_served() {
    let relay = relay(10, Options::default()).await;
    let mut frames = connect(&relay.url(), Resume::Live).await;
    // The relay decides the start after the handshake, so events are pushed until one arrives.
    let pushing = async {
        for seq in 11.. {
            relay.push(frame(seq));
            tokio::task::yield_now().await;
        }
    };
    let first = tokio::select! {
        first = read(frames.as_mut(), 1) => first,
        () = pushing => unreachable!(),
    };
    assert!(seqs(&first)[0] > 10);
}

#[tokio::test]
async fn a_client_at_the_live_end_gets_new_events() {
    let relay = relay(10, Options::default()).await;
    let mut frames = connect(&relay.url(), Resume::After(9)).await;
    assert_eq!(seqs(&read(frames.as_mut(), 1).await), [10]);
    relay.push(frame(11));
    assert_eq!(seqs(&read(frames.as_mut(), 1).await), [11]);
}

#[tokio::test]
async fn a_cursor_in_the_future_is_answered_by_an_error_frame_and_the_end() {
    let relay = relay(10, Options::default()).await;
    let (frames, end) = follow(&relay, Resume::After(11)).await;
    let error = payload(&frames[0]).error;
    assert_eq!(error.as_deref(), Some("FutureCursor"));
    assert_eq!(frames.len(), 1);
    assert!(matches!(end, ReadError::Closed { .. }), "{end}");
}

#[tokio::test]
async fn the_notice_of_an_outdated_cursor_comes_before_the_oldest_event() {
    let window_start = Some(5);
    let relay = short_relay(Options {
        window_start,
        ..Options::default()
    })
    .await;
    let (frames, _) = follow(&relay, Resume::After(2)).await;
    let info = payload(&frames[0]).name;
    assert_eq!(info.as_deref(), Some("OutdatedCursor"));
    assert_eq!(seqs(&frames[1..]), [5, 6, 7, 8, 9, 10]);
}

#[tokio::test]
async fn an_inclusive_relay_sends_the_event_at_the_cursor_again() {
    let inclusive = true;
    let relay = short_relay(Options {
        inclusive,
        ..Options::default()
    })
    .await;
    let (frames, _) = follow(&relay, Resume::After(9)).await;
    assert_eq!(seqs(&frames), [9, 10]);
}

#[tokio::test]
async fn a_connection_that_is_cut_has_been_sent_its_share() {
    let drop_after = Some(3);
    let relay = relay(
        10,
        Options {
            drop_after,
            ..Options::default()
        },
    )
    .await;
    let (frames, end) = follow(&relay, Resume::Oldest).await;
    assert_eq!(seqs(&frames), [1, 2, 3]);
    assert!(matches!(end, ReadError::Reset), "{end}");
    let (frames, _) = follow(&relay, Resume::After(3)).await;
    assert_eq!(seqs(&frames), [4, 5, 6]);
}

#[tokio::test]
async fn repeated_frames_have_ascending_seqs() {
    let repeat = Some(Repeat {
        times: 300,
        renumber,
    });
    let relay = short_relay(Options {
        repeat,
        ..Options::default()
    })
    .await;
    let (frames, _) = follow(&relay, Resume::Oldest).await;
    assert_eq!(seqs(&frames), (1..=3000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_relay_with_a_rate_sends_no_faster() {
    let rate = NonZeroU32::new(100);
    let relay = short_relay(Options {
        rate,
        ..Options::default()
    })
    .await;
    let begin = tokio::time::Instant::now();
    let (frames, _) = follow(&relay, Resume::Oldest).await;
    assert_eq!(frames.len(), 10);
    assert!(begin.elapsed() >= Duration::from_millis(90));
}

#[tokio::test]
async fn a_relay_that_is_stopped_cuts_its_connections() {
    let relay = relay(1, Options::default()).await;
    let mut frames = connect(&relay.url(), Resume::Oldest).await;
    read(frames.as_mut(), 1).await;
    relay.stop().await;
    let (_, end) = read_to_end(frames.as_mut()).await;
    assert!(matches!(end, ReadError::Reset), "{end}");
}

#[tokio::test]
async fn a_cursor_that_is_no_number_is_a_bad_request() {
    let relay = relay(1, Options::default()).await;
    let url = format!("{}?cursor=x", relay.url());
    // The source would replace a cursor of its URL, so the request is made by hand.
    let refused = tokio_tungstenite::connect_async(url).await;
    let status = match refused {
        Err(tokio_tungstenite::tungstenite::Error::Http(response)) => response.status(),
        other => panic!("{other:?}"),
    };
    assert_eq!(status, 400);
}

#[tokio::test]
async fn a_recording_of_the_relay_plays_back_as_the_same_frames() {
    let relay = short_relay(Options::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frames.bin");
    let file = tokio::fs::File::create(&path).await.unwrap();
    let mut writer = RecordingWriter::new(tokio::io::BufWriter::new(file));
    let source = source(&relay.url());
    let stop = CancellationToken::new();
    let recorded = record(&source, Resume::Oldest, &mut writer, None, &stop)
        .await
        .unwrap();
    assert_eq!(recorded.frames, 10);
    assert!(matches!(
        recorded.ending,
        Ending::Lost(ReadError::Closed { .. })
    ));

    let frames = recording::load(&path).unwrap();
    assert_eq!(
        frames.iter().map(Bytes::len).sum::<usize>() as u64,
        recorded.bytes
    );
    let close_at_end = true;
    let replay = MockRelay::start(
        frames,
        Options {
            close_at_end,
            ..Options::default()
        },
    )
    .await
    .unwrap();
    let (replayed, _) = follow(&replay, Resume::Oldest).await;
    assert_eq!(replayed, (1..=10).map(frame).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_recording_ends_when_the_source_is_idle_or_the_caller_has_enough() {
    let relay = relay(10, Options::default()).await;
    let source = source(&relay.url());
    let stop = CancellationToken::new();
    let idle = Some(Duration::from_secs(1));
    let mut file = Vec::new();
    let mut writer = RecordingWriter::new(&mut file);
    let recorded = record(&source, Resume::Oldest, &mut writer, idle, &stop)
        .await
        .unwrap();
    assert!(matches!(recorded.ending, Ending::Idle), "{recorded:?}");
    assert_eq!(recorded.frames, 10);

    stop.cancel();
    let recorded = record(&source, Resume::Oldest, &mut writer, None, &stop)
        .await
        .unwrap();
    assert!(matches!(recorded.ending, Ending::Stopped), "{recorded:?}");
}

#[tokio::test]
async fn a_missing_recording_is_an_error_that_names_it() {
    let error = recording::load("no/such/file".as_ref()).unwrap_err();
    assert!(error.to_string().starts_with("no/such/file: "), "{error}");
}

/// The trait objects must be able to cross threads, as actors do.
#[test]
fn a_connection_may_move_between_threads() {
    fn is_send<T: Send + ?Sized>() {}
    is_send::<dyn Frames>();
}
