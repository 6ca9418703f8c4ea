//! Excerpts of outside text, for the log, the status and the terminal.

use std::fmt::{self, Write};

/// The characters of one text in a log line or in the status.
pub const LOGGED: usize = 500;

/// Returns the beginning of `text`, of at most `characters`. A frame may carry text of megabytes.
pub fn excerpt(text: &str, characters: usize) -> &str {
    match text.char_indices().nth(characters) {
        Some((end, _)) => text.split_at(end).0,
        None => text,
    }
}

/// Returns the beginning of `text` as it may be shown to an operator: one line, nothing that a
/// terminal obeys, at most [`LOGGED`] characters.
pub fn shown(text: &str) -> String {
    let mut excerpt = Excerpt::default();
    // It only fails if the text itself does, and a str does not.
    let _written = excerpt.write_str(text);
    escaped(&excerpt.finish(), |_| false)
}

/// `text` of several lines as it may be shown on a terminal.
pub fn shown_lines(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| escaped(line, |_| false)).collect();
    lines.join("\n")
}

/// JSON of several lines as it may be shown on a terminal. It says the same: such characters are only
/// in its texts.
pub fn shown_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '\n' => shown.push('\n'),
            // All of them are in the first plane, so one escape is enough.
            unseen if is_unseen(unseen) => shown += &format!("\\u{:04x}", u32::from(unseen)),
            character => shown.push(character),
        }
    }
    shown
}

/// Collects the first [`LOGGED`] characters of what is written to it, and counts the rest.
#[derive(Debug, Default)]
pub(super) struct Excerpt {
    text: String,
    characters: usize,
    omitted_bytes: usize,
}

impl Excerpt {
    /// The collected text, with the size of what was left out.
    pub(super) fn finish(self) -> String {
        let Self {
            mut text,
            omitted_bytes,
            ..
        } = self;
        if omitted_bytes > 0 {
            text += &format!("… ({omitted_bytes} more bytes)");
        }
        text
    }
}

impl Write for Excerpt {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let kept = excerpt(text, LOGGED - self.characters);
        self.text += kept;
        self.characters += kept.chars().count();
        self.omitted_bytes += text.len() - kept.len();
        Ok(())
    }
}

/// `text` with an escape for each character that would not be shown as it is, and for each that
/// `is_special`.
pub(super) fn escaped(text: &str, is_special: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => escaped += "\\n",
            '\r' => escaped += "\\r",
            '\t' => escaped += "\\t",
            special if is_special(special) => {
                escaped.push('\\');
                escaped.push(special);
            }
            unseen if is_unseen(unseen) => escaped += &format!("\\u{{{:x}}}", u32::from(unseen)),
            shown => escaped.push(shown),
        }
    }
    escaped
}

/// Whether a terminal or an editor obeys `character` instead of showing it: control characters,
/// line separators, and those that change the direction of text or have no width.
pub(super) fn is_unseen(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_the_beginning_in_whole_characters() {
        assert_eq!(excerpt("äöü", 2), "äö");
        assert_eq!(excerpt("äöü", 3), "äöü");
        assert_eq!(excerpt("", 3), "");
        assert_eq!(excerpt("äöü", 0), "");
    }

    #[test]
    fn shown_text_is_one_line_that_no_terminal_obeys() {
        assert_eq!(shown("plain äöü 🙂"), "plain äöü 🙂");
        assert_eq!(
            shown("a\r\nb\tc\u{1b}[2J\u{9b}\u{202e}\u{2028}"),
            "a\\r\\nb\\tc\\u{1b}[2J\\u{9b}\\u{202e}\\u{2028}"
        );
    }

    #[test]
    fn shown_json_says_the_same_and_no_terminal_obeys_it() {
        let value = serde_json::json!({ "error": "a\u{9b}2J\u{202e}\nb" });
        let shown = shown_json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(!shown.contains(['\u{9b}', '\u{202e}']), "{shown}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
            value
        );
    }

    #[test]
    fn shown_text_says_how_much_was_left_out() {
        let text = shown(&"ä".repeat(LOGGED + 3));
        assert!(text.ends_with("ä… (6 more bytes)"), "{text}");
        assert_eq!(text.matches('ä').count(), LOGGED);
    }
}
