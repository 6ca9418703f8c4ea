//! Stores the blocks of a CAR in a file instead of memory.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use cid::Cid;
use iroh_car::CarHeader;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::task::spawn_blocking;

use crate::atproto::car::is_address;
use crate::atproto::cbor::{self, CborError};

/// The longest section of a CAR, in bytes: twice the length of the longest record, and a CID.
pub const MAX_SECTION: usize = (2 << 20) + 64;

/// The lowest average size of a block with its CID, in bytes. Blocks of real repositories are two
/// or three times as large. This keeps the index below an eighth of the allowed bytes.
const LEAST_AVERAGE: u64 = 128;

/// The most bytes of a length below [`MAX_SECTION`], in groups of seven bits.
const MAX_VARINT: usize = 4;

/// The number of bytes in one read or write, each of which is a round trip to the file's thread.
const BUFFER: usize = 256 << 10;

/// In the file, each block follows its digest and its length.
const DIGEST: usize = 32;
const HEAD: usize = DIGEST + size_of::<u32>();

/// The blocks of one CAR, each at the address of its hash. They are in an unnamed file that is
/// deleted with this value. In memory, each block takes 16 bytes.
#[derive(Debug)]
pub struct Spool {
    root: Cid,
    /// The length of the file.
    bytes: u64,
    file: File,
    /// Sorted by key.
    index: Vec<Located>,
    /// Computes keys from digests. Outsiders cannot choose digests with equal keys, because the
    /// hasher is random.
    hasher: RandomState,
}

/// The location of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Located {
    key: u64,
    offset: u64,
}

