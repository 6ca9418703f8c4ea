//! One log line. Every value is cut and escaped here, wherever it was logged and whatever is in it.

use std::fmt::{self, Write};

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use super::LogFormat;
use crate::telemetry::excerpt::{Excerpt, escaped, is_unseen};

/// A value of a field.
#[derive(Debug)]
enum Value {
    /// Shown as it is: a number or a boolean.
    Plain(String),
    /// Quoted in each format.
    Text(String),
    /// Quoted in text only if it could be taken for something else.
    Display(String),
}

/// The content of a line.
#[derive(Debug)]
pub(super) struct Line {
    level: Level,
    target: String,
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl Line {
    pub(super) fn new(level: Level, target: &str, message: &str) -> Self {
        Self {
            level,
            target: target.to_owned(),
            message: message.to_owned(),
            fields: Vec::new(),
        }
    }

    pub(super) fn of(event: &Event<'_>) -> Self {
        let metadata = event.metadata();
        let mut line = Self::new(*metadata.level(), metadata.target(), "");
        event.record(&mut line);
        line
    }

    pub(super) fn with(mut self, name: &'static str, value: u64) -> Self {
        self.fields.push((name, Value::Plain(value.to_string())));
        self
    }

    pub(super) fn with_text(mut self, name: &'static str, text: &str) -> Self {
        self.fields.push((name, Value::Text(cut(&text))));
        self
    }

    /// The line in `format`, with its line feed.
    pub(super) fn render(&self, format: LogFormat, colours: bool) -> String {
        let mut line = match format {
            LogFormat::Json => self.json(),
            LogFormat::Text => self.text(colours),
        };
        line.push('\n');
        line
    }

    fn text(&self, colours: bool) -> String {
        let now = Timestamp::now();
        let (colour, end) = match (colours, self.level) {
            (false, _) => ("", ""),
            (true, Level::ERROR) => ("\x1b[31m", "\x1b[0m"),
            (true, Level::WARN) => ("\x1b[33m", "\x1b[0m"),
            (true, Level::INFO) => ("\x1b[32m", "\x1b[0m"),
            (true, _) => ("\x1b[34m", "\x1b[0m"),
        };
        let mut line = format!(
            "{now:.6} {colour}{:>5}{end} {}: {}",
            self.level,
            escaped(&self.target, |_| false),
            escaped(&self.message, |_| false)
        );
        for (name, value) in &self.fields {
            let value = match value {
                Value::Plain(value) => value.clone(),
                Value::Display(value) if is_one_word(value) => value.clone(),
                Value::Display(value) | Value::Text(value) => {
                    format!(
                        "\"{}\"",
                        escaped(value, |special| matches!(special, '"' | '\\'))
                    )
                }
            };
            line += &format!(" {name}={value}");
        }
        line
    }

    fn json(&self) -> String {
        let now = Timestamp::now();
        let mut line = format!(
            "{{\"timestamp\":\"{now:.6}\",\"level\":\"{}\",\"message\":{}",
            self.level,
            json_text(&self.message)
        );
        for (name, value) in &self.fields {
            let value = match value {
                Value::Plain(value) => value.clone(),
                Value::Display(value) | Value::Text(value) => json_text(value),
            };
            line += &format!(",{}:{value}", json_text(name));
        }
        line += &format!(",\"target\":{}}}", json_text(&self.target));
        line
    }

    fn push(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::Text(text) | Value::Display(text)) => self.message = text,
            // What the log crate's records have instead of metadata.
            ("log.target", Value::Text(target)) => self.target = target,
            (name, _) if name.starts_with("log.") => {}
            (name, value) => self.fields.push((name, value)),
        }
    }
}

impl Visit for Line {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, Value::Plain(value.to_string()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, Value::Plain(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, Value::Plain(value.to_string()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no word for the others.
        let value = match value.is_finite() {
            true => Value::Plain(value.to_string()),
            false => Value::Text(value.to_string()),
        };
        self.push(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, Value::Text(cut(&value)));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.push(field, Value::Text(cut(&value)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, Value::Display(cut(&format_args!("{value:?}"))));
    }
}

/// The beginning of `value`. The rest is never in memory as a whole, unless `value` is.
fn cut(value: &dyn fmt::Display) -> String {
    let mut excerpt = Excerpt::default();
    match write!(excerpt, "{value}") {
        Ok(()) => excerpt.finish(),
        Err(fmt::Error) => "(cannot be shown)".to_owned(),
    }
}

/// Whether `value` ends where the next field begins, and cannot be taken for a field.
fn is_one_word(value: &str) -> bool {
    let is_unclear = |character: char| {
        character.is_whitespace() || is_unseen(character) || matches!(character, '"' | '=' | '\\')
    };
    !value.is_empty() && !value.contains(is_unclear)
}

/// `text` as JSON. Characters that a terminal or an editor obeys are escaped too.
fn json_text(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    for character in text.chars() {
        match character {
            '"' => json += "\\\"",
            '\\' => json += "\\\\",
            '\n' => json += "\\n",
            // All of them are in the first plane, so one escape is enough.
            unseen if is_unseen(unseen) => json += &format!("\\u{:04x}", u32::from(unseen)),
            shown => json.push(shown),
        }
    }
    json.push('"');
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\n2026-01-01T00:00:00Z ERROR b: \u{1b}[31m\u{202e}\" c=1\\";

    fn line(value: Value) -> Line {
        let mut line = Line::new(Level::WARN, "huddle::test", "happened");
        line.fields = vec![("text", value), ("count", Value::Plain("7".to_owned()))];
        line
    }

    #[test]
    fn whatever_a_value_has_in_it_its_line_is_one_line_and_its_fields_stay_apart() {
        for value in [
            Value::Text(HOSTILE.to_owned()),
            Value::Display(HOSTILE.to_owned()),
        ] {
            let text = line(value).render(LogFormat::Text, false);
            assert_eq!(text.lines().count(), 1);
            assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text}");
            let shown = " WARN huddle::test: happened text=\"a\\n2026-01-01T00:00:00Z ERROR b: \
                         \\u{1b}[31m\\u{202e}\\\" c=1\\\\\" count=7\n";
            assert!(text.ends_with(shown), "{text}");
        }
    }

    #[test]
    fn a_display_value_of_one_word_is_not_quoted() {
        let value = Value::Display("wss://relay.example/xrpc".to_owned());
        let text = line(value).render(LogFormat::Text, false);
        assert!(
            text.ends_with(" text=wss://relay.example/xrpc count=7\n"),
            "{text}"
        );
    }

    #[test]
    fn a_json_line_has_the_value_as_it_is_and_nothing_that_a_terminal_obeys() {
        let text = line(Value::Text(HOSTILE.to_owned())).render(LogFormat::Json, false);
        assert!(!text.trim_end().contains(is_unseen), "{text}");
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["text"], HOSTILE);
        assert_eq!(json["count"], 7);
        assert_eq!(json["level"], "WARN");
        assert_eq!(json["message"], "happened");
        assert_eq!(json["target"], "huddle::test");
        assert!(json["timestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn a_value_of_megabytes_is_cut() {
        let text = cut(&"y".repeat(4_000_000));
        assert!(
            text.starts_with("yyy") && text.ends_with("… (3999500 more bytes)"),
            "{text}"
        );
    }
}
