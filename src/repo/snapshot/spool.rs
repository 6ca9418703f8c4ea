//! The blocks of a CAR, in a file rather than in memory.

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

/// The longest section of a CAR, in bytes: a block twice as long as any record may be, and its CID.
pub const MAX_SECTION: usize = (2 << 20) + 64;

/// How many bytes a block takes on average at the least, with its CID. Those of a repository take
/// two or three times as much. It keeps the index below an eighth of the bytes that are allowed.
const LEAST_AVERAGE: u64 = 128;

/// The longest that a length below [`MAX_SECTION`] may be written, in groups of seven bits.
const MAX_VARINT: usize = 4;

/// What is read and written at once. The file's own thread is asked that often.
const BUFFER: usize = 256 << 10;

/// In the file, a block comes behind its digest and its length.
const DIGEST: usize = 32;
const HEAD: usize = DIGEST + size_of::<u32>();

/// The blocks of one CAR, each under the address that it hashes to. They are in a file that has no
/// name and goes when this does; in memory are 16 bytes for each.
#[derive(Debug)]
pub struct Spool {
    root: Cid,
    /// Of the file.
    bytes: u64,
    file: File,
    /// In the order of the keys.
    index: Vec<Located>,
    /// Makes keys of digests. Nobody else can tell which digests it would make the same key of.
    hasher: RandomState,
}

/// Where a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Located {
    key: u64,
    offset: u64,
}

/// What came is no CAR of a repository, or did not come whole.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("block {0} does not hash to its CID")]
    Address(Box<Cid>),
    #[error("CAR section at byte {offset}: it begins with no CID")]
    Cid { offset: u64 },
    /// Our own disk is at fault, not who sent it.
    #[error("cannot write the blocks to a file: {0}")]
    File(io::Error),
    #[error("CAR header: {0}")]
    Header(#[from] CborError),
    #[error("CAR header: {0}")]
    HeaderFields(#[from] iroh_car::Error),
    #[error("cannot read on: {0}")]
    Read(io::Error),
    #[error("the CAR has {0} roots, and a repository one")]
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
    /// Reads a whole CAR of at most `limit` bytes into a file in `folder`, which should not be in
    /// memory. Blocks may come in any order, and more than once; those that hash to something else
    /// than their CIDs say are refused. A CAR that ends before its time, but behind a section, can't
    /// be told from a whole one here.
    ///
    /// The file is written on other threads; this never blocks. It takes as long as `car` likes.
    ///
    /// # Errors
    /// If `car` is none, or has too much, or can't be read to its end; or the file can't be written.
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
            // Nothing in a repository refers to blocks of other kinds.
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

    /// The one root that the CAR names. Its block need not be there.
    pub fn root(&self) -> &Cid {
        &self.root
    }

    /// How much there is of it.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The block at this address. It blocks its thread, for as long as the disk takes.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn get(&self, cid: &Cid) -> io::Result<Option<Bytes>> {
        let Some(span) = self.find(cid)? else {
            return Ok(None);
        };
        let mut block = vec![0; (span.end - span.start) as usize];
        self.file.read_exact_at(&mut block, span.start)?;
        Ok(Some(block.into()))
    }

    /// Whether there is a block at this address. It blocks its thread, for as long as the disk takes.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn contains(&self, cid: &Cid) -> io::Result<bool> {
        Ok(self.find(cid)?.is_some())
    }

    /// Where the block at this address is in the file.
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
    // Its lengths are sound then, and iroh-car allocates no more than there is.
    cbor::check(bytes)?;
    match CarHeader::decode(bytes)?.roots() {
        [root] => Ok(*root),
        roots => Err(SpoolError::Roots(roots.len())),
    }
}

/// The CID that a section begins with, and the block behind it.
fn split_block(mut section: &[u8]) -> Option<(Cid, &[u8])> {
    let cid = Cid::read_bytes(&mut section).ok()?;
    Some((cid, section))
}

/// A spool that is being written.
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

/// A CAR, section by section. iroh-car reads them as well, but takes one that breaks off within a
/// length for the end.
struct Sections<R> {
    car: BufReader<R>,
    limit: u64,
    /// Where the next section begins.
    offset: u64,
    buffer: Vec<u8>,
}

/// What is between two lengths.
struct Section<'a> {
    /// Where it begins, with its length.
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
        // At most as much as the longest section takes.
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
    async fn blocks_with_one_key_are_told_apart() {
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
