//! U+0000, for which most databases have no place in a text.

use std::borrow::Cow;

/// `text` with U+FFFD in the place of each U+0000.
pub(super) fn without_nul(text: &str) -> Cow<'_, str> {
    match text.contains('\0') {
        true => text.replace('\0', "\u{fffd}").into(),
        false => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_nul_is_replaced() {
        assert_eq!(without_nul("a\0b"), "a\u{fffd}b");
        assert!(matches!(without_nul("a\u{1}b"), Cow::Borrowed("a\u{1}b")));
    }
}
