//! `migrate`: updates the database's schema.

use huddle_firehose::store::sqlite::Access;
use huddle_firehose::worker;

use super::{Configuration, database, print, runtime};

pub(super) fn execute(configuration: &Configuration) -> anyhow::Result<()> {
    let config = configuration.load_and_log_with_lexicons()?;
    runtime()?.block_on(async {
        let _lock = database::lock(&config, "migrate").await?;
        let store = database::open(&config, Access::Create).await?;
        let lexicons = worker::lexicons(&(&config).into())?;
        Ok::<_, anyhow::Error>(worker::make_views(&store, &lexicons.views).await?)
    })?;
    Ok(print(&format!(
        "the schema of {} is up to date\n",
        config.database_url
    ))?)
}
