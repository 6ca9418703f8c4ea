//! The log, on standard error.

use std::any::Any;
use std::io::{self, IsTerminal};
use std::panic;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tracing::{Subscriber, error};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

/// The actor framework logs every start and stop at `info`. The supervisor logs them in more useful
/// form.
const DEFAULT_FILTER: &str = "info,ractor=warn,sqlx=error";

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
    #[error("the log is already set up")]
    SetUpTwice(#[from] tracing_subscriber::util::TryInitError),
}

/// Sends the log of the whole process to standard error, and panics to the log.
///
/// `filter` is the value of `RUST_LOG`; the default is `info,ractor=warn,sqlx=error`.
///
/// # Errors
/// If `filter` is not valid, or the process already has a log.
pub fn init(format: LogFormat, filter: Option<&str>) -> Result<(), LogError> {
    subscriber(format, filter, io::stderr, io::stderr().is_terminal())?.try_init()?;
    panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string);
        error!(
            location = location.as_deref().unwrap_or("unknown"),
            thread = std::thread::current().name().unwrap_or("unnamed"),
            "panic: {}",
            one_line(panic_message(panic.payload())),
        );
    }));
    Ok(())
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

fn subscriber<W>(
    format: LogFormat,
    filter: Option<&str>,
    writer: W,
    colours: bool,
) -> Result<Box<dyn Subscriber + Send + Sync>, LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = filter.filter(|text| !text.is_empty());
    let filter = EnvFilter::builder().parse(filter.unwrap_or(DEFAULT_FILTER))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    Ok(match format {
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
        LogFormat::Text => Box::new(builder.with_ansi(colours).finish()),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::subscriber::with_default;
    use tracing::{info, warn};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: Option<&str>, log: impl FnOnce()) -> String {
        let page = Page::default();
        let writer = page.clone();
        let subscriber = subscriber(format, filter, move || writer.clone(), false).unwrap();
        with_default(subscriber, log);
        let bytes = page.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
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

    #[test]
    fn an_invalid_filter_is_an_error() {
        let wrong = subscriber(LogFormat::Text, Some("a=b=c"), io::sink, false);
        assert!(matches!(wrong, Err(LogError::Filter(_))));
    }

    #[test]
    fn a_panic_message_of_several_lines_becomes_one_line() {
        let payload: Box<dyn Any + Send> = Box::new("left:  1\n right: 2".to_owned());
        assert_eq!(one_line(panic_message(&*payload)), "left: 1 right: 2");
    }
}