/// The input is not a CAR of a repository, or is not complete.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("block {0} does not hash to its CID")]
    Address(Box<Cid>),
    #[error("CAR section at byte {offset}: it begins with no CID")]
    Cid { offset: u64 },
    /// Our own disk failed. This says nothing about the sender.
    #[error("cannot write the blocks to a file: {0}")]
    File(io::Error),
    #[error("CAR header: {0}")]
    Header(#[from] CborError),
    #[error("CAR header: {0}")]
    HeaderFields(#[from] iroh_car::Error),
    #[error("cannot read the CAR: {0}")]
    Read(io::Error),
    #[error("the CAR has {0} roots; a repository has one")]
    Roots(usize),
    #[error("CAR section at byte {offset}: it is longer than {MAX_SECTION} bytes")]
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
    /// Reads a whole CAR of at most `limit` bytes into a file in `folder`, which should be on a
    /// disk and not in memory. Blocks may come in any order, and repeatedly. A block that does not
    /// match its CID is an error. A CAR that was cut between two sections cannot be distinguished
    /// from a complete one here.
    ///
    /// The file is written on other threads, so this never blocks. It has no deadline of its own.
    ///
    /// # Errors
    /// If `car` is not a CAR, is too large, or cannot be read to its end; or if the file cannot be
    /// written.
    pub async fn read<R>(car: R, limit: u64, folder: &Path) -> Result<Self, SpoolError>
    where
        R: AsyncRead + Unpin,
    {
        let folder = folder.to_owned();
        let file = spawn_blocking(move || tempfile::tempfile_in(folder)).await;
        let file = file.map_err(io::Error::other).flatten();
        let file = tokio::fs::File::from_std(file.map_err(SpoolError::File)?);
        let mut sections = Sections::new(car, limit);
        let root = read_root(&mut sections).await?;
        let mut spooling = Spooling {
            file: BufWriter::with_capacity(BUFFER, file),
            written: 0,
            index: Vec::new(),
            hasher: RandomState::new(),
        };
        while let Some(Section { offset, bytes }) = sections.next().await? {
            let (cid, block) = split_block(bytes).ok_or(SpoolError::Cid { offset })?;
            // Nothing in a repository refers to other kinds of blocks.
            if !is_address(&cid) {
                continue;
            }
            let digest = Sha256::digest(block);
            if *cid.hash().digest() != *digest {
                return Err(SpoolError::Address(Box::new(cid)));
            }
            if spooling.index.len() as u64 >= limit / LEAST_AVERAGE {
                let limit = limit / LEAST_AVERAGE;
                return Err(SpoolError::TooMany { limit });
            }
            spooling
                .push(&digest, block)
                .await
                .map_err(SpoolError::File)?;
        }
        spooling.finish(root).await.map_err(SpoolError::File)
    }

    /// The only root that the CAR names. Its block may be missing.
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

    /// Whether there is a block at this address. Blocks its thread while it reads from the disk.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn contains(&self, cid: &Cid) -> io::Result<bool> {
        Ok(self.find(cid)?.is_some())
    }

    /// The location of the block at this address in the file.
    fn find(&self, cid: &Cid) -> io::Result<Option<Range<u64>>> {
        if !is_address(cid) {
            return Ok(None);
        }
        let digest = cid.hash().digest();
        let key = key(&self.hasher, digest);
        let first = self.index.partition_point(|located| located.key < key);
        let candidates = self.index[first..].iter();
        for Located { offset, .. } in candidates.take_while(|located| located.key == key) {
            let mut head = [0; HEAD];
            self.file.read_exact_at(&mut head, *offset)?;
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

async fn read_root<R>(sections: &mut Sections<R>) -> Result<Cid, SpoolError>
where
    R: AsyncRead + Unpin,
{
    let Some(Section { bytes, .. }) = sections.next().await? else {
        return Err(SpoolError::Truncated { offset: 0 });
    };
    // After this check iroh-car allocates no more than the header's size.
    cbor::check(bytes)?;
    match CarHeader::decode(bytes)?.roots() {
        [root] => Ok(*root),
        roots => Err(SpoolError::Roots(roots.len())),
    }
}

/// The CID at the start of a section, and the block after it.
fn split_block(mut section: &[u8]) -> Option<(Cid, &[u8])> {
    let cid = Cid::read_bytes(&mut section).ok()?;
    Some((cid, section))
}

/// A spool during writing.
struct Spooling {
    file: BufWriter<tokio::fs::File>,
    written: u64,
    index: Vec<Located>,
    hasher: RandomState,
}

// === impl Spooling ===

impl Spooling {
    async fn push(&mut self, digest: &[u8], block: &[u8]) -> io::Result<()> {
        let length = u32::try_from(block.len()).map_err(io::Error::other)?;
        self.file.write_all(digest).await?;
        self.file.write_all(&length.to_le_bytes()).await?;
        self.file.write_all(block).await?;
        self.index.push(Located {
            key: key(&self.hasher, digest),
            offset: self.written,
        });
        self.written += HEAD as u64 + u64::from(length);
        Ok(())
    }

    async fn finish(mut self, root: Cid) -> io::Result<Spool> {
        self.file.flush().await?;
        self.index.shrink_to_fit();
        self.index.sort_unstable();
        Ok(Spool {
            root,
            bytes: self.written,
            file: self.file.into_inner().into_std().await,
            index: self.index,
            hasher: self.hasher,
        })
    }
}

/// Reads a CAR section by section. iroh-car can do this too, but accepts a CAR that is cut within a
/// length field as complete.
struct Sections<R> {
    car: BufReader<R>,
    limit: u64,
    /// Where the next section begins.
    offset: u64,
    buffer: Vec<u8>,
}

/// The bytes between two length fields.
struct Section<'a> {
    /// The start of the section, including its length field.
    offset: u64,
    bytes: &'a [u8],
}

// === impl Sections ===

impl<R> Sections<R>
where
    R: AsyncRead + Unpin,
{
    fn new(car: R, limit: u64) -> Self {
        Self {
            car: BufReader::with_capacity(BUFFER, car),
            limit,
            offset: 0,
            buffer: Vec::new(),
        }
    }

    async fn next(&mut self) -> Result<Option<Section<'_>>, SpoolError> {
        let offset = self.offset;
        let Some(length) = self.length().await? else {
            return Ok(None);
        };
        self.advance(length as u64)?;
        // `length` is at most the longest section.
        self.buffer.resize(length, 0);
        let read = self.car.read_exact(&mut self.buffer).await;
        read.map_err(|error| broken_off(error, offset))?;
        Ok(Some(Section {
            offset,
            bytes: &self.buffer,
        }))
    }

    /// The length of the next section; `None` at the end.
    async fn length(&mut self) -> Result<Option<usize>, SpoolError> {
        let offset = self.offset;
        let mut length = 0;
        for index in 0..MAX_VARINT {
            let byte = match self.car.read_u8().await {
                Ok(byte) => byte,
                Err(error) if index == 0 && is_end(&error) => return Ok(None),
                Err(error) => return Err(broken_off(error, offset)),
            };
            self.advance(1)?;
            length |= usize::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                break;
            }
            if index == MAX_VARINT - 1 {
                return Err(SpoolError::SectionLength { offset });
            }
        }
        match length <= MAX_SECTION {
            true => Ok(Some(length)),
            false => Err(SpoolError::SectionLength { offset }),
        }
    }

    fn advance(&mut self, bytes: u64) -> Result<(), SpoolError> {
        self.offset += bytes;
        match self.offset <= self.limit {
            true => Ok(()),
            false => Err(SpoolError::TooLarge { limit: self.limit }),
        }
    }
}

fn is_end(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
}

fn broken_off(error: io::Error, offset: u64) -> SpoolError {
    match is_end(&error) {
        true => SpoolError::Truncated { offset },
        false => SpoolError::Read(error),
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
        let read = Spool::read(&*bytes, 1024, &std::env::temp_dir()).await;
        let mut spool = read.unwrap();
        for cid in [a, b, c] {
            let key = key(&spool.hasher, cid.hash().digest());
            spool.index.iter_mut().for_each(|located| located.key = key);
            let found = spool.get(&cid).unwrap();
            let expected = [(a, "a"), (b, "b")].into_iter().find(|(at, _)| *at == cid);
            assert_eq!(found, expected.map(|(_, block)| block.into()));
        }
    }

    #[test]
    fn a_block_costs_sixteen_bytes_of_memory() {
        assert_eq!(size_of::<Located>(), 16);
    }
}
