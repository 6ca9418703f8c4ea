//! `reprocess`: judges the stored records again.

use anyhow::bail;
use clap::{ArgAction, Args};
use jiff::Timestamp;

use huddle_firehose::atproto::pattern::{Pattern, PatternError};
use huddle_firehose::atproto::skim::SEQS;
use huddle_firehose::atproto::syntax::{Did, SyntaxError};
use huddle_firehose::command::{Command, Reprocess as Asked};
use huddle_firehose::model::CommandRow;
use huddle_firehose::store::rejudge_store::Selection;
use huddle_firehose::worker;

use super::{Configuration, print, print_error, request, runtime, time};

/// Judge stored records again, after a change of lexicons, policies or the program
///
/// Makes the tables say what follows, without the network. What was judged by the rules in force is left
/// as it is, except with --all. A worker that runs does it in steps beside its work, by the lexicons that
/// it has read at its start. It goes on where it was broken off.
#[derive(Args, Debug)]
pub(crate) struct Reprocess {
    /// Records of these collections: an NSID, or a prefix such as com.huddle.*
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    collection: Option<Pattern>,
    /// Records of this account
    #[arg(long, value_name = "DID", value_parser = did)]
    did: Option<Did>,
    /// Records that were indexed since then: a date, or a time such as 2026-07-04T14:38:07Z
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    since: Option<Timestamp>,
    /// Records that are known to be invalid: flagged ones, and refused ones in dead letters
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value_t = false, hide_default_value = true)]
    invalid: bool,
    /// All records, and write them also where they were judged by the rules in force
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value_t = false, hide_default_value = true)]
    all: bool,
    /// Only count what would change
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value_t = false, hide_default_value = true)]
    dry_run: bool,
    /// Instead of stored records: read the events of the configured source behind this seq again, beside
    /// the live stream, whose cursor stays where it is. A worker does it
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(..SEQS.end),
          conflicts_with_all = ["collection", "did", "since", "invalid", "all", "dry_run"])]
    from_cursor: Option<u64>,
    /// Up to this seq; by default up to where the cursor is at the beginning
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(..SEQS.end),
          requires = "from_cursor")]
    to: Option<u64>,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    configuration: Configuration,
}

impl Reprocess {
    pub(crate) fn execute(&self) -> anyhow::Result<()> {
        match self.from_cursor {
            Some(from) => self.rerun(from),
            None => self.reprocess(),
        }
    }

    fn rerun(&self, from: u64) -> anyhow::Result<()> {
        let config = self.configuration.load_and_log()?;
        let command = Command::Rerun {
            source: worker::source(&(&config).into())?.id().clone(),
            from,
            to: self.to,
        };
        let giving = request::give(&config, "reprocess", command, self.reason.clone());
        request::show(&runtime()?.block_on(giving)?)
    }

    fn reprocess(&self) -> anyhow::Result<()> {
        let command = Command::Reprocess(self.asked()?);
        let config = self.configuration.load_and_log_with_lexicons()?;
        let row = runtime()?.block_on(async {
            let reason = self.reason.clone();
            request::give_and_watch(&config, "reprocess", command, reason, &mut tell_progress).await
        })?;
        Ok(print(&told(&row))?)
    }

    fn asked(&self) -> anyhow::Result<Asked> {
        let selection = Selection {
            collection: self.collection.clone(),
            did: self.did.clone(),
            since: self.since,
            is_invalid_only: self.invalid,
        };
        if selection == Selection::default() && !self.all {
            bail!("name what to judge again: --collection, --did, --since, --invalid or --all");
        }
        Ok(Asked {
            selection,
            all: self.all,
            dry_run: self.dry_run,
        })
    }
}

/// Says on standard error how far it is.
fn tell_progress(row: &CommandRow) {
    let progress = row.progress.as_ref();
    let counts = progress.map(|progress| &progress["progress"]["counts"]);
    if let Some(looked_at) = counts.and_then(|counts| counts["looked_at"].as_u64())
        && !row.state.is_ended()
    {
        print_error(&format!("{looked_at} rows looked at"));
    }
}

fn told(row: &CommandRow) -> String {
    let Some(result) = &row.result else {
        return format!(
            "command {} is not over; the same command or the next worker goes on from here\n",
            row.id
        );
    };
    let would = match result["dry_run"].as_bool() {
        Some(true) => "nothing was written; it would be: ",
        _ => "",
    };
    let told = result["told"].as_str().unwrap_or_default();
    format!("{would}{told}\n")
}

fn pattern(text: &str) -> Result<Pattern, PatternError> {
    text.parse()
}

fn did(text: &str) -> Result<Did, SyntaxError> {
    Did::parse(text)
}
