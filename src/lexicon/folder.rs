//! Reads the lexicon documents of an operator's folder.

use std::collections::BTreeMap;
use std::fs::{self, DirEntry, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::documents::Document;
use super::problems::LexiconError;
use super::schemas::EMBEDDED;
use crate::atproto::syntax::Nsid;

/// The longest document, in bytes. It is a record of the protocol, which may be as long.
pub const MAX_DOCUMENT: u64 = 1 << 20;

/// The most folders within each other.
pub(super) const MAX_DEPTH: usize = 32;
/// The most documents of a folder.
pub(super) const MAX_DOCUMENTS: usize = 10_000;
/// Collections whose tables are made by code, which relies on their schemas.
const OF_CODE: &str = "com.huddle.";

/// The documents in `folder`, by id.
pub(super) fn read_folder(
    folder: &Path,
    problems: &mut Vec<LexiconError>,
) -> BTreeMap<Nsid, (PathBuf, Document)> {
    let mut files = Vec::new();
    if let Err(error) = collect_files(folder, 0, &mut files) {
        problems.push(error);
    }
    files.sort();
    let mut found: BTreeMap<Nsid, (PathBuf, Document)> = BTreeMap::new();
    for file in files {
        let document = match read_document(&file) {
            Ok(document) => document,
            Err(error) => {
                problems.push(error);
                continue;
            }
        };
        let id = document.id.clone();
        if let Some((other, _)) = found.get(&id) {
            let other = other.clone();
            problems.push(LexiconError::Twice { file, id, other });
        } else {
            found.insert(id, (file, document));
        }
    }
    found
}

fn read_document(file: &Path) -> Result<Document, LexiconError> {
    parse(file, &read_text(file)?)
}

pub(super) fn parse(file: &Path, text: &str) -> Result<Document, LexiconError> {
    let document = Document::parse(text).map_err(|error| LexiconError::Document {
        file: file.to_owned(),
        error: Box::new(error),
    })?;
    match is_of_code(&document.id) {
        false => Ok(document),
        true => Err(LexiconError::OfCode {
            file: file.to_owned(),
            id: document.id,
        }),
    }
}

/// Whether the program has this document, and code that relies on it.
pub(super) fn is_of_code(id: &Nsid) -> bool {
    let is_own = |json: &&str| Document::parse(json).is_ok_and(|own| own.id == *id);
    id.as_str().starts_with(OF_CODE) && EMBEDDED.iter().any(is_own)
}

/// Reads a file that is not too long.
fn read_text(file: &Path) -> Result<String, LexiconError> {
    let mut text = String::new();
    let read =
        File::open(file).and_then(|opened| opened.take(MAX_DOCUMENT + 1).read_to_string(&mut text));
    match read {
        Ok(bytes) if bytes as u64 > MAX_DOCUMENT => Err(LexiconError::TooLong(file.to_owned())),
        Ok(_) => Ok(text),
        Err(error) => Err(unreadable(file, error)),
    }
}

fn collect_files(
    folder: &Path,
    depth: usize,
    files: &mut Vec<PathBuf>,
) -> Result<(), LexiconError> {
    if depth > MAX_DEPTH {
        return Err(LexiconError::TooDeep(folder.to_owned()));
    }
    for entry in fs::read_dir(folder).map_err(|error| unreadable(folder, error))? {
        let entry = entry.map_err(|error| unreadable(folder, error))?;
        let path = entry.path();
        if is_hidden(&entry) {
            continue;
        }
        let kind = entry
            .file_type()
            .map_err(|error| unreadable(&path, error))?;
        if kind.is_dir() {
            collect_files(&path, depth + 1, files)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            if files.len() == MAX_DOCUMENTS {
                return Err(LexiconError::TooMany(folder.to_owned()));
            }
            files.push(path);
        }
    }
    Ok(())
}

/// Where Kubernetes mounts files, they are links into folders whose names begin with a dot.
fn is_hidden(entry: &DirEntry) -> bool {
    entry.file_name().as_encoded_bytes().starts_with(b".")
}

fn unreadable(path: &Path, error: io::Error) -> LexiconError {
    LexiconError::Unreadable {
        path: path.to_owned(),
        error,
    }
}
