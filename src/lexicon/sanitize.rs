//! Sanitizes text of outsiders, so that it can be shown together with other text.

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// `text` in Unicode NFC, without characters that could garble the text around it.
///
/// Removed are control characters except newline and tab, line and paragraph separators, byte order
/// marks, and the characters that embed, override or isolate a writing direction. The marks U+200E,
/// U+200F and U+061C stay: they affect only their neighbours, and Arabic and Hebrew need them.
/// Joiners stay too, because emoji consist of them.
pub fn sanitize(text: &str) -> Cow<'_, str> {
    if text.contains(is_removed) {
        return text.chars().filter(|c| !is_removed(*c)).nfc().collect();
    }
    match is_nfc_quick(text.chars()) {
        IsNormalized::Yes => Cow::Borrowed(text),
        IsNormalized::Maybe | IsNormalized::No => text.nfc().collect(),
    }
}

fn is_removed(character: char) -> bool {
    match character {
        '\n' | '\t' => false,
        // Line and paragraph separator; embeddings and overrides; isolates; byte order mark.
        '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' => true,
        _ => character.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn clean_text_is_not_copied() {
        for text in [
            "",
            "plain\n\ttext",
            "Café Zoë ☕ 東京・渋谷 🎉 – “größe” 日本語 \u{200b}",
            "👩\u{200d}👩\u{200d}👦",
            "שלום \u{200f}(C++)\u{200e} العربية\u{61c}",
        ] {
            assert!(
                matches!(sanitize(text), Cow::Borrowed(same) if same == text),
                "{text}"
            );
        }
    }

    #[test]
    fn characters_that_garble_other_text_are_removed() {
        for (text, shown) in [
            ("nul \0 byte and \u{7}bell", "nul  byte and bell"),
            ("line\r\nend\u{85}\u{7f}\u{9b}", "line\nend"),
            ("\u{202e}gnp.exe\u{202c}", "gnp.exe"),
            ("\u{202a}a\u{202b}b\u{202d}c", "abc"),
            ("\u{2066}a\u{2067}b\u{2068}c\u{2069}", "abc"),
            ("a\u{2028}b\u{2029}c\u{feff}", "abc"),
        ] {
            assert_eq!(sanitize(text), shown);
        }
    }

    #[test]
    fn letters_are_composed() {
        assert_eq!(sanitize("Zoe\u{308}"), "Zoë");
        assert_eq!(sanitize("Zoe\u{202e}\u{308}"), "Zoë");
        assert_eq!(sanitize("\u{212b}"), "Å");
    }

    proptest! {
        #[test]
        fn sanitized_text_stays_as_it_is(text in "[\\u{0}-\\u{10ffff}]{0,40}") {
            let once = sanitize(&text).into_owned();
            prop_assert!(!once.contains(is_removed));
            prop_assert_eq!(sanitize(&once), once.as_str());
        }
    }
}
