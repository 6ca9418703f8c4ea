//! The text form of a cursor: in the URL of a subscription, and in a database.

use jiff::Timestamp;
use url::{Url, form_urlencoded};

use super::Position;

/// Text that is not a cursor.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CursorError {
    #[error("the cursor {0:?} is not a seq")]
    Seq(String),
    #[error("the cursor's time {text:?} is not a timestamp: {error}")]
    Time { text: String, error: jiff::Error },
}

impl Position {
    /// Parses a position as the database stores it: each part in its `Display` form.
    ///
    /// # Errors
    /// If either part is not valid.
    pub fn parse(seq: &str, time: Option<&str>) -> Result<Self, CursorError> {
        let time = time
            .map(|text| {
                text.parse::<Timestamp>()
                    .map_err(|error| CursorError::Time {
                        text: text.to_owned(),
                        error,
                    })
            })
            .transpose()?;
        Ok(Self {
            seq: parse_seq(seq)?,
            time,
        })
    }
}

/// `url` with this cursor parameter in place of any other. The rest of its query stays.
pub fn with_cursor(url: &Url, cursor: Option<u64>) -> Url {
    let others: Vec<(String, String)> = url
        .query_pairs()
        .filter(|(name, _)| name != "cursor")
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    let mut url = url.clone();
    url.set_query(None);
    if !others.is_empty() {
        url.query_pairs_mut().extend_pairs(others);
    }
    if let Some(cursor) = cursor {
        url.query_pairs_mut()
            .append_pair("cursor", &cursor.to_string());
    }
    url
}

/// The cursor parameter of a URL's `query`, if it has one. If there are several, the first counts.
///
/// # Errors
/// If it is not a seq.
pub fn cursor_of(query: &str) -> Result<Option<u64>, CursorError> {
    form_urlencoded::parse(query.as_bytes())
        .find(|(name, _)| name == "cursor")
        .map(|(_, seq)| parse_seq(&seq))
        .transpose()
}

fn parse_seq(text: &str) -> Result<u64, CursorError> {
    text.parse().map_err(|_| CursorError::Seq(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cursor_is_added_to_the_existing_query() {
        let url = Url::parse("ws://a.example/s?a=1&cursor=5&b=x%20y").unwrap();
        assert_eq!(
            with_cursor(&url, Some(0)).as_str(),
            "ws://a.example/s?a=1&b=x+y&cursor=0"
        );
        assert_eq!(
            with_cursor(&url, None).as_str(),
            "ws://a.example/s?a=1&b=x+y"
        );
        let bare = Url::parse("ws://a.example/s").unwrap();
        assert_eq!(with_cursor(&bare, None).as_str(), "ws://a.example/s");
    }

    #[test]
    fn a_server_reads_the_cursor_that_a_client_wrote() {
        let url = Url::parse("ws://a.example/s?a=1").unwrap();
        for cursor in [None, Some(0), Some(7), Some(u64::MAX)] {
            let url = with_cursor(&url, cursor);
            assert_eq!(cursor_of(url.query().unwrap()).unwrap(), cursor);
        }
    }

    #[test]
    fn text_that_is_not_a_seq_is_named_in_the_error() {
        for text in ["", "-1", "1.5", "18446744073709551616", "seven"] {
            let refused = cursor_of(&format!("cursor={text}")).unwrap_err();
            assert_eq!(
                refused.to_string(),
                format!("the cursor {text:?} is not a seq")
            );
            assert!(Position::parse(text, None).is_err());
        }
        let refused = Position::parse("1", Some("noon")).unwrap_err();
        assert!(refused.to_string().contains("\"noon\""), "{refused}");
    }

    #[test]
    fn a_position_is_read_as_it_was_written() {
        let time: Timestamp = "2026-07-04T14:38:07.877Z".parse().unwrap();
        let position = Position {
            seq: u64::MAX,
            time: Some(time),
        };
        let (seq, time) = (position.seq.to_string(), time.to_string());
        assert_eq!(Position::parse(&seq, Some(&time)).unwrap(), position);
    }
}
