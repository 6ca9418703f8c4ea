//! The log, on standard error.
//!
//! A log line never blocks and never fails (see `queue`). Its values may come from outside: `line`
//! cuts and escapes each of them, and `call_sites` limits how many lines one place in the source
//! writes.

mod call_sites;
mod filter;
mod line;
mod queue;

use std::any::Any;
use std::io::{self, IsTerminal};
use std::panic;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::{Event, Level, Subscriber, error};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use call_sites::CallSites;
use filter::Filter;
use line::Line;
use queue::LineQueue;

pub use queue::Dropped;

/// The actor framework logs every start and stop at `info`. The supervisor logs them in more useful
/// form.
const DEFAULT_FILTER: &str = "info,async_nats=off,ractor=warn,sqlx=error";

/// How long a panic waits for its line, in case that the process ends with it.
const PANIC_FLUSH: Duration = Duration::from_millis(100);

/// What decides which lines are logged.
static FILTER: OnceLock<Filter> = OnceLock::new();

/// The log of the process. Metrics read it, and the end of the process waits for it.
static LOG: OnceLock<Arc<Log>> = OnceLock::new();

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line for each message.
    #[default]
    Text,
    /// One JSON object for each line.
    Json,
}

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("RUST_LOG is not a valid filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    #[error("{0:?} is not a filter of the log: {1}")]
    NotAFilter(String, tracing_subscriber::filter::ParseError),
    #[error("{0:?} is not a filter of the log: it names no level; `off` logs nothing")]
    EmptyFilter(String),
    #[error("this process has no log")]
    NotSetUp,
    #[error("the filter of the log cannot be changed: {0}")]
    Reload(#[from] tracing_subscriber::reload::Error),
    #[error("the log is already set up")]
    SetUpTwice(#[from] tracing_subscriber::util::TryInitError),
    #[error("cannot start the thread that writes the log: {0}")]
    Thread(#[from] io::Error),
}

/// Sends the log of the whole process to standard error, and panics to the log.
///
/// `filter` is the value of `RUST_LOG`; the default is `info,async_nats=off,ractor=warn,sqlx=error`.
///
/// # Errors
/// If `filter` is not valid, the process already has a log, or there is no thread for it.
pub fn init(format: LogFormat, filter: Option<&str>) -> Result<(), LogError> {
    let log = Arc::new(Log::new(format, io::stderr().is_terminal()));
    let (subscriber, filter) = subscriber(log.clone(), filter)?;
    subscriber.try_init()?;
    let writing = log.clone();
    std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || writing.write_to(io::stderr()))?;
    // `try_init` succeeds once in a process.
    let _first = (LOG.set(log), FILTER.set(filter));
    panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string);
        error!(
            error = one_line(panic_message(panic.payload())),
            location = location.as_deref().unwrap_or("unknown"),
            thread = std::thread::current().name().unwrap_or("unnamed"),
            "panic"
        );
        flush(PANIC_FLUSH);
    }));
    Ok(())
}

/// Changes the filter of the log for `time`. Returns the filter before it.
///
/// # Errors
/// If `filter` is not valid, or the process has no log.
pub fn set_filter_for(filter: &str, time: Duration) -> Result<String, LogError> {
    let in_force = FILTER.get().ok_or(LogError::NotSetUp)?;
    in_force.set_for(filter, time)
}

/// Waits until the lines so far are written or dropped, at most for `limit`. To be called before
/// the process ends.
pub fn flush(limit: Duration) {
    if let Some(log) = LOG.get() {
        log.queue.flush(limit);
    }
}

/// The lines that were dropped since the start.
pub fn dropped() -> Dropped {
    LOG.get().map_or_else(Dropped::default, |log| log.dropped())
}

/// Writes the failure that ends the process, in the format of the log. Returns whether there is a
/// log.
pub fn failed(error: &str) -> bool {
    let Some(log) = LOG.get() else {
        return false;
    };
    match log.format {
        LogFormat::Json => log.push(
            &Line::new(Level::ERROR, env!("CARGO_CRATE_NAME"), "failed").with_text("error", error),
        ),
        LogFormat::Text => log.queue.push(format!("error: {error}\n")),
    }
    true
}

