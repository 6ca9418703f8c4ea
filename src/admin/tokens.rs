//! The tokens of the HTTP interface: a file of digests, one line for each.

use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};

use crate::command::{Caller, Role};

/// What a token begins with, so that a scanner for secrets finds one that is lost.
const PREFIX: &str = "hfa_";
/// The random bytes of a token.
const SECRET_BYTES: usize = 32;
/// What a digest begins with.
const ALGORITHM: &str = "sha256:";
/// The rights that others than the owner may not have.
const OF_OTHERS: u32 = 0o077;

type Hash = [u8; 32];

/// A file of tokens, which is read again when it has changed.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    read: Mutex<Option<ReadFile>>,
}

/// What was read, and of which state of the file.
#[derive(Clone, Debug)]
struct ReadFile {
    state: FileState,
    tokens: Vec<Token>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileState {
    inode: u64,
    changed: (i64, i64),
    length: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    name: String,
    role: Role,
    digest: Hash,
}

/// Why a file of tokens cannot be used. Nothing is allowed then.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    #[error("cannot read {path}: {error}", path = path.display())]
    Io { path: PathBuf, error: io::Error },

    #[error(
        "{path} may be read by others than its owner (mode {mode:o}); set it to 600",
        path = path.display()
    )]
    Exposed { path: PathBuf, mode: u32 },

    #[error(
        "{path}, line {line}: not a name, a role (read, operate or admin) and sha256: with 64 hex \
         digits",
        path = path.display()
    )]
    Line { path: PathBuf, line: usize },

    #[error("{path} has two tokens named {name}", path = path.display())]
    Repeated { path: PathBuf, name: String },
}

/// A new token, which is shown once.
#[derive(Debug)]
pub struct NewToken {
    /// What its owner keeps.
    pub secret: String,
    /// The line of the file, with a line feed.
    pub line: String,
}

/// Why there is no new token.
#[derive(Debug, thiserror::Error)]
pub enum NewTokenError {
    #[error("{0:?} is not a name of letters, digits, hyphens, dots and underscores")]
    Name(String),
    #[error("the system has no random numbers")]
    NoRandomness,
}

impl TokenFile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn open(path: &Path) -> Result<Self, TokenFileError> {
        let file = Self {
            path: path.to_owned(),
            read: Mutex::new(None),
        };
        file.tokens()?;
        Ok(file)
    }

    /// Whether there is a token of this name.
    ///
    /// # Errors
    /// If the file cannot be used.
    pub fn has(&self, name: &str) -> Result<bool, TokenFileError> {
        let tokens = self.tokens()?;
        Ok(tokens.iter().any(|token| token.name == name))
    }

    /// Who has `secret`.
    ///
    /// # Errors
    /// If the file has changed, and cannot be used any more.
    pub fn caller(&self, secret: &str) -> Result<Option<Caller>, TokenFileError> {
        let digest: Hash = Sha256::digest(secret.as_bytes()).into();
        let mut found = None;
        // Each is compared, so that the time does not tell which one is near.
        for token in self.tokens()? {
            if is_equal(&token.digest, &digest) {
                found = Some(Caller {
                    name: format!("token {}", token.name),
                    role: token.role,
                });
            }
        }
        Ok(found)
    }

    fn tokens(&self) -> Result<Vec<Token>, TokenFileError> {
        let failed = |error| TokenFileError::Io {
            path: self.path.clone(),
            error,
        };
        let metadata = fs::metadata(&self.path).map_err(failed)?;
        let state = FileState {
            inode: metadata.ino(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            length: metadata.len(),
        };
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = read.as_ref().filter(|known| known.state == state) {
            return Ok(known.tokens.clone());
        }
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & OF_OTHERS != 0 {
            return Err(TokenFileError::Exposed {
                path: self.path.clone(),
                mode,
            });
        }
        let text = fs::read_to_string(&self.path).map_err(failed)?;
        let tokens = parse(&self.path, &text)?;
        *read = Some(ReadFile {
            state,
            tokens: tokens.clone(),
        });
        Ok(tokens)
    }
}

impl NewToken {
    /// Makes a token.
    ///
    /// # Errors
    /// If the name is not valid, or the system has no random numbers.
    pub fn make(name: &str, role: Role) -> Result<Self, NewTokenError> {
        if !is_name(name) {
            return Err(NewTokenError::Name(name.to_owned()));
        }
        let mut bytes = [0; SECRET_BYTES];
        let filled = SystemRandom::new().fill(&mut bytes);
        filled.map_err(|_unspecified| NewTokenError::NoRandomness)?;
        let secret = format!("{PREFIX}{}", hex(&bytes));
        let digest: Hash = Sha256::digest(secret.as_bytes()).into();
        let line = format!("{name} {} {ALGORITHM}{}\n", role.as_str(), hex(&digest));
        Ok(Self { secret, line })
    }
}

