//! A dead letter: what was no task, or could not be applied, with the reason.

use serde::Serialize;
use serde_json::value::RawValue;

use super::{METADATA, MOST_MESSAGE};

#[derive(Serialize)]
struct Letter<'a> {
    error: &'a str,
    /// How often it was tried.
    attempts: u32,
    /// The body, where it is JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<&'a RawValue>,
    /// What is no JSON, as far as it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    /// The body does not fit beside the reason.
    #[serde(skip_serializing_if = "is_false")]
    omitted: bool,
}

/// serde passes a reference.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// The text of a letter. It fits into a message, since the reason is an excerpt.
pub(super) fn letter(body: &[u8], error: &str, attempts: u32) -> Result<String, serde_json::Error> {
    let task: Option<&RawValue> = serde_json::from_slice(body).ok();
    let text = match task {
        Some(_) => None,
        None => std::str::from_utf8(body).ok(),
    };
    let mut letter = Letter {
        error,
        attempts,
        task,
        text,
        omitted: false,
    };
    let whole = serde_json::to_string(&letter)?;
    if whole.len() + METADATA <= MOST_MESSAGE {
        return Ok(whole);
    }
    letter.task = None;
    letter.text = None;
    letter.omitted = true;
    serde_json::to_string(&letter)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(body: &[u8], reason: &str) -> Value {
        let letter = letter(body, reason, 4).unwrap();
        assert!(letter.len() + METADATA <= MOST_MESSAGE);
        serde_json::from_str(&letter).unwrap()
    }

    #[test]
    fn a_letter_has_the_task_and_the_reason_and_fits() {
        let expected = json!({ "error": "no", "attempts": 4, "task": { "n": 1 } });
        assert_eq!(read(b"{\"n\":1}", "no"), expected);
        let expected = json!({ "error": "no", "attempts": 4, "text": "{" });
        assert_eq!(read(b"{", "no"), expected);
        assert_eq!(read(&[0xff], "no"), json!({ "error": "no", "attempts": 4 }));
        let large = format!("\"{}\"", "x".repeat(MOST_MESSAGE));
        let expected = json!({ "error": "no", "attempts": 4, "omitted": true });
        assert_eq!(read(large.as_bytes(), "no"), expected);
    }
}
