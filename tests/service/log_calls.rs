//! Reads the sources: what came from outside is never in the message of a log line. Holds invariant
//! 12.1.
//!
//! A message is a constant, so that it can be searched for and counted. Every other text is in a
//! field, where the log cuts and escapes it.

use std::fs;
use std::path::{Path, PathBuf};

/// Placeholders in messages that are text of this program itself, or of its operator's settings.
const OWN_TEXT: [(&str, &str); 6] = [
    ("src/cli/mod.rs", "{warning}"),
    ("src/pipeline/connection.rs", "{cause}"),
    ("src/pipeline/connection.rs", "{}"),
    ("src/repo/backfill.rs", "{does}"),
    ("src/repo/backfill.rs", "{cannot}"),
    ("src/repo/backfill.rs", "{relay_index}"),
];

const MACROS: [&str; 5] = ["trace!(", "debug!(", "info!(", "warn!(", "error!("];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The arguments of the macro call that begins behind its parenthesis, up to the closing one, and
/// its last literal at the top level: the message.
fn message(call: &str) -> Option<String> {
    let (mut depth, mut characters, mut message) = (0, call.chars(), None);
    while let Some(character) = characters.next() {
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 0 => return message,
            ')' | ']' | '}' => depth -= 1,
            '"' => {
                let mut literal = String::new();
                while let Some(character) = characters.next() {
                    match character {
                        '"' => break,
                        '\\' => literal.extend(['\\', characters.next()?]),
                        character => literal.push(character),
                    }
                }
                if depth == 0 && message.is_none() {
                    message = Some(literal);
                }
            }
            _ => {}
        }
    }
    None
}

/// The placeholders of a format string.
fn placeholders(message: &str) -> Vec<String> {
    let message = message.replace("{{", "").replace("}}", "");
    let pieces = message.split('{').skip(1);
    pieces
        .map(|piece| format!("{{{}}}", piece.split('}').next().unwrap_or_default()))
        .collect()
}

#[test]
fn no_message_of_the_log_has_text_from_outside_in_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    sources(&root.join("src"), &mut paths);
    let (mut calls, mut wrong) = (0, Vec::new());
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        let place = path.strip_prefix(root).unwrap().display().to_string();
        let starts = MACROS
            .iter()
            .flat_map(|name| text.match_indices(name).map(|(at, name)| at + name.len()));
        for start in starts {
            let Some(message) = message(&text[start..]) else {
                continue;
            };
            calls += 1;
            let unknown = placeholders(&message).into_iter().filter(|placeholder| {
                let mut own = OWN_TEXT.iter();
                !own.any(|(file, text)| *file == place && text == placeholder)
            });
            wrong.extend(
                unknown.map(|placeholder| format!("{place}: {placeholder} in {message:?}")),
            );
        }
    }
    assert!(calls > 40, "only {calls} calls were found");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A macro that prints panics when its output is closed or full.
#[test]
fn nothing_prints_with_a_macro_that_panics() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    sources(&root.join("src"), &mut paths);
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        let code = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            for name in ["println!(", "print!(", "dbg!("] {
                let is_call = line.contains(name);
                assert!(!is_call, "{}: {line}", path.display());
            }
        }
    }
}
