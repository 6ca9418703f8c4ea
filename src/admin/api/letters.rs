//! `/dead-letters`.

use std::num::NonZeroU32;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::ApiState;
use super::answer::{Limit, Page};
use super::body::Body;
use super::problem::Problem;
use super::submit::{Act, submit};
use crate::atproto::pattern::Pattern;
use crate::atproto::syntax::Did;
use crate::command::{BulkLetters, Caller, Command, CommandError};
use crate::store::letters::{LetterFilter, LetterGroup, LetterRow};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LettersQuery {
    #[serde(default)]
    limit: Limit,
    before: Option<i64>,
    stage: Option<String>,
    group: Option<String>,
    error: Option<String>,
    collection: Option<Pattern>,
    did: Option<Did>,
    source: Option<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

/// The body of an act on many letters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bulk {
    #[serde(default, deserialize_with = "crate::command::object")]
    filter: LetterFilter,
    #[serde(default)]
    all: bool,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    per_second: Option<NonZeroU32>,
    #[serde(default)]
    reason: Option<String>,
}

type IdPath = Result<Path<i64>, PathRejection>;
type LettersParameters = Result<Query<LettersQuery>, QueryRejection>;

impl LettersQuery {
    fn filter(self) -> LetterFilter {
        LetterFilter {
            ids: Vec::new(),
            group: self.group,
            stage: self.stage,
            reason: self.error,
            collection: self.collection,
            did: self.did,
            source: self.source,
            since: self.since,
            until: self.until,
        }
    }
}

pub(super) async fn list(
    State(state): State<ApiState>,
    query: LettersParameters,
) -> Result<Json<Page<LetterRow>>, Problem> {
    let Query(query) = query?;
    let (limit, before) = (query.limit.0, query.before);
    let store = &state.commands.scope.store;
    let rows = store.dead_letters(&query.filter(), before, limit).await?;
    Ok(Json(Page::new(rows, limit, |row| row.id)))
}

pub(super) async fn groups(
    State(state): State<ApiState>,
    query: LettersParameters,
) -> Result<Json<Vec<LetterGroup>>, Problem> {
    let Query(query) = query?;
    let store = &state.commands.scope.store;
    Ok(Json(store.letter_groups(&query.filter()).await?))
}

pub(super) async fn show(
    State(state): State<ApiState>,
    id: IdPath,
) -> Result<Json<Value>, Problem> {
    let Path(id) = id?;
    let letter = state.commands.scope.store.dead_letter(id).await?;
    let found = letter.map(|letter| Json(letter.json()));
    found.ok_or_else(|| no_letter(id))
}

pub(super) async fn retry(
    State(state): State<ApiState>,
    id: IdPath,
    act: Act,
) -> Result<Response, Problem> {
    let Path(id) = id?;
    act_on_one(&state, id, act, Command::DeadLettersRetry(one(id))).await
}

pub(super) async fn discard(
    State(state): State<ApiState>,
    id: IdPath,
    act: Act,
) -> Result<Response, Problem> {
    let Path(id) = id?;
    act_on_one(&state, id, act, Command::DeadLettersDiscard(one(id))).await
}

/// Gives a command about one letter. A request that is made again is the same command, also after it has
/// resolved the letter.
async fn act_on_one(
    state: &ApiState,
    id: i64,
    act: Act,
    command: Command,
) -> Result<Response, Problem> {
    let missing = state.commands.scope.store.missing_letters(&[id]).await?;
    match missing.is_empty() || act.may_be_repeated() {
        true => act.submit(command).await,
        false => Err(no_letter(id)),
    }
}

fn no_letter(id: i64) -> Problem {
    Problem::not_found(CommandError::NoSuchLetters(vec![id]).to_string())
}

pub(super) async fn retry_all(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Result<Body<Bulk>, Problem>,
) -> Result<Response, Problem> {
    let (bulk, reason) = body?.0.parts();
    let command = Command::DeadLettersRetry(bulk);
    submit(&state, &caller, &headers, command, reason).await
}

pub(super) async fn discard_all(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Result<Body<Bulk>, Problem>,
) -> Result<Response, Problem> {
    let (bulk, reason) = body?.0.parts();
    let command = Command::DeadLettersDiscard(bulk);
    submit(&state, &caller, &headers, command, reason).await
}

fn one(id: i64) -> BulkLetters {
    BulkLetters {
        filter: LetterFilter {
            ids: vec![id],
            ..LetterFilter::default()
        },
        ..BulkLetters::default()
    }
}

impl Bulk {
    fn parts(self) -> (BulkLetters, Option<String>) {
        let bulk = BulkLetters {
            filter: self.filter,
            all: self.all,
            dry_run: self.dry_run,
            per_second: self.per_second,
        };
        (bulk, self.reason)
    }
}
