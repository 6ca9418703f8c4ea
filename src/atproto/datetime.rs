//! Datetimes of the protocol: valid in both RFC 3339 and ISO 8601, always with a time zone.
//!
//! Spec: <https://atproto.com/specs/lexicon#datetime>.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};

use super::syntax::SyntaxError;

/// Longer than any useful datetime. Further characters could only be digits of the fraction.
const MAX_LENGTH: usize = 64;

/// Reads the time of an event, such as `2026-07-04T14:38:07.877Z`.
///
/// # Errors
/// If `text` is not a datetime of the protocol (see [`parse_utc`]), or is outside the range of
/// jiff's timestamps.
pub fn parse_datetime(text: &str) -> Result<Timestamp, SyntaxError> {
    parse_utc(text)
        .and_then(|utc| Offset::UTC.to_timestamp(utc).ok())
        .ok_or_else(|| SyntaxError::new("datetime", text))
}

/// The instant that `text` names, in UTC, or `None` if `text` is not a datetime of the protocol.
///
/// Digits finer than a nanosecond are cut off. A leap second (`23:59:60`) is refused, as in the
/// reference implementations. A time that falls before the year 0000 or after 9999 in UTC is
/// refused too. The result is a civil time and not a timestamp, because jiff's timestamps end a day
/// earlier.
pub fn parse_utc(text: &str) -> Option<DateTime> {
    if text.len() > MAX_LENGTH || !text.is_ascii() {
        return None;
    }
    let (date, rest) = text.split_at_checked("2026-01-31".len())?;
    let (time, rest) = rest.strip_prefix('T')?.split_at_checked("23:59:59".len())?;
    let (nanosecond, zone) = split_fraction(rest)?;

    let [year, month, day] = numbers(date, [4, 2, 2], '-')?;
    let [hour, minute, second] = numbers(time, [2, 2, 2], ':')?;
    let date = Date::new(year, month.try_into().ok()?, day.try_into().ok()?).ok()?;
    let time = Time::new(
        hour.try_into().ok()?,
        minute.try_into().ok()?,
        second.try_into().ok()?,
        nanosecond,
    )
    .ok()?;
    let utc = date
        .to_datetime(time)
        .checked_sub(parse_offset(zone)?)
        .ok()?;
    (utc.year() >= 0).then_some(utc)
}

/// `YYYY-MM-DDTHH:MM:SS.sssZ`, which sorts as text in the order of time. Digits finer than a
/// millisecond are cut off. `None` for the year 0000, which SQL's date functions do not know.
pub fn to_sortable_text(utc: DateTime) -> Option<String> {
    (utc.year() >= 1).then(|| {
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            utc.year(),
            utc.month(),
            utc.day(),
            utc.hour(),
            utc.minute(),
            utc.second(),
            utc.millisecond()
        )
    })
}

/// Splits `.123Z` into nanoseconds and time zone.
fn split_fraction(text: &str) -> Option<(i32, &str)> {
    let Some(fraction) = text.strip_prefix('.') else {
        return Some((0, text));
    };
    let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return None;
    }
    let nanosecond = fraction
        .bytes()
        .take(digits)
        .chain(std::iter::repeat(b'0'))
        .take(9)
        .fold(0, |sum, digit| sum * 10 + i32::from(digit - b'0'));
    Some((nanosecond, fraction.get(digits..)?))
}

/// The offset from UTC of `Z`, `+01:45` or `-07:00`. `-00:00` is refused: it means "unknown" in RFC
/// 3339 and nothing in ISO 8601.
fn parse_offset(zone: &str) -> Option<SignedDuration> {
    let sign = match zone.as_bytes().first()? {
        b'Z' if zone.len() == 1 => return Some(SignedDuration::ZERO),
        b'+' => 1,
        b'-' if zone != "-00:00" => -1,
        _ => return None,
    };
    let [hours, minutes] = numbers(zone.get(1..)?, [2, 2], ':')?;
    (hours <= 23 && minutes <= 59)
        .then(|| SignedDuration::from_mins(sign * i64::from(hours * 60 + minutes)))
}

/// Numbers of exactly `widths` digits, separated by `separator`.
fn numbers<const N: usize>(text: &str, widths: [usize; N], separator: char) -> Option<[i16; N]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; N];
    for (number, width) in numbers.iter_mut().zip(widths) {
        let part = parts.next()?;
        if part.len() != width || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normalized(text: &str) -> Option<String> {
        parse_utc(text).and_then(to_sortable_text)
    }

    #[test]
    fn any_zone_becomes_the_same_instant() {
        let utc = parse_datetime("2026-07-04T14:38:07.5Z").unwrap();
        assert_eq!(utc.to_string(), "2026-07-04T14:38:07.5Z");
        assert_eq!(parse_datetime("2026-07-04T20:08:07.500+05:30"), Ok(utc));
    }

    #[test]
    fn a_datetime_of_any_zone_becomes_utc() {
        for (text, utc) in [
            ("2026-03-01T10:00:00Z", "2026-03-01T10:00:00.000Z"),
            ("2026-03-01T10:00:00+00:00", "2026-03-01T10:00:00.000Z"),
            ("2026-03-01T00:30:00+01:45", "2026-02-28T22:45:00.000Z"),
            ("2024-02-28T20:00:00-07:00", "2024-02-29T03:00:00.000Z"),
            ("2026-12-31T23:59:59.5-00:30", "2027-01-01T00:29:59.500Z"),
            ("9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59.999Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000Z"),
            (
                "2026-03-01T10:00:00.1239999999999Z",
                "2026-03-01T10:00:00.123Z",
            ),
        ] {
            assert_eq!(normalized(text).as_deref(), Some(utc), "{text}");
        }
    }

    #[test]
    fn a_date_or_time_that_does_not_exist_is_refused() {
        for text in [
            "2026-02-29T10:00:00Z",
            "2026-13-45T99:99:99Z",
            "2016-12-31T23:59:60Z",
            "2026-03-01T24:00:00Z",
            "2026-03-01T10:00:00+24:00",
            "2026-03-01T10:00:00+01:60",
            "2026-03-01T10:00:00ZZ",
            "2026-03-01T10:00:00",
            "9999-12-31T23:59:59-01:00",
            "tomorrow",
            "",
            "２０２６-03-01T10:00:00Z",
        ] {
            assert_eq!(parse_utc(text), None, "{text}");
        }
    }

    #[test]
    fn the_year_zero_is_a_datetime_without_a_sortable_text() {
        assert!(parse_utc("0000-01-01T00:00:00Z").is_some());
        assert_eq!(normalized("0000-01-01T00:00:00Z"), None);
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC{0,70}") {
            let _ = parse_utc(&text);
        }

        #[test]
        fn text_sorts_in_the_order_of_time(
            a in 0_i64..4_000_000_000, b in 0_i64..4_000_000_000, zone in -23_i8..=23,
        ) {
            let text = |seconds: i64| {
                let zone = jiff::tz::Offset::constant(zone);
                let local = zone.to_datetime(jiff::Timestamp::from_second(seconds).unwrap());
                normalized(&format!("{local}{zone}:00")).unwrap()
            };
            prop_assert_eq!(text(a).cmp(&text(b)), a.cmp(&b));
        }
    }
}
