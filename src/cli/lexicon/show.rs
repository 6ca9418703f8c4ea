//! `lexicon show`: the columns of a view, and the SQL that makes it.

use std::fmt::Write;

use huddle_firehose::atproto::syntax::Nsid;
use huddle_firehose::lexicon::{FIXED_COLUMNS, Lexicons};
use huddle_firehose::store::sqlite::SqliteStore;
use huddle_firehose::telemetry::excerpt::shown;

pub(super) fn describe(lexicons: &Lexicons, nsid: &Nsid) -> anyhow::Result<String> {
    let view = super::view_of(lexicons, nsid)?;
    let mut text = format!("-- {nsid}\n");
    if let Some(file) = lexicons.files.get(nsid) {
        writeln!(text, "-- from {}", file.display())?;
    }
    writeln!(text, "-- view {}", view.name)?;
    for column in FIXED_COLUMNS {
        writeln!(text, "--   {column}")?;
    }
    for column in &view.columns {
        let kind = column.kind.as_str();
        let property = shown(&column.property);
        writeln!(text, "--   {}\t{kind}\t{property}", column.name)?;
    }
    writeln!(text, "{};", SqliteStore::view_statement(view))?;
    Ok(text)
}
