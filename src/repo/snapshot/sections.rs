//! Reads a CAR section by section, as it arrives.

use std::io;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};

use super::spool::SpoolError;
use crate::atproto::car::split_cid;

/// The longest section that is kept, in bytes: twice the length of the longest record, and a CID.
/// Nothing that is wanted is longer.
pub const MAX_SECTION: usize = (2 << 20) + 64;

/// The most bytes of a longer section that are read for its CID.
const MAX_CID: usize = 4096;

/// The most bytes of a length, in groups of seven bits.
const MAX_VARINT: usize = 10;

/// The number of bytes in one read from the sender, and the length of a piece.
const BUFFER: usize = 256 << 10;

pub(super) struct Sections<R> {
    car: BufReader<R>,
    limit: u64,
    /// Where the next section begins.
    offset: u64,
    buffer: Vec<u8>,
}

/// A CID and its block.
pub(super) struct Section<'a> {
    pub(super) cid: &'a [u8],
    pub(super) block: Block<'a>,
}

pub(super) enum Block<'a> {
    Whole(&'a [u8]),
    /// It is too long to be kept. It was hashed piece by piece.
    Hashed {
        digest: [u8; 32],
        bytes: u64,
    },
}

// === impl Sections ===

impl<R> Sections<R>
where
    R: AsyncRead + Unpin,
{
    pub(super) fn new(car: R, limit: u64) -> Self {
        Self {
            car: BufReader::with_capacity(BUFFER, car),
            limit,
            offset: 0,
            buffer: Vec::new(),
        }
    }

    /// The first section, which has no CID.
    pub(super) async fn header(&mut self) -> Result<&[u8], SpoolError> {
        let offset = self.offset;
        let length = self.length().await?;
        let length = length.ok_or(SpoolError::Truncated { offset })?;
        if length > MAX_SECTION as u64 {
            return Err(SpoolError::SectionLength { offset });
        }
        self.fill(length as usize, offset).await?;
        Ok(&self.buffer)
    }

    pub(super) async fn next(&mut self) -> Result<Option<Section<'_>>, SpoolError> {
        let offset = self.offset;
        let Some(length) = self.length().await? else {
            return Ok(None);
        };
        let no_cid = SpoolError::Cid { offset };
        if length <= MAX_SECTION as u64 {
            self.fill(length as usize, offset).await?;
            let (cid, block) = split_cid(&self.buffer).ok_or(no_cid)?;
            let block = Block::Whole(block);
            return Ok(Some(Section { cid, block }));
        }
        self.fill(MAX_CID, offset).await?;
        let (cid, start) = split_cid(&self.buffer).ok_or(no_cid)?;
        let (cid, mut hash) = (cid.to_vec(), Sha256::new_with_prefix(start));
        let mut left = length - MAX_CID as u64;
        while left > 0 {
            let piece = left.min(BUFFER as u64);
            self.fill(piece as usize, offset).await?;
            hash.update(&self.buffer);
            left -= piece;
        }
        let block = Block::Hashed {
            digest: hash.finalize().into(),
            bytes: length - cid.len() as u64,
        };
        self.buffer = cid;
        let cid = &self.buffer;
        Ok(Some(Section { cid, block }))
    }

    /// Fills the buffer with the next `length` bytes of the section at `offset`.
    async fn fill(&mut self, length: usize, offset: u64) -> Result<(), SpoolError> {
        self.buffer.resize(length, 0);
        let read = self.car.read_exact(&mut self.buffer).await;
        read.map(drop).map_err(|error| broken_off(error, offset))
    }

    /// The length of the next section, which is within the limit; `None` at the end.
    async fn length(&mut self) -> Result<Option<u64>, SpoolError> {
        let offset = self.offset;
        let mut length = 0_u64;
        for index in 0..MAX_VARINT {
            let byte = match self.car.read_u8().await {
                Ok(byte) => byte,
                Err(error) if index == 0 && is_end(&error) => return Ok(None),
                Err(error) => return Err(broken_off(error, offset)),
            };
            self.advance(1)?;
            let group = u64::from(byte & 0x7f).checked_mul(1 << (7 * index));
            length |= group.ok_or(SpoolError::SectionLength { offset })?;
            if byte & 0x80 == 0 {
                self.advance(length)?;
                return Ok(Some(length));
            }
        }
        Err(SpoolError::SectionLength { offset })
    }

    fn advance(&mut self, bytes: u64) -> Result<(), SpoolError> {
        self.offset = self.offset.saturating_add(bytes);
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
