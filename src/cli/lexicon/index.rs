//! `lexicon index`: an index on a column of a view.

use anyhow::bail;

use huddle_firehose::atproto::syntax::Nsid;
use huddle_firehose::config::Config;
use huddle_firehose::lexicon::{Column, TypedView};
use huddle_firehose::worker;

use crate::cli::{database, print, runtime};

pub(super) fn execute(
    config: &Config,
    nsid: &Nsid,
    property: &str,
    is_dropped: bool,
) -> anyhow::Result<()> {
    let lexicons = worker::lexicons(&config.into())?;
    let view = super::view_of(&lexicons, nsid)?;
    let column = column_of(view, property)?;
    let text = runtime()?.block_on(async {
        let (store, _lock) = database::open_to_write(config, "lexicon index").await?;
        worker::make_views(&store, &lexicons.views).await?;
        let name = &column.name;
        if is_dropped {
            return Ok::<_, anyhow::Error>(match store.drop_index(view, column).await? {
                true => format!("the index on {name} is gone\n"),
                false => format!("there is no index on {name}\n"),
            });
        }
        Ok(match store.make_index(view, column).await? {
            Some(index) => format!("made the index {index}\n"),
            None => format!("there is an index on {name} already\n"),
        })
    })?;
    Ok(print(&text)?)
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
        (None, _) => {
            let known: Vec<&str> = view.columns.iter().map(|column| &*column.name).collect();
            bail!(
                "{} has no column {property}; it has {}",
                view.name,
                known.join(", ")
            )
        }
    }
}
