//! Datetimes as the protocol writes them: RFC 3339 and ISO 8601 at once, always with a zone.
//!
//! Spec: <https://atproto.com/specs/lexicon#datetime>.

use jiff::{Timestamp, civil, tz::Offset};

use super::syntax::SyntaxError;

/// The longest datetime that is looked at.
const MAX_LENGTH: usize = 64;

/// Reads a datetime such as `2026-07-04T14:38:07.877Z` or `1985-04-12T23:20:50.123-07:00`.
/// Digits beyond the nanosecond are dropped.
///
/// # Errors
/// If `text` is not a datetime of the protocol, which asks for more than RFC 3339 does: capital
/// `T` and `Z`, seconds, a zone, and never `-00:00`.
pub fn parse_datetime(text: &str) -> Result<Timestamp, SyntaxError> {
    parse(text.as_bytes()).ok_or_else(|| SyntaxError::new("datetime", text))
}

fn parse(text: &[u8]) -> Option<Timestamp> {
    if text.len() > MAX_LENGTH {
        return None;
    }
    let (local, rest) = text.split_at_checked("YYYY-MM-DDTHH:MM:SS".len())?;
    let separators = [local[4], local[7], local[10], local[13], local[16]];
    if &separators != b"--T::" {
        return None;
    }
    let (nanosecond, zone) = match rest {
        [b'.', fraction @ ..] => {
            let digits = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
            (nanoseconds(&fraction[..digits])?, &fraction[digits..])
        }
        _ => (0, rest),
    };
    let datetime = civil::DateTime::new(
        i16::try_from(number(&local[..4])?).ok()?,
        i8::try_from(number(&local[5..7])?).ok()?,
        i8::try_from(number(&local[8..10])?).ok()?,
        i8::try_from(number(&local[11..13])?).ok()?,
        i8::try_from(number(&local[14..16])?).ok()?,
        i8::try_from(number(&local[17..])?).ok()?,
        nanosecond,
    )
    .ok()?;
    let timestamp = offset(zone)?.to_timestamp(datetime).ok()?;
    // The zone may carry the first hours of year 0 to a year that four digits can't write.
    let first = Offset::UTC.to_timestamp(civil::datetime(0, 1, 1, 0, 0, 0, 0));
    (timestamp >= first.ok()?).then_some(timestamp)
}

fn offset(zone: &[u8]) -> Option<Offset> {
    let (sign, digits) = match zone {
        b"Z" => return Some(Offset::UTC),
        b"-00:00" => return None,
        [b'+', digits @ ..] => (1, digits),
        [b'-', digits @ ..] => (-1, digits),
        _ => return None,
    };
    if digits.len() != 5 || digits[2] != b':' {
        return None;
    }
    let (hours, minutes) = (number(&digits[..2])?, number(&digits[3..])?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok()
}

/// The nanoseconds of the digits behind the decimal point; at least one digit is needed.
fn nanoseconds(digits: &[u8]) -> Option<i32> {
    let kept = &digits[..digits.len().min(9)];
    let scale = 10_i32.pow(u32::try_from(9 - kept.len()).ok()?);
    (!kept.is_empty()).then_some(number(kept)? * scale)
}

/// At most nine decimal digits as a number.
fn number(digits: &[u8]) -> Option<i32> {
    digits.iter().try_fold(0, |number, digit| {
        digit
            .is_ascii_digit()
            .then(|| number * 10 + i32::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_zone_becomes_the_same_instant() {
        let utc = parse_datetime("2026-07-04T14:38:07.5Z").unwrap();
        assert_eq!(utc.to_string(), "2026-07-04T14:38:07.5Z");
        assert_eq!(parse_datetime("2026-07-04T20:08:07.500+05:30"), Ok(utc));
    }

    #[test]
    fn digits_beyond_the_nanosecond_are_dropped() {
        let time = parse_datetime("1985-04-12T23:20:50.123456789012Z").unwrap();
        assert_eq!(time.to_string(), "1985-04-12T23:20:50.123456789Z");
    }

    #[test]
    fn a_datetime_without_a_zone_is_refused() {
        for text in [
            "",
            "1985-04-12T23:20:50",
            "1985-04-12T23:20:50-00:00",
            "1985-04-12T23:20:50.Z",
        ] {
            assert!(parse_datetime(text).is_err(), "{text}");
        }
    }
}
