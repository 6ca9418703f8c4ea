//! Standard output and standard error. Neither of them may end the program by a panic, and neither
//! may hold up a worker.

use std::io::{self, Write};

/// Writes `text` to standard output. `print!` would panic if the reader is gone (`config print |
/// head -1`).
pub(crate) fn print(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Writes a line to standard error, before there is a log. What is refused is lost: there is no
/// other place to tell it.
pub(crate) fn print_error(text: &str) {
    let _written = io::stderr().write_all(format!("{text}\n").as_bytes());
}
