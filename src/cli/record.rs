//! `record`: writes a source's raw frames to a file.

use std::path::PathBuf;

use anyhow::Context;
use clap::{ArgAction, Args};
use tokio::fs::OpenOptions;
use tokio::io::BufWriter;
use tokio_util::sync::CancellationToken;

use huddle_firehose::config::{Config, Start};
use huddle_firehose::source::Resume;
use huddle_firehose::source::recorder::{Ending, Recorded, record};
use huddle_firehose::testing::recording::RecordingWriter;
use huddle_firehose::worker;

use super::signals::StopSignals;
use super::{Configuration, print, runtime};

/// Write a source's raw frames to a file
///
/// Ends when the process is told to stop, when the source has been silent for `--stop-after-idle`,
/// or when the connection is lost, because a recording is one contiguous piece
#[derive(Args, Debug)]
pub(crate) struct Record {
    /// The file to write: each frame after its length, a big-endian u32
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Overwrite the file if it exists
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value_t = false, hide_default_value = true)]
    force: bool,
    /// Begin after this seq (0: with the oldest event) instead of where `--start` says
    #[arg(long, value_name = "SEQ")]
    cursor: Option<u64>,
    #[command(flatten)]
    configuration: Configuration,
}

impl Record {
    pub(crate) fn execute(&self) -> anyhow::Result<()> {
        let config = self.configuration.load_and_log()?;
        let recorded = runtime()?.block_on(self.record(&config))?;
        print(&format!(
            "{} frames, {} bytes, in {}\n",
            recorded.frames,
            recorded.bytes,
            self.out.display()
        ))?;
        match recorded.ending {
            Ending::Idle | Ending::Stopped => Ok(()),
            Ending::Lost(error) => Err(error).context("the connection was lost"),
        }
    }

    async fn record(&self, config: &Config) -> anyhow::Result<Recorded> {
        let mut signals = StopSignals::listen()?;
        let resume = match (self.cursor, config.start) {
            (Some(0), _) | (None, Start::Oldest) => Resume::Oldest,
            (Some(seq), _) => Resume::After(seq),
            (None, Start::Live) => Resume::Live,
        };
        let source = worker::source(&config.into())?;
        let mut options = OpenOptions::new();
        let options = options.write(true).truncate(true).create(true);
        // A device or a pipe holds nothing that could be lost.
        let is_special = self.out.metadata().is_ok_and(|there| !there.is_file());
        let options = options.create_new(!self.force && !is_special);
        let file = options.open(&self.out).await.with_context(|| {
            match self.out.exists() && !self.force {
                true => format!("{} exists; --force overwrites it", self.out.display()),
                false => format!("cannot create {}", self.out.display()),
            }
        })?;
        let mut writer = RecordingWriter::new(BufWriter::new(file));
        let stop = CancellationToken::new();
        let stop_on_signal = stop.clone();
        tokio::spawn(async move {
            signals.next().await;
            stop_on_signal.cancel();
        });
        Ok(record(
            source.as_ref(),
            resume,
            &mut writer,
            config.stop_after_idle,
            &stop,
        )
        .await?)
    }
}