/// The message of a panic, as caught by a supervisor or a hook.
pub fn panic_message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn subscriber(
    log: Arc<Log>,
    filter: Option<&str>,
) -> Result<(impl Subscriber + Send + Sync, Filter), LogError> {
    let text = filter.filter(|text| !text.is_empty());
    let (filter, layer) = Filter::try_new(text.unwrap_or(DEFAULT_FILTER).to_owned())?;
    Ok((Registry::default().with(layer).with(LogLayer(log)), filter))
}

/// Turns events into lines.
struct LogLayer(Arc<Log>);

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        self.0.note(event);
    }
}

/// The lines of one output.
#[derive(Debug)]
struct Log {
    format: LogFormat,
    colours: bool,
    call_sites: CallSites,
    queue: LineQueue,
}

impl Log {
    fn new(format: LogFormat, colours: bool) -> Self {
        Self {
            format,
            colours,
            call_sites: CallSites::default(),
            queue: LineQueue::default(),
        }
    }

    fn note(&self, event: &Event<'_>) {
        let Some(suppressed) = self.call_sites.admit(event.metadata(), Instant::now()) else {
            return;
        };
        let line = Line::of(event);
        self.push(&match suppressed {
            0 => line,
            lines => line.with("suppressed_lines", lines),
        });
    }

    fn dropped(&self) -> Dropped {
        Dropped {
            suppressed: self.call_sites.suppressed(),
            ..self.queue.dropped()
        }
    }

    fn push(&self, line: &Line) {
        self.queue.push(line.render(self.format, self.colours));
    }

    fn write_to(&self, output: impl io::Write) {
        let missing = |lines| {
            let message = "log lines are missing here; standard error did not take them";
            let line = Line::new(Level::WARN, module_path!(), message).with("lines", lines);
            line.render(self.format, self.colours)
        };
        self.queue
            .write_to(output, missing, || self.report_suppressed());
    }

    fn report_suppressed(&self) {
        for suppressed in self.call_sites.take_unreported(Instant::now()) {
            let message = "log lines of one call site were suppressed";
            let line = Line::new(suppressed.level, module_path!(), message)
                .with_text("call_site", &suppressed.call_site)
                .with("suppressed_lines", suppressed.lines);
            self.push(&line);
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing::subscriber::with_default;
    use tracing::{info, warn};

    use super::*;

    fn logged(format: LogFormat, filter: Option<&str>, log: impl FnOnce()) -> String {
        let lines = Arc::new(Log::new(format, false));
        with_default(subscriber(lines.clone(), filter).unwrap().0, log);
        lines.queue.take()
    }

    #[test]
    fn json_puts_one_object_on_a_line() {
        let text = logged(LogFormat::Json, None, || info!(seq = 5, "applied"));
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message"], "applied");
        assert_eq!(line["seq"], 5);
    }

    #[test]
    fn the_framework_is_quiet_unless_asked_for() {
        let log_at_info = || info!(target: "ractor", "started");
        assert_eq!(logged(LogFormat::Text, None, log_at_info), "");
        assert_eq!(logged(LogFormat::Text, Some(""), log_at_info), "");
        assert!(logged(LogFormat::Text, Some("info"), log_at_info).contains("started"));
        let trouble = || warn!(target: "ractor", "trouble");
        assert!(logged(LogFormat::Text, None, trouble).contains("trouble"));
    }

    /// Holds invariant 12.1.
    #[test]
    fn a_flood_of_one_call_site_is_a_few_lines_and_their_number() {
        let text = logged(LogFormat::Text, None, || {
            for _ in 0..20_000 {
                info!(text = %"x\ny", "message of a stranger");
            }
        });
        assert_eq!(text.lines().count(), 50, "{text}");
        assert!(text.lines().all(|line| line.ends_with(r#" text="x\ny""#)));
    }

    #[test]
    fn an_invalid_filter_is_an_error() {
        let log = Arc::new(Log::new(LogFormat::Text, false));
        let wrong = subscriber(log, Some("a=b=c"));
        assert!(matches!(wrong, Err(LogError::Filter(_))));
    }

    #[test]
    fn a_panic_message_of_several_lines_becomes_one_line() {
        let payload: Box<dyn Any + Send> = Box::new("left:  1\n right: 2".to_owned());
        assert_eq!(one_line(panic_message(&*payload)), "left: 1 right: 2");
    }
}
