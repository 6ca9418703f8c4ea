//! `dlq export`: letters with their bytes.

use std::fs::File;
use std::io::{BufWriter, Write, stdout};
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use huddle_firehose::store::letters::{LetterFilter, LetterRange};
use huddle_firehose::store::sqlite::SqliteStore;

use super::filter::Filter;
use crate::cli::{Configuration, database, print_error, runtime};

/// The letters whose ids are read at once. Their bytes are read one letter at a time.
const PAGE: u32 = 500;

#[derive(Args, Debug)]
pub(crate) struct Export {
    #[command(flatten)]
    filter: Filter,
    /// The file to write, which must not exist; by default the output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    configuration: Configuration,
}

impl Export {
    pub(super) fn execute(&self) -> anyhow::Result<()> {
        let config = self.configuration.load_and_log()?;
        runtime()?.block_on(async {
            let store = database::open_to_read(&config).await?;
            let filter = self.filter.checked(&store).await?;
            match &self.out {
                None => {
                    write(&store, &filter, stdout().lock()).await?;
                }
                Some(path) => {
                    let file = File::create_new(path);
                    let file = file.with_context(|| format!("cannot make {}", path.display()))?;
                    let written = write(&store, &filter, BufWriter::new(file)).await?;
                    print_error(&format!("{written} letters are in {}", path.display()));
                }
            }
            Ok(())
        })
    }
}

/// Writes the letters in the order of their ids, and returns how many.
async fn write(
    store: &SqliteStore,
    filter: &LetterFilter,
    mut out: impl Write,
) -> anyhow::Result<u64> {
    let through = store.count_letters(filter).await?.through;
    let (mut after, mut written) = (0, 0);
    loop {
        let range = LetterRange {
            filter,
            after,
            through,
            limit: PAGE,
        };
        let ids = store.next_letters(range, None).await?;
        let Some(last) = ids.last() else {
            out.flush()?;
            return Ok(written);
        };
        after = *last;
        for id in ids {
            // It may have been resolved meanwhile.
            if let Some(letter) = store.dead_letter(id).await? {
                writeln!(out, "{}", letter.json_with_bytes())?;
                written += 1;
            }
        }
    }
}
