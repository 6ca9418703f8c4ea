//! The only text form of a datetime in rows.

use jiff::Timestamp;

/// Formats `time` in UTC as `YYYY-MM-DDTHH:MM:SS.sssZ`, cut to milliseconds. The text sorts like
/// the time.
///
/// All comparisons of datetimes, in Rust and in SQL, compare this text, so that both agree.
pub(crate) fn sortable(time: Timestamp) -> String {
    format!("{time:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datetime_of_any_zone_becomes_utc_with_three_digits() {
        let text = |time: &str| sortable(time.parse().unwrap());
        assert_eq!(
            text("2026-11-23T19:30:00+02:00"),
            "2026-11-23T17:30:00.000Z"
        );
        assert_eq!(
            text("2026-11-23T17:30:00.98765Z"),
            "2026-11-23T17:30:00.987Z"
        );
    }

    #[test]
    fn the_text_sorts_like_the_time() {
        let mut times: Vec<Timestamp> = [0, 1_700_000_000_001, 1_700_000_000_000, 999, 5_000]
            .into_iter()
            .map(|ms| Timestamp::from_millisecond(ms).unwrap())
            .collect();
        let mut texts: Vec<String> = times.iter().copied().map(sortable).collect();
        times.sort();
        texts.sort();
        assert_eq!(texts, times.into_iter().map(sortable).collect::<Vec<_>>());
    }
}
