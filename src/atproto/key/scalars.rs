//! The two numbers of a signature, `r` and `s`, and the range in which each must be.

use super::{SIGNATURE_BYTES, SignatureError};

/// A number of 256 bits, big endian. So the order of the arrays is the order of the numbers.
type Number = [u8; 32];

const ZERO: Number = [0; 32];

/// The number of points of a curve, which bounds the numbers of its signatures.
pub(super) struct Order {
    /// The order itself, `n`.
    n: Number,
    /// The highest `s` that is allowed: half of `n`, rounded down.
    half: Number,
}

impl Order {
    pub(super) const K256: Self = Self::new([
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xfe, 0xba, 0xae, 0xdc, 0xe6, 0xaf, 0x48, 0xa0, 0x3b, 0xbf, 0xd2, 0x5e, 0x8c, 0xd0, 0x36,
        0x41, 0x41,
    ]);
    pub(super) const P256: Self = Self::new([
        0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63,
        0x25, 0x51,
    ]);

    const fn new(n: Number) -> Self {
        Self { n, half: half(n) }
    }

    /// Checks that `r` and `s` are from 1 to `n` - 1, and `s` at most half of `n`.
    pub(super) fn check(&self, signature: &[u8; SIGNATURE_BYTES]) -> Result<(), SignatureError> {
        let (r, s) = signature.split_at(SIGNATURE_BYTES / 2);
        for number in [r, s] {
            if *number == ZERO || *number >= self.n[..] {
                return Err(SignatureError::Range);
            }
        }
        match *s > self.half[..] {
            true => Err(SignatureError::HighS),
            false => Ok(()),
        }
    }
}

/// Half of `number`, rounded down.
const fn half(number: Number) -> Number {
    let mut half = ZERO;
    let mut index = 0;
    while index < number.len() {
        half[index] = number[index] >> 1;
        if index > 0 {
            half[index] |= number[index - 1] << 7;
        }
        index += 1;
    }
    half
}
