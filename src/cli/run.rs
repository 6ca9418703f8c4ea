//! `run`: the service.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::{FutureExt, OptionFuture};

use huddle_firehose::command::Asked;
use huddle_firehose::config::Config;
use huddle_firehose::pipeline;
use huddle_firehose::telemetry::log;
use huddle_firehose::worker::{AdminDoor, RunningWorker};

use super::service::{Service, admin_door, listen};
use super::signals::{INTERRUPTED, StopSignals};
use super::{Configuration, database, runtime};

/// How long the last line waits for the database to say what waits.
const COUNT_LIMIT: Duration = Duration::from_secs(5);
/// How long a second signal waits for the last lines of the log.
const LAST_LINES: Duration = Duration::from_millis(200);

pub(super) fn execute(configuration: &Configuration) -> anyhow::Result<()> {
    let config = configuration.load_for_worker()?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(run(config));
    // A frame that hung its decoder has left a blocked thread. Do not wait for it.
    runtime.shutdown_background();
    outcome
}

async fn run(config: Config) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen()?;
    let listener = listen("listen", &config.listen)?;
    let admin = admin_door(&config)?;
    let _lock = database::lock(&config, "run").await?;
    tracing::info!(
        source = %config.source_url,
        database = config.database_url,
        listen = %listener.local_addr()?,
        admin_listen = admin.as_ref().and_then(admin_address).map(tracing::field::display),
        "starting"
    );
    let service = Service::new(&config, Some(listener), admin)?;
    loop {
        let mut tree = service.start().await?;
        let Some(reason) = until_end(&mut tree, &config, &mut signals).await? else {
            tracing::info!("draining, to start again as a command asks");
            drain(tree, &mut signals).await?;
            continue;
        };
        tracing::info!(reason, "draining");
        let context = tree.context().clone();
        drain(tree, &mut signals).await?;
        log_end(&context).await;
        return Ok(());
    }
}

fn admin_address(door: &AdminDoor) -> Option<SocketAddr> {
    door.listener.local_addr().ok()
}

/// Waits until the worker has to end, and returns the reason. `None` if it has to start again.
async fn until_end(
    tree: &mut RunningWorker,
    config: &Config,
    signals: &mut StopSignals,
) -> anyhow::Result<Option<&'static str>> {
    let idle = config.stop_after_idle;
    let silence = idle.map(|idle| tree.silence(idle));
    let asked = tree.asked();
    Ok(tokio::select! {
        error = tree.failed() => return Err(error.into()),
        signal = signals.next() => Some(signal),
        () = OptionFuture::from(silence).map(|_| ()), if idle.is_some() => Some("the source is silent"),
        asked = asked => match asked {
            Asked::Drain => Some("a command asks for it"),
            Asked::Restart => None,
        },
    })
}

/// Says what was read and waits in the tables, and how many rows each sink does not have.
async fn log_end(context: &pipeline::Context) {
    let sinks_behind = sinks_behind(context);
    let sinks_behind = sinks_behind.as_deref();
    let Some(repositories) = &context.repositories else {
        return tracing::info!(sinks_behind, "stopped; everything that was read is applied");
    };
    let counts = tokio::time::timeout(COUNT_LIMIT, repositories.store.repo_counts()).await;
    match counts {
        Ok(Ok(counts)) if counts.parked_commits == 0 && counts.desynchronized == 0 => {
            tracing::info!(sinks_behind, "stopped; everything that was read is applied");
        }
        Ok(Ok(counts)) => tracing::info!(
            sinks_behind,
            parked_commits = counts.parked_commits,
            repositories_with_parked_commits = counts.with_parked,
            repositories_to_fetch = counts.desynchronized,
            "stopped; everything that was read is stored, but some of it waits for a key or a \
             repository; the next start goes on with it"
        ),
        Ok(Err(_)) | Err(_) => tracing::info!(
            sinks_behind,
            "stopped; everything that was read is stored; the database did not tell what waits"
        ),
    }
}

/// `None` if there are no sinks.
fn sinks_behind(context: &pipeline::Context) -> Option<String> {
    let sinks = context.status.snapshot().sinks;
    let behind = sinks.iter().map(|(name, sink)| match sink.behind {
        Some(behind) => format!("{name}: {behind}"),
        None => format!("{name}: unknown"),
    });
    let behind: Vec<String> = behind.collect();
    (!behind.is_empty()).then(|| behind.join(", "))
}

pub(super) async fn drain(tree: RunningWorker, signals: &mut StopSignals) -> anyhow::Result<()> {
    tokio::select! {
        drained = tree.drain() => Ok(drained?),
        signal = signals.next() => {
            tracing::warn!(signal, "second signal: exiting without draining; unapplied events are read again at the next start");
            log::flush(LAST_LINES);
            std::process::exit(INTERRUPTED)
        }
    }
}
