//! Says at the start which records were judged by other rules.

use crate::repo::reprocess::judgements;
use crate::source::process::records::Rules;
use crate::store::StoreError;
use crate::store::rejudge_store::RejudgeStore;

/// Notes the rules of this worker, and returns the collections of which records were judged by others.
///
/// # Errors
/// If the database fails.
pub(super) async fn compare(
    store: &dyn RejudgeStore,
    rules: &Rules,
) -> Result<Vec<String>, StoreError> {
    store.restart_reprocessings(rules.digest()).await?;
    let kept = store.kept_collections().await?;
    let outdated = store.compare_rules(&judgements(rules, kept)).await?;
    if !outdated.is_empty() {
        tracing::warn!(
            collections = outdated.len(),
            first = outdated[0],
            "records were judged by other lexicons or policies than those in force; `reprocess --invalid` \
             judges those again that were invalid, and `reprocess --all` all"
        );
    }
    Ok(outdated)
}