fn parse(path: &Path, text: &str) -> Result<Vec<Token>, TokenFileError> {
    let mut tokens: Vec<Token> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line_number = index + 1;
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let token = parse_line(line).ok_or_else(|| TokenFileError::Line {
            path: path.to_owned(),
            line: line_number,
        })?;
        if tokens.iter().any(|other| other.name == token.name) {
            return Err(TokenFileError::Repeated {
                path: path.to_owned(),
                name: token.name,
            });
        }
        tokens.push(token);
    }
    Ok(tokens)
}

fn parse_line(line: &str) -> Option<Token> {
    let mut words = line.split_ascii_whitespace();
    let (name, role, digest) = (words.next()?, words.next()?, words.next()?);
    let is_complete = words.next().is_none() && is_name(name);
    is_complete.then_some(())?;
    Some(Token {
        name: name.to_owned(),
        role: Role::parse(role)?,
        digest: unhex(digest.strip_prefix(ALGORITHM)?)?,
    })
}

fn is_name(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    (1..=64).contains(&text.len()) && text.bytes().all(is_allowed)
}

/// Whether both are equal, in a time that does not depend on where they differ.
fn is_equal(one: &Hash, other: &Hash) -> bool {
    let pairs = one.iter().zip(other);
    black_box(pairs.fold(0, |differences, (one, other)| differences | (one ^ other))) == 0
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String does not fail.
        let _written = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Hash> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).ok()?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        write(&path, text);
        (folder, path)
    }

    fn write(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    }

    /// Holds invariant 13.7.
    #[test]
    fn a_token_is_known_by_its_digest_with_its_role() {
        let ann = NewToken::make("ann", Role::Read).unwrap();
        let bob = NewToken::make("bob", Role::Admin).unwrap();
        assert!(ann.secret.starts_with(PREFIX) && ann.secret.len() == 4 + 64);
        assert_ne!(ann.secret, bob.secret);
        assert!(!ann.line.contains(&ann.secret));
        let (_folder, path) = file(&format!("# tokens\n\n{}{}", ann.line, bob.line));
        let tokens = TokenFile::open(&path).unwrap();
        let caller = tokens.caller(&ann.secret).unwrap().unwrap();
        assert_eq!(
            (caller.name.as_str(), caller.role),
            ("token ann", Role::Read)
        );
        let caller = tokens.caller(&bob.secret).unwrap().unwrap();
        assert_eq!(
            (caller.name.as_str(), caller.role),
            ("token bob", Role::Admin)
        );
        for wrong in ["", "hfa_", &ann.secret[1..], &ann.line] {
            assert_eq!(tokens.caller(wrong).unwrap(), None);
        }
    }

    #[test]
    fn a_file_that_has_changed_is_read_again() {
        let (ann, bob) = (
            NewToken::make("ann", Role::Read).unwrap(),
            NewToken::make("bob", Role::Read).unwrap(),
        );
        let (_folder, path) = file(&ann.line);
        let tokens = TokenFile::open(&path).unwrap();
        assert!(tokens.caller(&ann.secret).unwrap().is_some());
        write(&path, &format!("{}\n", bob.line));
        assert!(tokens.caller(&ann.secret).unwrap().is_none());
        assert!(tokens.caller(&bob.secret).unwrap().is_some());
        write(&path, "nonsense\n");
        assert!(tokens.caller(&bob.secret).is_err());
    }

    #[test]
    fn a_file_that_others_may_read_or_that_has_a_wrong_line_is_refused() {
        let ann = NewToken::make("ann", Role::Read).unwrap().line;
        let digest = ann.rsplit_once(' ').unwrap().1;
        for (text, word) in [
            ("ann read\n".to_owned(), "line 1"),
            (format!("{ann}ann boss {digest}"), "line 2"),
            (format!("a/n read {digest}"), "line 1"),
            ("ann read sha256:12".to_owned(), "line 1"),
            (format!("{ann}{ann}"), "two tokens named ann"),
        ] {
            let (_folder, path) = file(&text);
            let error = TokenFile::open(&path).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        let (_folder, path) = file(&ann);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let error = TokenFile::open(&path).unwrap_err().to_string();
        assert!(error.contains("640") && error.contains("600"), "{error}");
        assert!(NewToken::make("a b", Role::Read).is_err());
    }
}
