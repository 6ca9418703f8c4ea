//! Pages of lists, and what a request says about them.

use serde::{Deserialize, Serialize};

/// The rows of a page, unless the request says so.
const PAGE: u32 = 50;

/// What a request for a page says. A parameter that is not known is refused.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageQuery {
    limit: Option<u32>,
    /// The id of the last row of the page before.
    before: Option<i64>,
}

/// The rows of a page for which a request asks.
pub(super) fn bounded(limit: Option<u32>) -> u32 {
    limit.unwrap_or(PAGE).clamp(1, crate::store::sqlite::PAGE)
}

impl PageQuery {
    pub(super) fn limit(&self) -> u32 {
        bounded(self.limit)
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
