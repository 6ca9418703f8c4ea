//! `lexicon index`: an index on a column of a view.

use anyhow::bail;

use huddle_firehose::atproto::syntax::Nsid;
use huddle_firehose::command::Command;
use huddle_firehose::config::Config;
use huddle_firehose::lexicon::{Column, FIXED_COLUMNS, TypedView};
use huddle_firehose::model::CommandRow;
use huddle_firehose::worker;

use crate::cli::{print, request, runtime};

pub(super) fn execute(
    config: &Config,
    nsid: &Nsid,
    property: &str,
    is_dropped: bool,
    reason: Option<String>,
) -> anyhow::Result<()> {
    let lexicons = worker::lexicons(&config.into())?;
    let view = super::view_of(&lexicons, nsid)?;
    let column = column_of(view, property)?;
    let command = Command::LexiconIndex {
        collection: view.collection.clone(),
        column: column.name.clone(),
        drop: is_dropped,
    };
    let row = runtime()?.block_on(request::give(config, "lexicon index", command, reason))?;
    Ok(print(&told(&row, &column.name, is_dropped))?)
}

fn told(row: &CommandRow, column: &str, is_dropped: bool) -> String {
    let Some(result) = &row.result else {
        return format!(
            "command {} is not over; the next worker goes on with it\n",
            row.id
        );
    };
    let was_there = result["was_there"].as_bool().unwrap_or_default();
    let index = result["index"].as_str().unwrap_or_default();
    match (is_dropped, was_there) {
        (true, true) => format!("the index on {column} is gone\n"),
        (true, false) => format!("there is no index on {column}\n"),
        (false, true) => format!("there is an index on {column} already\n"),
        (false, false) => format!("made the index {index}\n"),
    }
}

/// The column with this name, or the only one of the property with this name.
fn column_of<'a>(view: &'a TypedView, property: &str) -> anyhow::Result<&'a Column> {
    let named = view.columns.iter().find(|column| column.name == property);
    if let Some(column) = named {
        return Ok(column);
    }
    let mut columns = view
        .columns
        .iter()
        .filter(|column| column.property == property);
    match (columns.next(), columns.next()) {
        (Some(column), None) => Ok(column),
        (Some(one), Some(other)) => {
            bail!(
                "{property} has two columns; name {} or {}",
                one.name,
                other.name
            )
        }
        (None, _) if FIXED_COLUMNS.contains(&property) => {
            bail!(
                "{property} is a column of every view, which has no index of its own; only a column of a \
                 property can have one: {}",
                known(view)
            )
        }
        (None, _) => {
            bail!(
                "{} has no column {property} of a property; it has {}",
                view.name,
                known(view)
            )
        }
    }
}

/// The columns of the view's properties.
fn known(view: &TypedView) -> String {
    let known: Vec<&str> = view.columns.iter().map(|column| &*column.name).collect();
    known.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_of_every_view_is_refused_as_such_and_not_as_unknown() {
        let view = TypedView {
            collection: Nsid::parse("com.example.note").unwrap(),
            name: "com_example_note".to_owned(),
            columns: Vec::new(),
        };
        let refused = |property| column_of(&view, property).unwrap_err().to_string();
        assert!(refused("did").starts_with("did is a column of every view"));
        assert!(refused("colour").contains("has no column colour of a property"));
    }
}
