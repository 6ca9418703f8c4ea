//! Reads the changes that a request asks for.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::watch;
use tokio::time::timeout;

use super::query::{Query, Since};
use crate::atproto::pattern::Pattern;
use crate::model::{Change, ChangedRow, Feed, FeedPosition};
use crate::sink::item::item;
use crate::store::change_feed::{Cbor, ChangeFeed};
use crate::store::{PieceLimit, StoreError};

/// What is read of the feed at a time.
const PIECE: PieceLimit = PieceLimit {
    rows: 1000,
    bytes: 4 << 20,
};
/// Pieces that are read for one answer, so that a filter that finds nothing comes to an end.
const MOST_PIECES: usize = 20;
/// The bytes of the items of one answer.
const MOST_BYTES: usize = 4 << 20;
/// Up to how many rows are counted that are left.
const MOST_COUNTED: u64 = 1_000_000;
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(8);

/// A reader of the feed, and where it stands.
pub(super) struct Reader {
    feed: Arc<dyn ChangeFeed>,
    pub(super) query: Query,
    after: u64,
    pub(super) commits: watch::Receiver<u64>,
}

/// Some changes.
pub(super) struct Page {
    /// Each with its position, as JSON.
    pub(super) items: Vec<(String, String)>,
    /// Where the next page begins.
    pub(super) last: String,
    /// Nothing was behind it when it was read.
    pub(super) is_end: bool,
}

impl Reader {
    pub(super) async fn open(feed: Arc<dyn ChangeFeed>, query: Query) -> Result<Self, StoreError> {
        let commits = feed.commits();
        let known = within_deadline(feed.feed()).await?;
        let after = match &query.since {
            Since::Beginning => 0,
            Since::Now => known.last,
            Since::Position(position) => known.begin(Some(position)),
        };
        Ok(Self {
            feed,
            query,
            after,
            commits,
        })
    }

    /// Reads on. A page without items may still have moved the position.
    pub(super) async fn next_page(&mut self) -> Result<Page, StoreError> {
        // Seen before the feed is read, so that what is written meanwhile is not missed.
        self.commits.mark_unchanged();
        let mut items = Vec::new();
        let mut bytes = 0;
        let mut last = None;
        let mut is_end = false;
        for _ in 0..MOST_PIECES {
            let page = within_deadline(self.feed.changes(self.after, PIECE, Cbor::Without)).await?;
            is_end = page.through == self.after;
            let mut through = page.through;
            for change in &page.changes {
                if !is_told(change, &self.query.collections) {
                    continue;
                }
                if items.len() as u64 >= self.query.limit || bytes >= MOST_BYTES {
                    through = change.number - 1;
                    break;
                }
                let text = item(change, &page.feed.id, self.query.body);
                let text = text.map_err(|error| StoreError::Corrupt(error.to_string()))?;
                bytes += text.len();
                items.push((position(&page.feed, change.number), text));
            }
            let is_cut = through != page.through;
            self.after = through;
            last = Some(position(&page.feed, through));
            if is_end || is_cut || items.len() as u64 >= self.query.limit {
                break;
            }
        }
        Ok(Page {
            items,
            last: last.unwrap_or_default(),
            is_end,
        })
    }

    /// The answer that has `page`, the last one that was read, and says how much is behind it.
    pub(super) async fn answer(&self, page: &Page) -> Result<String, StoreError> {
        let left = self.feed.count_changes(self.after, MOST_COUNTED);
        let pending = within_deadline(left).await?;
        let items: Vec<&str> = page.items.iter().map(|(_, item)| item.as_str()).collect();
        Ok(format!(
            "{{\"results\":[{}],\"last_seq\":{},\"pending\":{pending}}}\n",
            items.join(",\n"),
            json!(page.last),
        ))
    }
}

/// Accounts are told whatever is asked for: they say what is hidden and removed.
fn is_told(change: &Change, collections: &[Pattern]) -> bool {
    match &change.row {
        ChangedRow::Account(_) => true,
        ChangedRow::Record(record) => {
            let mut patterns = collections.iter();
            collections.is_empty() || patterns.any(|pattern| pattern.matches(&record.collection))
        }
    }
}

/// The text of a position. A feed that has no epoch yet has nothing to tell.
fn position(feed: &Feed, change: u64) -> String {
    let position = feed.position(change);
    position.map_or_else(
        || "0".to_owned(),
        |position: FeedPosition| position.to_string(),
    )
}

async fn within_deadline<T>(
    reading: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    timeout(DEADLINE, reading)
        .await
        .unwrap_or(Err(StoreError::Deadline))
}
