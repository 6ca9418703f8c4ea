//! The filter of the log, which an operator may change for a time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tracing_subscriber::{EnvFilter, Registry, reload};

use super::LogError;

/// What decides which lines are logged.
#[derive(Debug)]
pub(super) struct Filter {
    handle: reload::Handle<EnvFilter, Registry>,
    /// The filter that is in force unless an operator has changed it.
    text: String,
    /// Counts the changes, so that only the last one is taken back.
    changes: AtomicU64,
}

impl Filter {
    /// Reads `text`, and returns also the layer that filters.
    pub(super) fn try_new(
        text: String,
    ) -> Result<(Self, reload::Layer<EnvFilter, Registry>), LogError> {
        let (layer, handle) = reload::Layer::new(EnvFilter::builder().parse(&text)?);
        let filter = Self {
            handle,
            text,
            changes: AtomicU64::new(0),
        };
        Ok((filter, layer))
    }

    /// Brings `text` into force, and takes it back after `time`. Returns the filter before it.
    pub(super) fn set_for(&'static self, text: &str, time: Duration) -> Result<String, LogError> {
        if text.split(',').all(|directive| directive.trim().is_empty()) {
            return Err(LogError::EmptyFilter(text.to_owned()));
        }
        let invalid = |error| LogError::NotAFilter(text.to_owned(), error);
        let filter = EnvFilter::builder().parse(text).map_err(invalid)?;
        let before = self.handle.with_current(ToString::to_string)?;
        let change = self.changes.fetch_add(1, Ordering::AcqRel) + 1;
        self.handle.reload(filter)?;
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            if self.changes.load(Ordering::Acquire) == change {
                self.take_back();
            }
        });
        Ok(before)
    }

    fn take_back(&self) {
        // The text was read before, and the log lives as long as the process.
        if let Ok(filter) = EnvFilter::builder().parse(&self.text) {
            let _reloaded = self.handle.reload(filter);
        }
        tracing::info!(
            filter = self.text,
            "the filter of the log is as before again"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It would silence the log, and a variable that was not set is more probable.
    #[test]
    fn an_empty_text_is_no_filter() {
        let (filter, _layer) = Filter::try_new("info".to_owned()).unwrap();
        let filter: &'static Filter = Box::leak(Box::new(filter));
        for text in ["", " ", ",,", " , "] {
            let set = filter.set_for(text, Duration::from_secs(1));
            assert!(matches!(set, Err(LogError::EmptyFilter(_))), "{text:?}");
        }
    }
}
