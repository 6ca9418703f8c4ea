//! Pages of lists, and what a request says about them.

use serde::{Deserialize, Serialize};

use crate::store::sqlite::PAGE;

/// The rows of a page: 1 to [`PAGE`].
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "u32")]
pub(super) struct Limit(pub(super) u32);

impl Default for Limit {
    fn default() -> Self {
        Self(50)
    }
}

impl TryFrom<u32> for Limit {
    type Error = String;

    fn try_from(rows: u32) -> Result<Self, String> {
        match (1..=PAGE).contains(&rows) {
            true => Ok(Self(rows)),
            false => Err(format!("limit: a page has 1 to {PAGE} rows")),
        }
    }
}

/// What a request for a page says. A parameter that is not known is refused.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageQuery {
    #[serde(default)]
    limit: Limit,
    /// The id of the last row of the page before.
    before: Option<i64>,
}

impl PageQuery {
    pub(super) fn limit(&self) -> u32 {
        self.limit.0
    }

    pub(super) fn before(&self) -> Option<i64> {
        self.before
    }
}

/// A page of a list, the newest rows first.
#[derive(Debug, Serialize)]
pub(super) struct Page<T> {
    items: Vec<T>,
    /// The parameter `before` of the next page; `None` at the end.
    next: Option<i64>,
}

impl<T> Page<T> {
    pub(super) fn new(items: Vec<T>, limit: u32, id: impl Fn(&T) -> i64) -> Self {
        let is_full = items.len() >= limit as usize;
        let next = items.last().filter(|_| is_full).map(id);
        Self { items, next }
    }
}
