//! The index of a spool: where each block is.
//!
//! A short index is kept in memory. The entries of a long one are sorted in runs, and the runs are
//! merged into one sorted file. So the index of ten million blocks takes less than a megabyte of
//! memory, while an outsider decides how many blocks there are.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tokio::task::spawn_blocking;

/// The entries that are sorted in memory, half a megabyte. Most repositories have fewer blocks.
const RUN: usize = 32 << 10;

/// The entries that are read from a file at once, and for which one key is kept in memory.
const PAGE: usize = 256;

/// The bytes of an entry in a file.
const ENTRY: usize = 16;

/// The location of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Located {
    pub(super) key: u64,
    pub(super) offset: u64,
}

/// The locations of all blocks, sorted by key.
#[derive(Debug)]
pub(super) enum Index {
    Memory(Vec<Located>),
    Merged(Merged),
}

/// A sorted file of entries.
#[derive(Debug)]
pub(super) struct Merged {
    file: File,
    entries: u64,
    /// The key of the first entry of each page.
    first_keys: Vec<u64>,
}

/// An index that is being made.
#[derive(Debug)]
pub(super) struct Indexing {
    folder: PathBuf,
    /// The number of entries that are sorted in memory.
    longest_run: usize,
    run: Vec<Located>,
    runs: Option<Runs>,
    entries: u64,
}

/// Runs of entries in one file, each of them sorted.
#[derive(Debug)]
struct Runs {
    file: File,
    /// How many entries the runs before the end of each run have.
    ends: Vec<u64>,
}

/// The entries of one run that are not merged yet.
struct RunReader<'f> {
    file: &'f File,
    next: u64,
    end: u64,
    /// In descending order.
    page: Vec<Located>,
}

// === impl Index ===

impl Index {
    /// The offsets of the blocks with this key. There is seldom more than one.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(super) fn offsets(&self, key: u64) -> io::Result<Vec<u64>> {
        match self {
            Self::Memory(entries) => Ok(offsets_in(entries, key).collect()),
            Self::Merged(merged) => merged.offsets(key),
        }
    }
}

impl Merged {
    fn offsets(&self, key: u64) -> io::Result<Vec<u64>> {
        // Entries with the key may begin at the end of the page before the first that begins with
        // it.
        let from = self.first_keys.partition_point(|first| *first < key);
        let mut offsets = Vec::new();
        for page in from.saturating_sub(1)..self.first_keys.len() {
            if self.first_keys[page] > key {
                break;
            }
            let start = page as u64 * PAGE as u64;
            let count = (self.entries - start).min(PAGE as u64);
            let entries = read_entries(&self.file, start, count as usize)?;
            offsets.extend(offsets_in(&entries, key));
        }
        Ok(offsets)
    }
}

fn offsets_in(entries: &[Located], key: u64) -> impl Iterator<Item = u64> {
    let first = entries.partition_point(|located| located.key < key);
    let equal = entries[first..].iter();
    equal
        .take_while(move |located| located.key == key)
        .map(|located| located.offset)
}

// === impl Indexing ===

impl Indexing {
    pub(super) fn new(folder: &Path) -> Self {
        Self::with_run(folder, RUN)
    }

    fn with_run(folder: &Path, longest_run: usize) -> Self {
        Self {
            folder: folder.to_owned(),
            longest_run,
            run: Vec::new(),
            runs: None,
            entries: 0,
        }
    }

    /// How many entries there are.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// Adds an entry. A full run is written on another thread.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) async fn push(&mut self, located: Located) -> io::Result<()> {
        if self.run.len() == self.longest_run {
            self.write_run().await?;
        }
        self.run.push(located);
        self.entries += 1;
        Ok(())
    }

    async fn write_run(&mut self) -> io::Result<()> {
        let mut run = std::mem::take(&mut self.run);
        let mut runs = self.runs.take();
        let folder = self.folder.clone();
        let written = spawn_blocking(move || {
            let runs = match runs.take() {
                Some(runs) => runs,
                None => Runs {
                    file: tempfile::tempfile_in(folder)?,
                    ends: Vec::new(),
                },
            };
            let mut runs = runs;
            run.sort_unstable();
            runs.append(&run)?;
            run.clear();
            io::Result::Ok((run, runs))
        });
        let (run, runs) = written.await.map_err(io::Error::other)??;
        // Its memory is used again.
        self.run = run;
        self.runs = Some(runs);
        Ok(())
    }

    /// Sorts all entries.
    ///
    /// # Errors
    /// If the files cannot be written or read.
    pub(super) async fn finish(mut self) -> io::Result<Index> {
        if self.runs.is_none() {
            self.run.shrink_to_fit();
            self.run.sort_unstable();
            return Ok(Index::Memory(self.run));
        }
        self.write_run().await?;
        let Self {
            folder,
            runs,
            entries,
            ..
        } = self;
        let merged = spawn_blocking(move || {
            let file = tempfile::tempfile_in(folder)?;
            match runs {
                Some(runs) => runs.merge(file, entries).map(Index::Merged),
                None => Ok(Index::Memory(Vec::new())),
            }
        });
        merged.await.map_err(io::Error::other)?
    }
}

