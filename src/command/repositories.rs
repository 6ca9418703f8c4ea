//! Commands about one account or repository.

use serde_json::{Value, json};

use super::CommandError;
use super::scope::{Act, Outcome, Run};
use crate::atproto::syntax::Did;
use crate::source::process::verification::Verify;
use crate::store::plan::{RepoChange, RepoEvent, ResyncCause};

pub(super) async fn resync(run: &Run<'_>, did: &Did) -> Result<Outcome, CommandError> {
    run.scope.check_fetched(did).await?;
    let cause = ResyncCause::Operator;
    let event = RepoEvent::RequestResync { cause };
    let after = json!({ "state": "desynchronized", "cause": cause.as_str() });
    change(run, did, event, after, "to be fetched").await
}

pub(super) async fn recheck(run: &Run<'_>, did: &Did) -> Result<Outcome, CommandError> {
    run.scope.check_fetched(did).await?;
    let after = json!({ "recheck": true });
    let event = RepoEvent::RequestRecheck;
    change(run, did, event, after, "to be compared with its host").await
}

pub(super) async fn untrack(run: &Run<'_>, did: &Did) -> Result<Outcome, CommandError> {
    let after = json!({ "state": "unverified_chain" });
    let result = "nothing is due for it; its next commit has it followed again if it is wanted";
    change(run, did, RepoEvent::Untrack, after, result).await
}

async fn change(
    run: &Run<'_>,
    did: &Did,
    event: RepoEvent<'_>,
    after: Value,
    result: &str,
) -> Result<Outcome, CommandError> {
    let store = &run.scope.store;
    let act = Act {
        before: Some(json!(store.repo_summary(did).await?)),
        after: Some(after),
    };
    let receipt = run.receipt(act, json!({ "did": did, "note": result }));
    let change = RepoChange::Repo { did, event };
    store.change_by_command(change, &receipt).await?;
    run.scope.wake_repositories();
    Ok(Outcome::Ended)
}

pub(super) async fn account(
    run: &Run<'_>,
    did: &Did,
    is_shown: bool,
) -> Result<Outcome, CommandError> {
    let store = &run.scope.store;
    let before = store.account_status(did).await?;
    let was_overridden = before.is_some_and(|status| status.is_overridden);
    let act = Act {
        before: Some(json!({ "is_overridden": was_overridden })),
        after: Some(json!({ "is_overridden": is_shown })),
    };
    let receipt = run.receipt(act, json!({ "did": did }));
    let change = RepoChange::Override {
        did,
        is_shown,
        is_fetched: run.scope.verify != Verify::None,
    };
    store.change_by_command(change, &receipt).await?;
    run.scope.wake_repositories();
    Ok(Outcome::Ended)
}
