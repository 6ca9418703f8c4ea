//! `migrate`: updates the database's schema.

use huddle_firehose::store::sqlite::SqliteStore;

use super::{Configuration, print, runtime};

pub(super) fn execute(configuration: &Configuration) -> anyhow::Result<()> {
    let config = configuration.load_and_log()?;
    runtime()?.block_on(SqliteStore::open(&config.database_url))?;
    Ok(print(&format!(
        "the schema of {} is up to date\n",
        config.database_url
    ))?)
}
