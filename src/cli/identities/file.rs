//! Reads an export from a file. The position is the byte at which the next line begins.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, bail};

use super::{Importing, PER_TRANSACTION, parse};

/// An operation has at most a few kilobytes.
const MOST_LINE_BYTES: u64 = 1 << 20;

/// The name of the file in the table of imports.
pub(super) fn name(path: &Path) -> anyhow::Result<String> {
    let found = path.canonicalize().with_context(|| {
        format!(
            "cannot read {}; give a file with the lines of a directory's /export, or the \
             directory's URL",
            path.display()
        )
    })?;
    Ok(found.display().to_string())
}

pub(super) async fn read(importing: &mut Importing, path: &Path) -> anyhow::Result<()> {
    let mut file = open(path, start(importing)?)?;
    let mut position = start(importing)?;
    let mut text = String::new();
    loop {
        text.clear();
        let number = importing.progress.lines + 1;
        let place = || format!("{}, line {number}", path.display());
        let read = (&mut file).take(MOST_LINE_BYTES).read_line(&mut text);
        let read = read.with_context(place)? as u64;
        if read == 0 {
            return importing.save(position.to_string()).await;
        }
        if read == MOST_LINE_BYTES {
            importing.save(position.to_string()).await?;
            bail!("{}: longer than {MOST_LINE_BYTES} bytes", place());
        }
        if !text.trim().is_empty() {
            match parse(&text, place) {
                Ok(line) => importing.take(line),
                Err(error) => {
                    // The next import begins with this line.
                    importing.save(position.to_string()).await?;
                    return Err(error);
                }
            }
        }
        position += read;
        if importing.import.waiting() >= PER_TRANSACTION {
            importing.save(position.to_string()).await?;
        }
    }
}

fn start(importing: &Importing) -> anyhow::Result<u64> {
    let position = &importing.progress.position;
    match position.is_empty() {
        true => Ok(0),
        false => position
            .parse()
            .with_context(|| format!("the stored position {position:?} is no number; use --anew")),
    }
}

fn open(path: &Path, position: u64) -> anyhow::Result<BufReader<File>> {
    let opening = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(opening)?;
    let length = file.metadata().with_context(opening)?.len();
    if length < position {
        bail!(
            "{} has {length} bytes, and {position} were read of it before; it is another file now, \
             use --anew",
            path.display()
        );
    }
    file.seek(SeekFrom::Start(position)).with_context(opening)?;
    Ok(BufReader::new(file))
}
