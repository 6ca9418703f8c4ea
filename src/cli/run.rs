//! `run`: the service.

use std::net::TcpListener;

use anyhow::Context;
use futures_util::future::{FutureExt, OptionFuture};

use huddle_firehose::config::Config;
use huddle_firehose::worker;
use huddle_firehose::worker::RunningWorker;

use super::signals::{INTERRUPTED, StopSignals};
use super::{Configuration, runtime};

pub(super) fn execute(configuration: &Configuration) -> anyhow::Result<()> {
    let config = configuration.load_and_log()?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(run(config));
    // A frame that hung its decoder has left a blocked thread. Do not wait for it.
    runtime.shutdown_background();
    outcome
}

async fn run(config: Config) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen()?;
    let listener = listen(&config)?;
    tracing::info!(
        source = %config.source_url,
        database = config.database_url,
        listen = %listener.local_addr()?,
        "starting"
    );
    let idle = config.stop_after_idle;
    let mut tree = worker::start((&config).into(), Some(listener)).await?;
    let silence = idle.map(|idle| tree.silence(idle));
    let reason = tokio::select! {
        error = tree.failed() => return Err(error.into()),
        signal = signals.next() => signal,
        () = OptionFuture::from(silence).map(|_| ()), if idle.is_some() => "the source is silent",
    };
    tracing::info!(reason, "draining");
    drain(tree, &mut signals).await?;
    tracing::info!("stopped; everything that was read is applied");
    Ok(())
}

/// Bound before anything else starts, so that a port in use is reported at once.
fn listen(config: &Config) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(config.listen)
        .with_context(|| format!("listen: cannot listen on {}", config.listen))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

pub(super) async fn drain(tree: RunningWorker, signals: &mut StopSignals) -> anyhow::Result<()> {
    tokio::select! {
        drained = tree.drain() => Ok(drained?),
        signal = signals.next() => {
            tracing::warn!(signal, "second signal: exiting without draining; unapplied events are read again at the next start");
            std::process::exit(INTERRUPTED)
        }
    }
}
