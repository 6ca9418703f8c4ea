//! A CAR file: another reader finds the same blocks in it.

use huddle_firehose::atproto::car::Blocks;
use simulated_network::car::read_car;

pub fn check(car: &[u8]) {
    let blocks = match Blocks::read_all(car) {
        Ok(blocks) => blocks,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let (root, others) = read_car(car).expect("what was read is a CAR");
    assert_eq!(blocks.root, root);
    assert_eq!(blocks.iter().count(), others.len());
    for cid in others.keys() {
        assert!(blocks.get(cid).is_some(), "{cid} was passed by");
    }
    let bytes: usize = blocks.iter().map(|(_, block)| block.len()).sum();
    assert!(bytes < car.len());
}
