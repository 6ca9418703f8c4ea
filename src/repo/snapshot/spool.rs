//! Stores the blocks of a CAR in a file instead of memory.

use std::collections::HashMap;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use cid::Cid;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWriteExt, BufWriter};
use tokio::task::spawn_blocking;

use super::index::{Index, Indexing, Located};
use super::sections::{Block, Section, Sections};
use crate::atproto::car::{HeaderError, address, first_root, is_address};

/// How much of a repository is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The bytes of the CAR.
    pub bytes: u64,
    pub blocks: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 1 << 30,
            blocks: 10_000_000,
        }
    }
}

/// The number of bytes in one write, which is a round trip to the file's thread.
const BUFFER: usize = 256 << 10;

/// In the file, each block follows its digest and its length.
const DIGEST: usize = 32;
const HEAD: usize = DIGEST + size_of::<u32>();

/// The blocks of one CAR, each at the address of its hash. They are in an unnamed file that is
/// deleted with this value, and the index of a long one too.
#[derive(Debug)]
pub struct Spool {
    root: Cid,
    /// The length of the file.
    bytes: u64,
    file: File,
    index: Index,
    /// The lengths of the blocks that are too long to be kept, by digest.
    too_long: HashMap<[u8; DIGEST], u64>,
    /// Computes keys from digests. Outsiders cannot choose digests with equal keys, because the
    /// hasher is random.
    hasher: RandomState,
}

/// The input is not a CAR of a repository, or is not complete.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("CAR section at byte {offset}: it begins with no CID")]
    Cid { offset: u64 },
    /// Our own disk failed. This says nothing about the sender.
    #[error("cannot write the blocks to a file: {0}")]
    File(io::Error),
    #[error("CAR header: {0}")]
    Header(#[from] HeaderError),
    #[error("cannot read the CAR: {0}")]
    Read(io::Error),
    #[error("CAR section at byte {offset}: a length that no section has")]
    SectionLength { offset: u64 },
    #[error("more than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("more than {limit} blocks")]
    TooMany { limit: u64 },
    #[error("the CAR is cut short in the section at byte {offset}")]
    Truncated { offset: u64 },
}

// === impl Spool ===

impl Spool {
    /// Reads a whole CAR within `limits` into a file in `folder`, which should be on a disk and not in
    /// memory. Blocks may come in any order, and repeatedly. A block that does not
    /// match its CID counts as missing, and one of another codec or hash is passed by. A CAR that
    /// was cut between two sections cannot be distinguished from a complete one here.
    ///
    /// The file is written on other threads, so this never blocks. It has no deadline of its own.
    ///
    /// # Errors
    /// If `car` is not a CAR, is too large, or cannot be read to its end; or if the file cannot be
    /// written.
    pub async fn read<R>(car: R, limits: Limits, folder: &Path) -> Result<Self, SpoolError>
    where
        R: AsyncRead + Unpin,
    {
        let indexing = Indexing::new(folder);
        let folder = folder.to_owned();
        let file = spawn_blocking(move || tempfile::tempfile_in(folder)).await;
        let file = file.map_err(io::Error::other).flatten();
        let file = tokio::fs::File::from_std(file.map_err(SpoolError::File)?);
        let mut sections = Sections::new(car, limits.bytes);
        let root = first_root(sections.header().await?)?;
        let mut spooling = Spooling {
            file: BufWriter::with_capacity(BUFFER, file),
            written: 0,
            indexing,
            too_long: HashMap::new(),
            hasher: RandomState::new(),
        };
        while let Some(Section { cid, block }) = sections.next().await? {
            let Some(cid) = address(cid) else {
                continue;
            };
            match block {
                Block::Whole(block) => {
                    let digest = Sha256::digest(block);
                    if *cid.hash().digest() != *digest {
                        continue;
                    }
                    if spooling.indexing.entries() >= limits.blocks {
                        return Err(SpoolError::TooMany {
                            limit: limits.blocks,
                        });
                    }
                    spooling
                        .push(&digest, block)
                        .await
                        .map_err(SpoolError::File)?;
                }
                // So many bytes do not fit into the limit often.
                Block::Hashed { digest, bytes } if *cid.hash().digest() == digest => {
                    spooling.too_long.insert(digest, bytes);
                }
                Block::Hashed { .. } => {}
            }
        }
        spooling.finish(root).await.map_err(SpoolError::File)
    }

