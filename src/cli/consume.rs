//! `consume`: applies the tasks of a queue to tables elsewhere.

use clap::Args;

use huddle_firehose::config::{ConfigError, Loaded, Origin, Problem};
use huddle_firehose::consume::{
    self, ConsumeOptions, QueueOptions, RunningConsumer, TargetOptions,
};
use huddle_firehose::sink::TableOptions;
use huddle_firehose::sink::cloudflare_queue::Outside;
use huddle_firehose::telemetry::log;
use huddle_firehose::testing::fault::Faults;
use huddle_firehose::worker::{Options, lexicons};

use super::service::listen;
use super::signals::{INTERRUPTED, StopSignals};
use super::{Configuration, runtime};

/// How long a second signal waits for the last lines of the log.
const LAST_LINES: std::time::Duration = std::time::Duration::from_millis(200);

/// Apply the tasks of a queue to tables elsewhere; several processes share one queue
#[derive(Args, Debug)]
pub(crate) struct Consume {
    /// The queue: nats://HOST:PORT or cfqueue://ACCOUNT/QUEUE, with the parameters of the worker's sink
    #[arg(long, value_name = "URL")]
    from: String,
    /// The tables: postgres://USER@HOST/DATABASE?schema=NAME or d1://ACCOUNT/DATABASE
    #[arg(long, value_name = "URL")]
    into: String,
    #[command(flatten)]
    configuration: Configuration,
}

impl Consume {
    pub(crate) fn execute(&self) -> anyhow::Result<()> {
        let loaded = self.configuration.start_log_of(self.configuration.load())?;
        let from = QueueOptions::parse(&self.from);
        let from = from.map_err(|error| problem("from", error.to_string()))?;
        let into = TargetOptions::parse(&self.into);
        let into = into.map_err(|error| problem("into", error.to_string()))?;
        let runtime = runtime()?;
        let outcome = runtime.block_on(run(&loaded, from, into));
        // A task that hung its consumer has left a blocked thread. Do not wait for it.
        runtime.shutdown_background();
        outcome
    }
}

fn problem(flag: &str, message: String) -> ConfigError {
    ConfigError(vec![Problem {
        keys: vec![flag.to_owned()],
        subject: format!("flag --{flag}"),
        message,
    }])
}

async fn run(loaded: &Loaded, from: QueueOptions, into: TargetOptions) -> anyhow::Result<()> {
    let config = &loaded.config;
    let mut signals = StopSignals::listen()?;
    // The worker has a default. A consumer may stand beside it, and listens where it is told to.
    let listener = match loaded.origins.get("listen") {
        None | Some(Origin::Default) => None,
        Some(_) => Some(listen("listen", &config.listen)?),
    };
    let address = listener
        .as_ref()
        .and_then(|listener| listener.local_addr().ok());
    tracing::info!(
        from = %from,
        into = %into,
        listen = address.map(tracing::field::display),
        "starting"
    );
    let options = Options::from(config);
    let options = ConsumeOptions {
        from,
        into,
        outside: Outside {
            plc_url: options.network.plc_url.clone(),
            allow_private_addresses: options.network.allow_private_addresses,
        },
        retries: options.pipeline.index_retries,
        tables: TableOptions {
            request_days: options.retention.inactive_request_days,
            views: lexicons(&options)?.views.into(),
        },
        policy: options.policy,
        thresholds: options.thresholds,
        allowed_hosts: options.allowed_hosts,
        drain_timeout: options.drain_timeout,
    };
    let mut consumer = consume::start(options, listener, Faults::default()).await?;
    let signal = tokio::select! {
        error = consumer.failed() => return Err(error.into()),
        signal = signals.next() => signal,
    };
    tracing::info!(reason = signal, "draining");
    let status = consumer.status().clone();
    drain(consumer, &mut signals).await;
    let consumption = status.snapshot().consumption.unwrap_or_default();
    tracing::info!(
        applied = consumption.applied,
        dead_letters = consumption.dead_letters,
        "stopped; what was not applied waits in the queue"
    );
    Ok(())
}

async fn drain(consumer: RunningConsumer, signals: &mut StopSignals) {
    tokio::select! {
        () = consumer.drain() => {}
        signal = signals.next() => {
            tracing::warn!(signal, "second signal: exiting at once; what is in hand comes again");
            log::flush(LAST_LINES);
            std::process::exit(INTERRUPTED)
        }
    }
}
