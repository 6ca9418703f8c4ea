//! `migrate`: updates the database's schema.

use huddle_firehose::store::sqlite::Access;

use super::{Configuration, database, print, runtime};

pub(super) fn execute(configuration: &Configuration) -> anyhow::Result<()> {
    let config = configuration.load_and_log()?;
    runtime()?.block_on(async {
        let _lock = database::lock(&config, "migrate").await?;
        database::open(&config, Access::Create).await
    })?;
    Ok(print(&format!(
        "the schema of {} is up to date\n",
        config.database_url
    ))?)
}