// === impl Runs ===

impl Runs {
    fn append(&mut self, run: &[Located]) -> io::Result<()> {
        let written = self.ends.last().copied().unwrap_or_default();
        let bytes: Vec<u8> = run.iter().flat_map(|located| encode(*located)).collect();
        self.file.write_all_at(&bytes, written * ENTRY as u64)?;
        self.ends.push(written + run.len() as u64);
        Ok(())
    }

    fn merge(self, into: File, entries: u64) -> io::Result<Merged> {
        let starts = std::iter::once(&0).chain(&self.ends);
        let mut readers: Vec<RunReader<'_>> = starts
            .zip(&self.ends)
            .map(|(start, end)| RunReader {
                file: &self.file,
                next: *start,
                end: *end,
                page: Vec::new(),
            })
            .collect();
        let mut least = BinaryHeap::new();
        for (number, reader) in readers.iter_mut().enumerate() {
            least.extend(reader.take()?.map(|located| Reverse((located, number))));
        }
        let mut first_keys = Vec::with_capacity(entries.div_ceil(PAGE as u64) as usize);
        let mut writer = BufWriter::new(into);
        let mut written = 0_usize;
        while let Some(Reverse((located, number))) = least.pop() {
            if written.is_multiple_of(PAGE) {
                first_keys.push(located.key);
            }
            written += 1;
            writer.write_all(&encode(located))?;
            if let Some(reader) = readers.get_mut(number) {
                least.extend(reader.take()?.map(|located| Reverse((located, number))));
            }
        }
        let file = writer.into_inner().map_err(|error| error.into_error())?;
        Ok(Merged {
            file,
            entries,
            first_keys,
        })
    }
}

impl RunReader<'_> {
    fn take(&mut self) -> io::Result<Option<Located>> {
        if self.page.is_empty() {
            let count = (self.end - self.next).min(PAGE as u64);
            self.page = read_entries(self.file, self.next, count as usize)?;
            self.page.reverse();
            self.next += count;
        }
        Ok(self.page.pop())
    }
}

/// Reads `count` entries after the first `start` ones.
fn read_entries(file: &File, start: u64, count: usize) -> io::Result<Vec<Located>> {
    let mut bytes = vec![0; count * ENTRY];
    file.read_exact_at(&mut bytes, start * ENTRY as u64)?;
    let (entries, _) = bytes.as_chunks::<ENTRY>();
    Ok(entries.iter().map(decode).collect())
}

fn encode(located: Located) -> [u8; ENTRY] {
    let both = u128::from(located.key) << 64 | u128::from(located.offset);
    both.to_le_bytes()
}

fn decode(bytes: &[u8; ENTRY]) -> Located {
    let both = u128::from_le_bytes(*bytes);
    Located {
        key: (both >> 64) as u64,
        offset: both as u64,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Makes an index of `keys`, each at the offset that is its place, in runs of `run`.
    async fn index(keys: &[u64], run: usize) -> Index {
        let mut indexing = Indexing::with_run(&std::env::temp_dir(), run);
        for (offset, key) in (0..).zip(keys) {
            let (key, entry) = (*key, offset);
            indexing.push(Located { key, offset: entry }).await.unwrap();
        }
        assert_eq!(indexing.entries(), keys.len() as u64);
        indexing.finish().await.unwrap()
    }

    #[tokio::test]
    async fn every_entry_is_found_whether_the_index_is_in_memory_or_in_a_file() {
        let mut random = fastrand::Rng::with_seed(1);
        for (count, run) in [(0, 4), (3, 4), (4, 4), (5, 4), (3000, 100), (1000, 1)] {
            // So few keys that some have several entries, which may lie on both sides of a page.
            let keys: Vec<u64> = (0..count).map(|_| random.u64(..count / 3 + 1)).collect();
            let index = index(&keys, run).await;
            assert_eq!(matches!(index, Index::Memory(_)), count as usize <= run);
            let mut expected: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
            for (offset, key) in (0..).zip(&keys) {
                expected.entry(*key).or_default().push(offset);
            }
            for key in 0..count + 2 {
                let found = index.offsets(key).unwrap();
                let expected = expected.get(&key).cloned().unwrap_or_default();
                assert_eq!(found, expected, "key {key} of {count} in runs of {run}");
            }
        }
    }

    /// Holds invariant 4.10: ten million entries would take 160 megabytes.
    #[tokio::test]
    async fn a_long_index_keeps_one_key_of_a_page_in_memory() {
        let keys: Vec<u64> = (0..10_000).rev().collect();
        let Index::Merged(merged) = index(&keys, 1000).await else {
            panic!("it is in memory");
        };
        assert_eq!(merged.first_keys.len(), 10_000_usize.div_ceil(PAGE));
        assert_eq!(merged.first_keys.capacity(), merged.first_keys.len());
    }
}
