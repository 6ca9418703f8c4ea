//! `status`: shows the contents of the database, with or without a running worker.

use huddle_firehose::store::repo_store::RepoStore;
use huddle_firehose::telemetry::excerpt::shown_json;

use super::{Configuration, database, print, runtime};

/// The number of repository fetches that are shown.
const LAST_RESYNCS: u32 = 20;

pub(super) fn execute(configuration: &Configuration) -> anyhow::Result<()> {
    let config = configuration.load_and_log()?;
    let text = runtime()?.block_on(async {
        let store = database::open_to_read(&config).await?;
        let report = serde_json::json!({
            "database": config.database_url,
            "cursors": store.cursors().await?,
            "counts": store.counts().await?,
            "collections": store.collection_counts().await?,
            "open_gaps": store.open_gaps().await?,
            "repositories": store.repo_counts().await?,
            "last_resyncs": store.last_resyncs(LAST_RESYNCS).await?,
        });
        anyhow::Ok(serde_json::to_string_pretty(&report)?)
    })?;
    Ok(print(&(shown_json(&text) + "\n"))?)
}
