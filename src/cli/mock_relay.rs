//! `mock-relay`: serves a recording like a relay.

use std::num::NonZeroU32;
use std::path::PathBuf;

use anyhow::Context;
use clap::{ArgAction, Args};

use huddle_firehose::atproto::skim::splice_seq;
use huddle_firehose::config::{ListenAddress, LogFormat};
use huddle_firehose::testing::mock_relay::{MockRelay, Options, Repeat};
use huddle_firehose::testing::recording;

use super::signals::StopSignals;
use super::{print, runtime, start_log};

/// Serve a recording like a relay, until the process is told to stop
#[derive(Args, Debug)]
pub(crate) struct MockRelayCommand {
    /// The recording to serve
    #[arg(long)]
    file: PathBuf,
    /// Events per second on each connection [default: as fast as the socket takes them]
    #[arg(long, value_name = "EVENTS")]
    rate: Option<NonZeroU32>,
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:2590")]
    listen: ListenAddress,
    /// Serve the frames this many times, with ascending seqs
    #[arg(long, value_name = "TIMES", default_value_t = 1)]
    repeat: u64,
    /// Close a connection after everything was sent, instead of waiting for further frames
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value_t = false, hide_default_value = true)]
    close_at_end: bool,
    /// Accepted as by every other command, and not used
    #[arg(long, alias = "database", value_name = "PATH", hide = true)]
    database_url: Option<String>,
}

impl MockRelayCommand {
    pub(crate) fn execute(&self) -> anyhow::Result<()> {
        start_log(LogFormat::Text)?;
        let frames = recording::load(&self.file)?;
        let addresses = self
            .listen
            .resolve()
            .with_context(|| format!("listen: cannot listen on {}", self.listen))?;
        let listen = *addresses
            .first()
            .with_context(|| format!("listen: {} has no address", self.listen))?;
        let options = Options {
            listen,
            rate: self.rate,
            repeat: (self.repeat > 1).then_some(Repeat {
                times: self.repeat,
                renumber,
            }),
            close_at_end: self.close_at_end,
            ..Options::default()
        };
        runtime()?.block_on(async {
            let mut signals = StopSignals::listen()?;
            let count = frames.len();
            let relay = MockRelay::start(frames, options).await?;
            print(&format!("serving {count} frames at {}\n", relay.url()))?;
            signals.next().await;
            relay.stop().await;
            Ok(())
        })
    }
}

/// The frame with another seq; `None` if it has no seq.
fn renumber(frame: &[u8], seq: u64) -> Option<Vec<u8>> {
    splice_seq(frame, seq).ok()
}
