//! Times on the command line.

use anyhow::Context;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::Offset;

/// Reads a time with a zone, or a date, which is its first moment in UTC.
pub(super) fn parse(text: &str) -> anyhow::Result<Timestamp> {
    if let Ok(date) = text.parse::<Date>()
        && text.len() == "2026-07-04".len()
    {
        return Ok(Offset::UTC.to_timestamp(date.at(0, 0, 0, 0))?);
    }
    text.parse()
        .with_context(|| format!("{text:?} is no date, and no time with a zone"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_date_or_has_a_zone() {
        let seconds = |text: &str| parse(text).map(|time| time.as_second()).ok();
        assert_eq!(seconds("1970-01-02"), Some(86_400));
        assert_eq!(seconds("1970-01-01T01:00:00+01:00"), Some(0));
        assert_eq!(seconds("yesterday"), None);
        assert_eq!(seconds("1970-01-01T01:00:00"), None);
    }
}
