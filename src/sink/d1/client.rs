//! Sends batches to D1. A batch is one transaction: all of its statements, or none.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::{definition_error, sink_error};
use super::options::D1Options;
use super::statement::Statement;
use crate::sink::SinkError;
use crate::sink::cloudflare::{Client, Failure};

/// Sends batches to one database.
#[derive(Debug)]
pub(super) struct Database(Client);

/// The rows that a statement returned.
#[derive(Debug, Deserialize)]
pub(super) struct Rows {
    #[serde(default)]
    results: Vec<Map<String, Value>>,
}

#[derive(Serialize)]
struct Batch<'a> {
    batch: &'a [Statement],
}

impl Database {
    pub(super) fn new(options: D1Options) -> Self {
        Self(Client::new(options.endpoint, options.access))
    }

    /// Runs `batch` in one transaction, and returns what each statement returned.
    pub(super) async fn run(&mut self, batch: &[Statement]) -> Result<Vec<Rows>, SinkError> {
        self.ask(batch, sink_error).await
    }

    /// Runs `batch`, which makes or drops a view, in one transaction.
    ///
    /// # Errors
    /// [`SinkError::Refused`] if its SQL is at fault.
    pub(super) async fn define(&mut self, batch: &[Statement]) -> Result<(), SinkError> {
        self.ask(batch, definition_error).await.map(drop)
    }

    async fn ask(
        &mut self,
        batch: &[Statement],
        meaning: fn(Failure) -> SinkError,
    ) -> Result<Vec<Rows>, SinkError> {
        let body = serde_json::to_vec(&Batch { batch }).map_err(SinkError::unavailable)?;
        let rows: Option<Vec<Rows>> = self.0.post(body.into()).await.map_err(meaning)?;
        let rows = rows.unwrap_or_default();
        match rows.len() == batch.len() {
            true => Ok(rows),
            false => Err(SinkError::unavailable(format_args!(
                "{} results for {} statements",
                rows.len(),
                batch.len()
            ))),
        }
    }
}

impl Rows {
    /// A column of all rows. What is no text is left out.
    pub(super) fn column(&self, name: &str) -> Vec<&str> {
        let values = self.results.iter().map(|row| row.get(name));
        values.filter_map(|value| value?.as_str()).collect()
    }

    /// A column of the first row.
    pub(super) fn first(&self, name: &str) -> Option<&str> {
        self.results.first()?.get(name)?.as_str()
    }
}
