//! A CAR file: another reader finds the same blocks in it.

use huddle_firehose::atproto::car::Blocks;
use simulated_network::car::read_car;

pub fn check(car: &[u8]) {
    let blocks = match Blocks::read_all(car) {
        Ok(blocks) => blocks,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    // The other reader knows no CID with a digest of more than 64 bytes.
    let Some((root, mut others)) = read_car(car) else {
        return;
    };
    assert_eq!(blocks.root, root);
    // Blocks of other kinds are passed by.
    others.retain(|cid, _| {
        let hash = cid.hash();
        (cid.codec(), hash.code(), hash.size()) == (0x71, 0x12, 32)
    });
    assert_eq!(blocks.iter().count(), others.len());
    for cid in others.keys() {
        assert!(blocks.get(cid).is_some(), "{cid} was passed by");
    }
    let bytes: usize = blocks.iter().map(|(_, block)| block.len()).sum();
    assert!(bytes < car.len());
}
