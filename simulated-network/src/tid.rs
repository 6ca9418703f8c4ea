//! Timestamp identifiers: 53 bits of microseconds and 10 bits of clock, in sortable base32.

const ALPHABET: &[u8; 32] = b"234567abcdefghijklmnopqrstuvwxyz";
const LENGTH: u32 = 13;

/// The TID for a time in microseconds since 1970, by the clock with this number.
pub fn tid(micros: u64, clock: u16) -> String {
    let bits = (micros << 10) | u64::from(clock & 0x3ff);
    (0..LENGTH)
        .rev()
        .map(|digit| char::from(ALPHABET[(bits >> (5 * digit)) as usize & 31]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tid_has_thirteen_characters_and_sorts_by_time() {
        assert_eq!(tid(0, 0), "2222222222222");
        assert_eq!(tid(1_700_000_000_000_000, 7).len(), 13);
        assert!(tid(1_700_000_000_000_000, 1023) < tid(1_700_000_000_000_001, 0));
    }
}
