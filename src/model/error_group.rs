//! Which errors are the same but for the names and numbers in them.

use sha2::{Digest, Sha256};

/// The bytes of the digest that identify a group.
const LENGTH: usize = 8;

/// Identifies the group of an error of a stage, as hexadecimal digits.
pub fn error_group(stage: &str, error: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(stage);
    hash.update([0]);
    hash.update(pattern_of(error));
    let digest = hash.finalize();
    digest[..LENGTH]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The error with `#` in the place of each quoted text, each number, and each word with a digit or a
/// colon in it: DIDs, CIDs, revs, URLs and addresses.
fn pattern_of(error: &str) -> String {
    let mut pattern = String::with_capacity(error.len());
    let mut rest = error;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => quoted(rest),
            _ if is_of_word(first) => word(rest),
            _ => first.len_utf8(),
        };
        let (part, next) = rest.split_at(length);
        match first == '"' || is_name(part) {
            true => pattern.push('#'),
            false => pattern.push_str(part),
        }
        rest = next;
    }
    pattern
}

/// The length of a quoted text with its quotes. One that does not end goes to the end.
fn quoted(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            '"' if !is_escaped => return at + 1,
            '\\' => is_escaped = !is_escaped,
            _ => is_escaped = false,
        }
    }
    text.len()
}

fn word(text: &str) -> usize {
    let end = text.find(|character| !is_of_word(character));
    end.unwrap_or(text.len())
}

fn is_of_word(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '-' | '.' | ':' | '/' | '%' | '~')
}

/// Whether a word names something. A colon or a full stop at its end belongs to the sentence.
fn is_name(word: &str) -> bool {
    let word = word.trim_end_matches([':', '.']);
    word.contains(|character: char| character.is_numeric() || character == ':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_make_no_other_group() {
        for (one, other) in [
            (
                "the record has 7 bytes as JSON",
                "the record has 19 bytes as JSON",
            ),
            ("$type: is \"a\"", "$type: is \"b \\\" c\""),
            (
                "no key of did:plc:ann for now",
                "no key of did:web:bob.example for now",
            ),
            ("block bafyrei2a is missing", "block bafyrei3b is missing"),
            ("$.embeds[0].alt: too long", "$.embeds[12].alt: too long"),
        ] {
            let groups = [one, other].map(|error| error_group("verify", error));
            assert_eq!(groups[0], groups[1], "{one}");
            assert_eq!(groups[0].len(), 2 * LENGTH);
        }
    }

    #[test]
    fn another_word_or_another_stage_is_another_group() {
        let title = error_group("validate", "title: is missing");
        assert_ne!(title, error_group("validate", "capacity: is missing"));
        assert_ne!(title, error_group("decode", "title: is missing"));
        assert_eq!(pattern_of("title: is missing"), "title: is missing");
        assert_eq!(pattern_of("not \"ended"), "not #");
    }
}
