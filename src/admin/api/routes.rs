//! Every path of the interface, with its handler and what the document says of it. The router and the
//! document are made from this one table.

use axum::routing::{MethodRouter, delete, get, patch, post, put};

use super::{
    ApiState, acts, commands, document, events, filters, letters, lists, repos, sinks, sources,
};

/// A method of a path.
pub(super) struct Route {
    pub(super) path: &'static str,
    /// In lower case.
    pub(super) method: &'static str,
    pub(super) handler: fn() -> MethodRouter<ApiState>,
    pub(super) summary: &'static str,
    /// The schema of the body, if there is one.
    pub(super) body: Option<&'static str>,
    /// The schema of the answer.
    pub(super) answer: &'static str,
    /// The parameters of the query.
    pub(super) query: &'static [&'static str],
}

const fn route(
    method: &'static str,
    path: &'static str,
    handler: fn() -> MethodRouter<ApiState>,
    answer: &'static str,
    summary: &'static str,
) -> Route {
    Route {
        path,
        method,
        handler,
        summary,
        body: None,
        answer,
        query: &[],
    }
}

impl Route {
    const fn with_body(mut self, schema: &'static str) -> Self {
        self.body = Some(schema);
        self
    }

    const fn with_query(mut self, parameters: &'static [&'static str]) -> Self {
        self.query = parameters;
        self
    }

    /// Whether it changes something.
    pub(super) fn is_command(&self) -> bool {
        self.method != "get"
    }
}

/// An act whose body may only have a reason.
const fn act(
    path: &'static str,
    handler: fn() -> MethodRouter<ApiState>,
    summary: &'static str,
) -> Route {
    route("post", path, handler, "Command", summary).with_body("Reason")
}

const PAGE: &[&str] = &["limit", "before"];

/// Which dead letters are meant.
const LETTERS: &[&str] = &[
    "stage",
    "group",
    "error",
    "collection",
    "did",
    "source",
    "since",
    "until",
];
const LETTERS_OF_A_PAGE: &[&str] = &[
    "limit",
    "before",
    "stage",
    "group",
    "error",
    "collection",
    "did",
    "source",
    "since",
    "until",
];

