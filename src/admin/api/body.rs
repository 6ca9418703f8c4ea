//! The body of a request: a JSON object.

use axum::Json;
use axum::extract::{FromRequest, OptionalFromRequest, Request};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::problem::Problem;

/// A body as `T`. Only an object is one: the fields of an array would have their meaning by their place.
#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let Json(text) =
            <Json<Box<RawValue>> as FromRequest<S>>::from_request(request, state).await?;
        read(&text)
    }
}

impl<T: DeserializeOwned, S: Send + Sync> OptionalFromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, Problem> {
        let text =
            <Json<Box<RawValue>> as OptionalFromRequest<S>>::from_request(request, state).await?;
        text.map(|Json(text)| read(&text)).transpose()
    }
}

fn read<T: DeserializeOwned>(text: &RawValue) -> Result<Body<T>, Problem> {
    if !text.get().starts_with('{') {
        return Err(Problem::unprocessable("the body is no JSON object"));
    }
    let read = serde_json::from_str(text.get());
    read.map(Body).map_err(|error| {
        Problem::unprocessable(format!("the body is not as it should be: {error}"))
    })
}
