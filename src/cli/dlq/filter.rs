//! Which dead letters a command is about.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use jiff::{SignedDuration, Timestamp};

use huddle_firehose::atproto::pattern::{Pattern, PatternError};
use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::command::CommandError;
use huddle_firehose::model::Stage;
use huddle_firehose::store::letters::LetterFilter;
use huddle_firehose::store::sqlite::SqliteStore;

use crate::cli::{span, time};

/// Which dead letters: those that fit all that is said.
#[derive(Args, Debug)]
pub(super) struct Filter {
    /// The ids of letters
    #[arg(value_name = "ID")]
    ids: Vec<i64>,
    /// Letters of this stage
    #[arg(long, value_name = "STAGE", value_parser = Stage::ALL.map(Stage::as_str))]
    stage: Option<String>,
    /// Letters of this group, as `dlq groups` names it
    #[arg(long, value_name = "GROUP", value_parser = NonEmptyStringValueParser::new())]
    group: Option<String>,
    /// Letters whose error contains this text
    #[arg(long = "error", value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    error: Option<String>,
    /// Letters of records of these collections: an NSID, or a prefix such as com.huddle.*
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    collection: Option<Pattern>,
    /// Letters of this account
    #[arg(long, value_name = "DID", value_parser = Did::parse)]
    did: Option<Did>,
    /// Letters from this source, or from a sink: sink:NAME
    #[arg(long, value_name = "SOURCE", value_parser = NonEmptyStringValueParser::new())]
    source: Option<String>,
    /// Letters that were kept since then: a date, or a time such as 2026-07-04T14:38:07Z
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    since: Option<Timestamp>,
    /// Letters that were kept before then
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    until: Option<Timestamp>,
    /// Letters that are older than 90s, 30m, 1h or 2d
    #[arg(long, value_name = "TIME", value_parser = span::seconds, conflicts_with = "until")]
    older_than: Option<u32>,
}

impl Filter {
    /// The filter, for what only reads.
    ///
    /// # Errors
    /// If it names a letter that does not exist.
    pub(super) async fn checked(&self, store: &SqliteStore) -> anyhow::Result<LetterFilter> {
        check_missing(&store.missing_letters(&self.ids).await?)?;
        Ok(self.filter())
    }

    pub(super) fn filter(&self) -> LetterFilter {
        let Self {
            ids,
            stage,
            group,
            error,
            collection,
            did,
            source,
            since,
            until,
            older_than,
        } = self;
        let before = older_than.map(|seconds| {
            let age = SignedDuration::from_secs(seconds.into());
            let now = Timestamp::now();
            now.saturating_sub(age).unwrap_or(Timestamp::MIN)
        });
        LetterFilter {
            ids: ids.clone(),
            group: group.clone(),
            stage: stage.clone(),
            reason: error.clone(),
            collection: collection.clone(),
            did: did.clone(),
            source: source.clone(),
            since: *since,
            until: until.or(before),
        }
    }
}

/// # Errors
/// If there are ids that no letter has.
pub(super) fn check_missing(ids: &[i64]) -> anyhow::Result<()> {
    match ids.is_empty() {
        true => Ok(()),
        false => Err(CommandError::NoSuchLetters(ids.to_vec()).into()),
    }
}

fn pattern(text: &str) -> Result<Pattern, PatternError> {
    text.parse()
}