pub(super) const ROUTES: &[Route] = &[
    route(
        "get",
        "/audit",
        || get(commands::audit),
        "AuditPage",
        "Who did what, the newest first",
    )
    .with_query(PAGE),
    act(
        "/backfill/cancel",
        || post(acts::cancel_backfill),
        "End the searches of a backfill, and forget what it has not fetched yet",
    ),
    act(
        "/backfill/pause",
        || post(acts::pause_backfill),
        "Search for no repositories, and fetch none because its past is wanted",
    ),
    act(
        "/backfill/resume",
        || post(acts::resume_backfill),
        "Go on with the backfill",
    ),
    act(
        "/backfill/start",
        || post(acts::start_backfill),
        "Find and fetch the repositories that hold wanted records",
    ),
    route(
        "get",
        "/commands",
        || get(commands::list),
        "CommandPage",
        "Commands, the newest first",
    )
    .with_query(PAGE),
    route(
        "post",
        "/commands",
        || post(commands::give),
        "Command",
        "Give a command of any kind",
    )
    .with_body("GivenCommand"),
    route(
        "get",
        "/commands/{id}",
        || get(commands::show),
        "Command",
        "One command. Prefer: wait=N waits for its end",
    ),
    act(
        "/commands/{id}/cancel",
        || post(commands::cancel),
        "Cancel a command that waits, or a long one",
    ),
    route(
        "get",
        "/dead-letters",
        || get(letters::list),
        "DeadLetterPage",
        "Dead letters, the newest first",
    )
    .with_query(LETTERS_OF_A_PAGE),
    route(
        "post",
        "/dead-letters/discard",
        || post(letters::discard_all),
        "Command",
        "Delete dead letters",
    )
    .with_body("BulkLetters"),
    route(
        "get",
        "/dead-letters/groups",
        || get(letters::groups),
        "DeadLetterGroupList",
        "Dead letters by what is wrong with them, the largest group first",
    )
    .with_query(LETTERS),
    route(
        "post",
        "/dead-letters/retry",
        || post(letters::retry_all),
        "Command",
        "Try dead letters again",
    )
    .with_body("BulkLetters"),
    route(
        "get",
        "/dead-letters/{id}",
        || get(letters::show),
        "WholeDeadLetter",
        "One dead letter",
    ),
    act(
        "/dead-letters/{id}/discard",
        || post(letters::discard),
        "Delete a dead letter",
    ),
    act(
        "/dead-letters/{id}/retry",
        || post(letters::retry),
        "Try a dead letter again",
    ),
    act(
        "/drain",
        || post(acts::drain),
        "Apply what was read, write the cursor, and end the worker",
    ),
    route(
        "get",
        "/events",
        || get(events::events),
        "Events",
        "What happens, as server-sent events",
    ),
    route(
        "get",
        "/filters",
        || get(filters::list),
        "FilterList",
        "What is kept, and how it is judged",
    ),
    route(
        "get",
        "/filters/{name}",
        || get(filters::show),
        "Filter",
        "One of these settings",
    ),
    route(
        "put",
        "/filters/{name}",
        || put(filters::set),
        "Command",
        "Replace it; needs If-Match",
    )
    .with_body("NewFilter"),
    route(
        "patch",
        "/filters/{name}",
        || patch(filters::set),
        "Command",
        "Add and remove items; needs If-Match",
    )
    .with_body("NewFilter"),
    route(
        "delete",
        "/filters/{name}",
        || delete(filters::reset),
        "Command",
        "Let the configuration decide again; needs If-Match",
    )
    .with_body("Reason"),
    route(
        "get",
        "/gaps",
        || get(lists::gaps),
        "GapPage",
        "Gaps, the newest first",
    )
    .with_query(&["limit", "before", "only_open"]),
    route(
        "post",
        "/log-level",
        || post(acts::log_level),
        "Command",
        "Change the filter of the log for a time",
    )
    .with_body("LogFilter"),
    route(
        "get",
        "/openapi.json",
        || get(document),
        "Document",
        "This document",
    ),
    route(
        "get",
        "/operations",
        || get(lists::operations),
        "CommandList",
        "Long commands that are not ended",
    ),
    route(
        "get",
        "/operations/{id}",
        || get(lists::operation),
        "Command",
        "One long command",
    ),
    act(
        "/operations/{id}/cancel",
        || post(commands::cancel),
        "Cancel a long command",
    ),
    route(
        "get",
        "/repos",
        || get(repos::list),
        "RepoPage",
        "Tracked repositories, by DID",
    )
    .with_query(&["limit", "state", "after"]),
    route(
        "get",
        "/repos/{did}",
        || get(repos::show),
        "Repo",
        "All that is known of a repository, and its history",
    ),
    route(
        "post",
        "/repos/{did}/override",
        || post(repos::show_account),
        "Command",
        "Show an account although the source holds it, or end that",
    )
    .with_body("Override"),
    act(
        "/repos/{did}/recheck",
        || post(repos::recheck),
        "Compare a repository with its host, and fetch it if they differ",
    ),
    act(
        "/repos/{did}/resync",
        || post(repos::resync),
        "Fetch a whole repository",
    ),
    act(
        "/repos/{did}/untrack",
        || post(repos::untrack),
        "Forget what is due for a repository",
    ),
    act(
        "/repos/{did}/verify",
        || post(repos::recheck),
        "The same as recheck",
    ),
    route(
        "get",
        "/sinks",
        || get(sinks::list),
        "SinkList",
        "All sinks that are configured",
    ),
    route(
        "get",
        "/sinks/{sink}",
        || get(sinks::show),
        "Sink",
        "One sink",
    ),
    act(
        "/sinks/{sink}/pause",
        || post(sinks::pause),
        "Deliver nothing to it",
    ),
    act(
        "/sinks/{sink}/remove",
        || post(sinks::remove),
        "Follow the change feed for it no more",
    ),
    act(
        "/sinks/{sink}/resume",
        || post(sinks::resume),
        "Deliver to it again",
    ),
    act(
        "/sinks/{sink}/resync",
        || post(sinks::resync),
        "Deliver everything again, also to one that was removed",
    ),
    route(
        "post",
        "/sinks/{sink}/rewind",
        || post(sinks::rewind),
        "Command",
        "Deliver again what comes behind a place of the change feed",
    )
    .with_body("SinkRewind"),
    route(
        "get",
        "/sources",
        || get(sources::list),
        "SourceList",
        "All sources",
    ),
    route(
        "get",
        "/sources/{source}",
        || get(sources::show),
        "Source",
        "One source",
    ),
    route(
        "put",
        "/sources/{source}/cursor",
        || put(sources::set_cursor),
        "Command",
        "Set its cursor; the worker drains, and goes on from there",
    )
    .with_body("NewCursor"),
    act(
        "/sources/{source}/cursor/reset",
        || post(sources::reset_cursor),
        "Set its cursor to the oldest event that it still holds",
    ),
    route(
        "post",
        "/sources/{source}/cursor/rewind",
        || post(sources::rewind_cursor),
        "Command",
        "Set its cursor back by a time",
    )
    .with_body("Rewind"),
    act(
        "/sources/{source}/pause",
        || post(sources::pause),
        "Read nothing from it",
    ),
    act(
        "/sources/{source}/reconnect",
        || post(sources::reconnect),
        "Dial it anew",
    ),
    route(
        "post",
        "/sources/{source}/rerun",
        || post(sources::rerun),
        "Command",
        "Read a stretch of it again, beside the live stream",
    )
    .with_body("Stretch"),
    act(
        "/sources/{source}/resume",
        || post(sources::resume),
        "Read from it again",
    ),
];
