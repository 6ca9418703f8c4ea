//! Writes DAG-CBOR item by item, each in its shortest form. The caller must write as many items as
//! it announced, and map keys in canonical order.

use cid::Cid;

use super::cbor::CID_TAG;

#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    /// A writer with room for `bytes` bytes.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn unsigned(&mut self, value: u64) {
        self.head(0, value);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.head(2, bytes.len() as u64);
        self.0.extend(bytes);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.head(3, text.len() as u64);
        self.0.extend(text.as_bytes());
    }

    /// Begins an array of `count` items, which the caller writes next.
    pub(crate) fn array(&mut self, count: usize) {
        self.head(4, count as u64);
    }

    /// Begins a map of `count` pairs, which the caller writes next.
    pub(crate) fn map(&mut self, count: usize) {
        self.head(5, count as u64);
    }

    pub(crate) fn link(&mut self, cid: &Cid) {
        self.head(6, CID_TAG);
        self.head(2, cid.encoded_len() as u64 + 1);
        self.0.push(0);
        #[expect(clippy::expect_used, reason = "a vector takes everything")]
        cid.write_bytes(&mut self.0).expect("written to memory");
    }

    pub(crate) fn nullable_link(&mut self, cid: Option<&Cid>) {
        match cid {
            Some(cid) => self.link(cid),
            None => self.0.push(0xf6),
        }
    }

    fn head(&mut self, major: u8, argument: u64) {
        let bytes = argument.to_be_bytes();
        let (info, width) = match argument {
            0..24 => (bytes[7], 0),
            24..0x100 => (24, 1),
            0x100..0x1_0000 => (25, 2),
            0x1_0000..0x1_0000_0000 => (26, 4),
            _ => (27, 8),
        };
        self.0.push(major << 5 | info);
        self.0.extend(&bytes[8 - width..]);
    }
}