    /// The first root that the CAR names. Its block may be missing.
    pub fn root(&self) -> &Cid {
        &self.root
    }

    /// The size of the CAR.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The block at this address. Blocks its thread while it reads from the disk.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn get(&self, cid: &Cid) -> io::Result<Option<Bytes>> {
        let Some(span) = self.find(cid)? else {
            return Ok(None);
        };
        let mut block = vec![0; (span.end - span.start) as usize];
        self.file.read_exact_at(&mut block, span.start)?;
        Ok(Some(block.into()))
    }

    /// The length of the block at this address, if it was too long to be kept.
    pub fn too_long(&self, cid: &Cid) -> Option<u64> {
        let digest = cid.hash().digest().first_chunk()?;
        let length = self.too_long.get(digest).copied();
        length.filter(|_| is_address(cid))
    }

    /// Whether there is a block at this address. Blocks its thread while it reads from the disk.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn contains(&self, cid: &Cid) -> io::Result<bool> {
        Ok(self.find(cid)?.is_some())
    }

    /// The length of the block at this address. Blocks its thread while it reads from the disk.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn length(&self, cid: &Cid) -> io::Result<Option<u64>> {
        Ok(self.find(cid)?.map(|span| span.end - span.start))
    }

    /// The location of the block at this address in the file.
    fn find(&self, cid: &Cid) -> io::Result<Option<Range<u64>>> {
        if !is_address(cid) {
            return Ok(None);
        }
        let digest = cid.hash().digest();
        let key = key(&self.hasher, digest);
        for offset in self.index.offsets(key)? {
            let mut head = [0; HEAD];
            self.file.read_exact_at(&mut head, offset)?;
            let [found @ .., a, b, c, d] = head;
            if found == digest {
                let start = offset + HEAD as u64;
                let length = u32::from_le_bytes([a, b, c, d]);
                return Ok(Some(start..start + u64::from(length)));
            }
        }
        Ok(None)
    }
}

fn key(hasher: &RandomState, digest: &[u8]) -> u64 {
    hasher.hash_one(digest)
}

/// A spool during writing.
struct Spooling {
    file: BufWriter<tokio::fs::File>,
    written: u64,
    indexing: Indexing,
    too_long: HashMap<[u8; DIGEST], u64>,
    hasher: RandomState,
}

// === impl Spooling ===

impl Spooling {
    async fn push(&mut self, digest: &[u8], block: &[u8]) -> io::Result<()> {
        let length = u32::try_from(block.len()).map_err(io::Error::other)?;
        self.file.write_all(digest).await?;
        self.file.write_all(&length.to_le_bytes()).await?;
        self.file.write_all(block).await?;
        let located = Located {
            key: key(&self.hasher, digest),
            offset: self.written,
        };
        self.indexing.push(located).await?;
        self.written += HEAD as u64 + u64::from(length);
        Ok(())
    }

    async fn finish(mut self, root: Cid) -> io::Result<Spool> {
        self.file.flush().await?;
        let index = self.indexing.finish().await?;
        Ok(Spool {
            root,
            bytes: self.written,
            file: self.file.into_inner().into_std().await,
            index,
            too_long: self.too_long,
            hasher: self.hasher,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::firehose::decode::sample::{car, cid_of};

    #[tokio::test]
    async fn blocks_with_equal_keys_are_distinguished() {
        let [a, b, c] = [b"a", b"b", b"c"].map(|block| cid_of(block));
        let bytes = car(a, &[b"a", b"b"]);
        let read = Spool::read(&*bytes, Limits::default(), &std::env::temp_dir()).await;
        let mut spool = read.unwrap();
        let Index::Memory(mut entries) = std::mem::replace(&mut spool.index, Index::Memory(vec![]))
        else {
            panic!("two blocks are few");
        };
        for cid in [a, b, c] {
            let key = key(&spool.hasher, cid.hash().digest());
            entries.iter_mut().for_each(|located| located.key = key);
            spool.index = Index::Memory(entries.clone());
            let found = spool.get(&cid).unwrap();
            let expected = [(a, "a"), (b, "b")].into_iter().find(|(at, _)| *at == cid);
            assert_eq!(found, expected.map(|(_, block)| block.into()));
        }
    }
}
