//! Decides what a page changes in its discovery.

use super::task::DiscoveryPage;

/// A row of `discoveries`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveryRow {
    /// The number of the pass. A gap has the whole list read once more.
    pub pass: i64,
    /// Where the list continues; `None` at its beginning, or if it is over.
    pub cursor: Option<String>,
    pub repos: u64,
    /// Another pass follows this one.
    pub has_next_pass: bool,
    pub is_over: bool,
}

impl DiscoveryRow {
    /// The row after `page`; `None` if the page is of another pass, or the discovery is over. The
    /// repositories of such a page count, but its cursor does not.
    pub(super) fn after(&self, page: &DiscoveryPage<'_>) -> Option<Self> {
        if self.pass != page.pass || self.is_over {
            return None;
        }
        let next = Self {
            cursor: page.cursor.map(str::to_owned),
            repos: self.repos + page.dids.len() as u64,
            ..self.clone()
        };
        Some(match page.cursor {
            Some(_) => next,
            None if self.has_next_pass => Self {
                pass: self.pass + 1,
                repos: 0,
                has_next_pass: false,
                ..next
            },
            None => Self {
                is_over: true,
                ..next
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atproto::syntax::Did;
    use crate::store::plan::Search;

    fn row(has_next_pass: bool) -> DiscoveryRow {
        DiscoveryRow {
            pass: 4,
            cursor: Some("two".to_owned()),
            repos: 10,
            has_next_pass,
            is_over: false,
        }
    }

    fn after(row: &DiscoveryRow, pass: i64, cursor: Option<&str>) -> Option<DiscoveryRow> {
        row.after(&DiscoveryPage {
            search: &Search::parse("com.huddle.booking").unwrap(),
            dids: &[Did::parse("did:plc:ann").unwrap()],
            cursor,
            pass,
        })
    }

    #[test]
    fn a_page_of_another_pass_changes_nothing() {
        for pass in [3, 5] {
            assert_eq!(after(&row(false), pass, Some("three")), None);
            assert_eq!(after(&row(true), pass, None), None);
        }
        let over = DiscoveryRow {
            is_over: true,
            ..row(false)
        };
        assert_eq!(after(&over, 4, Some("three")), None);
    }

    #[test]
    fn the_last_page_ends_the_discovery_or_begins_the_next_pass() {
        let next = after(&row(true), 4, Some("three")).unwrap();
        assert_eq!((next.cursor.as_deref(), next.repos), (Some("three"), 11));
        assert!(next.has_next_pass && !next.is_over);
        let last = after(&row(false), 4, None).unwrap();
        assert_eq!((last.pass, last.cursor, last.is_over), (4, None, true));
        let anew = after(&row(true), 4, None).unwrap();
        let begun = DiscoveryRow {
            pass: 5,
            cursor: None,
            repos: 0,
            has_next_pass: false,
            is_over: false,
        };
        assert_eq!(anew, begun);
    }
}
