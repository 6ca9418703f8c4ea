//! Tests the WebSocket source, recordings and the mock relay over real sockets.

mod dialling;
mod framing;
mod reading;
mod relay;

use std::time::Duration;

use bytes::Bytes;
use huddle_firehose::source::error::{ConnectError, ReadError};
use huddle_firehose::source::firehose::websocket::{WebSocketOptions, WebSocketSource};
use huddle_firehose::source::frame_sink::{BatchLimits, FrameCollector};
use huddle_firehose::source::{Frames, Resume, Source};
use test_support::waiting::SLOT_TIMEOUT;
use tokio::time::timeout;
use url::Url;

/// A batch ends as soon as the socket has no more data.
const AT_ONCE: Duration = Duration::ZERO;

/// A frame sink that is full with `frames` frames.
fn up_to(frames: usize) -> FrameCollector {
    FrameCollector::new(BatchLimits {
        frames,
        bytes: 64 * 1024 * 1024,
    })
}

fn source(url: &str) -> WebSocketSource {
    source_with(url, WebSocketOptions::default())
}

fn source_with(url: &str, options: WebSocketOptions) -> WebSocketSource {
    WebSocketSource::try_new(Url::parse(url).unwrap(), options).unwrap()
}

async fn connect(url: &str, resume: Resume) -> Box<dyn Frames> {
    source(url).connect(resume).await.unwrap()
}

async fn connect_error(url: &str) -> ConnectError {
    match source(url).connect(Resume::Live).await {
        Ok(_) => panic!("connected to {url}"),
        Err(error) => error,
    }
}

/// Reads until `count` frames have arrived.
async fn read(frames: &mut dyn Frames, count: usize) -> Vec<Bytes> {
    let mut read = up_to(count);
    while read.frames.len() < count {
        let batch = timeout(SLOT_TIMEOUT, frames.read_batch(SLOT_TIMEOUT, &mut read));
        batch.await.unwrap().unwrap();
    }
    read.frames
}

/// Reads to the end. Returns all frames, and the error that ended the connection.
async fn read_to_end(frames: &mut dyn Frames) -> (Vec<Bytes>, ReadError) {
    let mut all = Vec::new();
    loop {
        let mut batch = up_to(1000);
        let outcome = timeout(SLOT_TIMEOUT, frames.read_batch(AT_ONCE, &mut batch));
        let outcome = outcome.await.unwrap();
        all.append(&mut batch.frames);
        if let Err(error) = outcome {
            return (all, error);
        }
    }
}
