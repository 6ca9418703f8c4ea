//! What is wrong with the lexicon documents of a folder.

use std::path::PathBuf;
use std::{fmt, io};

use super::documents::SchemaError;
use super::folder::{MAX_DEPTH, MAX_DOCUMENT, MAX_DOCUMENTS};
use super::typed_view::ViewError;
use crate::atproto::syntax::Nsid;

/// The most problems that are told at once.
const MAX_TOLD: usize = 20;

/// All problems of the documents in a folder.
#[derive(Debug, thiserror::Error)]
pub struct LexiconErrors(pub Vec<LexiconError>);

/// A problem of the documents in a folder.
#[derive(Debug, thiserror::Error)]
pub enum LexiconError {
    #[error("{}: {error}", file.display())]
    Document {
        file: PathBuf,
        error: Box<SchemaError>,
    },

    #[error("{}: has no *.json in it, nor in a folder below it", .0.display())]
    Empty(PathBuf),

    #[error(
        "{}: {error}; `huddle-firehose lexicon fetch {missing}` gets it from the network",
        file.display()
    )]
    MissingRef {
        file: PathBuf,
        error: Box<SchemaError>,
        /// The document that would define it.
        missing: String,
    },

    #[error("{}: {error}; this document has no such definition", file.display())]
    NoDefinition {
        file: PathBuf,
        error: Box<SchemaError>,
    },

    #[error(
        "{}: {id} is part of the program, whose tables rely on its schema, and cannot be replaced",
        file.display()
    )]
    OfCode { file: PathBuf, id: Nsid },

    #[error(
        "{}: folders are nested more than {MAX_DEPTH} deep",
        .0.display()
    )]
    TooDeep(PathBuf),

    #[error("{}: has more than {MAX_DOCUMENT} bytes", .0.display())]
    TooLong(PathBuf),

    #[error("{}: has more than {MAX_DOCUMENTS} documents", .0.display())]
    TooMany(PathBuf),

    #[error("{}: defines {id}, and so does {}", file.display(), other.display())]
    Twice {
        file: PathBuf,
        id: Nsid,
        other: PathBuf,
    },

    #[error("{}: cannot be read: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },

    #[error("{}{error}", named(.files))]
    View {
        /// The files of the documents that it is about.
        files: Vec<PathBuf>,
        error: ViewError,
    },

    /// The documents of the program, which tests hold to be valid.
    #[error("the program's own lexicons: {0}")]
    Own(#[from] SchemaError),
}

/// The beginning of a problem that these files have together.
fn named(files: &[PathBuf]) -> String {
    let files: Vec<String> = files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    match files.is_empty() {
        true => String::new(),
        false => format!("{}: ", files.join(" and ")),
    }
}

impl fmt::Display for LexiconErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the lexicons cannot be used")?;
        for problem in self.0.iter().take(MAX_TOLD) {
            write!(f, "\n  {problem}")?;
        }
        match self.0.len().saturating_sub(MAX_TOLD) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more problems"),
        }
    }
}
