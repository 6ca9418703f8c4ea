//! Spans of time on the command line: 90s, 30m, 1h, 2d.

/// Reads a span as whole seconds. It is at least one.
pub(super) fn seconds(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text:?} is not a time such as 90s, 30m, 1h or 2d");
    let number = text.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    let unit: u32 = match &text[number.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u32 = number.parse().map_err(|_| wrong())?;
    match number.checked_mul(unit) {
        Some(seconds @ 1..) => Ok(seconds),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_a_number_with_its_unit() {
        for (text, read) in [("90s", 90), ("30m", 1800), ("1h", 3600), ("2d", 172_800)] {
            assert_eq!(seconds(text), Ok(read));
        }
        for text in ["", "1", "h", "0s", "-1h", "1.5h", "1 h", "99999999d", "1w"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
