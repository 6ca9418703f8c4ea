//! Texts from outside that stand for positions or delays: a stored cursor, the `cursor` parameter,
//! `Retry-After`.

use std::time::Duration;

use huddle_firehose::model::{Position, SourceId, cursor_of, with_cursor};
use huddle_firehose::net::retry_after;
use jiff::Timestamp;
use url::Url;

const LONGEST_DELAY: Duration = Duration::from_secs(15 * 60);

/// The first line of the input is one text, the rest is another.
pub fn check(input: &[u8]) {
    let Ok(input) = std::str::from_utf8(input) else {
        return;
    };
    let (first, second) = input.split_once('\n').unwrap_or((input, ""));
    check_position(first, Some(second).filter(|second| !second.is_empty()));
    check_query(first);
    if let Ok(url) = Url::parse(first) {
        check_url(&url, second.parse().ok());
    }
    check_retry_after(first, second.parse().unwrap_or(Timestamp::UNIX_EPOCH));
}

fn check_position(seq: &str, time: Option<&str>) {
    match Position::parse(seq, time) {
        Ok(position) => {
            let (seq, time) = (
                position.seq.to_string(),
                position.time.map(|time| time.to_string()),
            );
            let again =
                Position::parse(&seq, time.as_deref()).expect("it was written as it is read");
            assert_eq!(again, position);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn check_query(query: &str) {
    match cursor_of(query) {
        Ok(Some(cursor)) => assert_eq!(
            cursor_of(&format!("cursor={cursor}&{query}")).ok(),
            Some(Some(cursor))
        ),
        Ok(None) => assert_eq!(cursor_of(&format!("{query}&cursor=7")).ok(), Some(Some(7))),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// The server reads the cursor that was set, for any earlier cursor in the URL, and the source id
/// stays the same.
fn check_url(url: &Url, cursor: Option<u64>) {
    let asked = with_cursor(url, cursor);
    if asked.cannot_be_a_base() {
        return;
    }
    assert_eq!(
        cursor_of(asked.query().unwrap_or_default()).ok(),
        Some(cursor)
    );
    assert_eq!(SourceId::of(&asked), SourceId::of(url));
    assert_eq!(with_cursor(&asked, cursor), asked);
    assert_eq!(Url::parse(asked.as_str()).as_ref(), Ok(&asked));
}

fn check_retry_after(value: &str, now: Timestamp) {
    if let Some(delay) = retry_after::parse(value, now) {
        assert!(delay <= LONGEST_DELAY);
    }
}
