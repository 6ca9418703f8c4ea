//! `dlq retry|discard`: acts on letters, which the worker carries out, or the command itself without one.

use std::num::NonZeroU32;

use anyhow::bail;
use clap::{ArgAction, Args};
use serde_json::Value;

use huddle_firehose::command::{BulkLetters, Command};
use huddle_firehose::model::CommandRow;
use huddle_firehose::store::letters::LetterFilter;
use huddle_firehose::telemetry::excerpt::shown;

use super::filter::{Filter, check_missing};
use crate::cli::{Configuration, print, print_error, request, runtime};

#[derive(Args, Debug)]
pub(crate) struct Bulk {
    #[command(flatten)]
    filter: Filter,
    /// All letters, where nothing else says which
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value_t = false, hide_default_value = true)]
    all: bool,
    /// Only tell what would become of them
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value_t = false, hide_default_value = true)]
    dry_run: bool,
    /// How many letters in a second, at most
    #[arg(long, value_name = "N")]
    rate: Option<NonZeroU32>,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    configuration: Configuration,
}

impl Bulk {
    pub(super) fn discard(&self) -> anyhow::Result<()> {
        self.give("dlq discard", Command::DeadLettersDiscard)
    }

    pub(super) fn retry(&self) -> anyhow::Result<()> {
        self.give("dlq retry", Command::DeadLettersRetry)
    }

    fn give(&self, name: &str, command: impl Fn(BulkLetters) -> Command) -> anyhow::Result<()> {
        let filter = self.filter.filter();
        if filter == LetterFilter::default() && !self.all {
            bail!(
                "name which dead letters are meant: ids, --stage, --group, --error, --collection, --did, \
                 --source, --since, --until, --older-than, or --all for all of them"
            );
        }
        let config = self.configuration.load_and_log()?;
        let bulk = BulkLetters {
            filter,
            all: self.all,
            dry_run: self.dry_run,
            per_second: self.rate,
        };
        let row = runtime()?.block_on(async {
            let (command, reason) = (command(bulk), self.reason.clone());
            request::give_and_watch(&config, name, command, reason, &mut tell_progress).await
        })?;
        print(&told(&row))?;
        check_missing(&missing(&row))
    }
}

/// Says on standard error how far a command is that takes long.
fn tell_progress(row: &CommandRow) {
    if let Some(progress) = &row.progress
        && !row.state.is_ended()
    {
        let (done, total) = (&progress["done"], &progress["total"]);
        print_error(&format!("{done} of {total} letters done"));
    }
}

/// What became of the letters: each by itself as far as they are named, then how many.
fn told(row: &CommandRow) -> String {
    let is_over = row.state.is_ended();
    let told = match is_over {
        true => row.result.as_ref(),
        false => row.progress.as_ref(),
    };
    let Some(told) = told else {
        return format!(
            "command {} waits for a worker, which begins with it\n",
            row.id
        );
    };
    let mut text = String::new();
    for letter in told["letters"].as_array().into_iter().flatten() {
        let (became, why) = (words(&letter["became"]), letter["why"].as_str());
        let why = why.map_or_else(String::new, |why| format!("\t{}", shown(why)));
        text += &format!("{}\t{became}{why}\n", letter["id"]);
    }
    let counts = told["became"].as_object().into_iter().flatten();
    let counts: Vec<String> = counts
        .map(|(became, count)| format!("{count} {}", became.replace('_', " ")))
        .collect();
    let would = match told["dry_run"] == Value::Bool(true) {
        true => "nothing was changed; it would be: ",
        false => "",
    };
    text += &match counts.is_empty() {
        true => "no letters\n".to_owned(),
        false => format!("{would}{}\n", counts.join(", ")),
    };
    if !is_over {
        let left = told["total"].as_u64().unwrap_or_default();
        let left = left.saturating_sub(told["done"].as_u64().unwrap_or_default());
        text += &format!(
            "{left} letters hold frames, which take a worker; command {} goes on with the next one\n",
            row.id
        );
    }
    text
}

/// The ids that were named, and that no letter has.
fn missing(row: &CommandRow) -> Vec<i64> {
    let told = row.result.as_ref().or(row.progress.as_ref());
    let ids = told.and_then(|told| told["missing"].as_array());
    let ids = ids.into_iter().flatten();
    ids.filter_map(Value::as_i64).collect()
}

fn words(became: &Value) -> String {
    became.as_str().unwrap_or_default().replace('_', " ")
}
