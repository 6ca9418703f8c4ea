//! Tests the form of a CAR, without its content. Holds invariant 9.1.

use std::fs;

use cid::Cid;
use cid::multihash::Multihash;
use fastrand::Rng;
use huddle_firehose::atproto::car::HeaderError;
use huddle_firehose::repo::snapshot::{Limits, MAX_SECTION, Spool, SpoolError};
use simulated_network::car::address_of;
use tokio::io::{AsyncReadExt, repeat};

use super::support::{PLENTY, Repo, Section, push_section, push_varint, spool, write};

async fn error(car: &[u8]) -> SpoolError {
    spool(car).await.unwrap_err()
}

fn block(bytes: &[u8]) -> Section {
    (address_of(bytes), bytes.to_vec())
}

/// A CAR without a block.
fn header() -> Vec<u8> {
    write(&[address_of(b"root")], &[])
}

#[tokio::test]
async fn every_block_is_found_and_no_other() {
    let repo = Repo::large();
    let spool = spool(&repo.car()).await.unwrap();
    assert_eq!(*spool.root(), repo.root);
    for (cid, block) in &repo.blocks {
        assert_eq!(spool.get(cid).unwrap().unwrap(), block);
        assert!(spool.contains(cid).unwrap());
    }
    let other = address_of(b"other");
    assert_eq!(spool.get(&other).unwrap(), None);
    assert!(!spool.contains(&other).unwrap());
}

#[tokio::test]
async fn blocks_may_come_in_any_order_or_twice_or_be_unused() {
    let repo = Repo::large();
    for seed in 0..20 {
        let mut random = Rng::with_seed(seed);
        let mut sections = repo.sections();
        sections.push(block(b"of no use"));
        sections.extend_from_within(..random.usize(..sections.len()));
        random.shuffle(&mut sections);
        let spool = spool(&write(&[repo.root], &sections)).await.unwrap();
        for (cid, block) in &sections {
            let found = spool.get(cid).unwrap();
            assert_eq!(found.as_deref(), Some(block.as_slice()), "seed {seed}");
        }
    }
}

#[tokio::test]
async fn blocks_of_other_kinds_are_skipped() {
    let raw = Cid::new_v1(0x55, *address_of(b"raw").hash());
    let unknown = Cid::new_v1(0x71, Multihash::wrap(0x1e, &[7; 32]).unwrap());
    let sections = [
        (raw, b"raw".to_vec()),
        (unknown, b"x".to_vec()),
        block(b"a"),
    ];
    let spool = spool(&write(&[raw], &sections)).await.unwrap();
    assert_eq!(spool.get(&raw).unwrap(), None);
    assert_eq!(spool.get(&unknown).unwrap(), None);
    assert!(spool.contains(&address_of(b"a")).unwrap());
}

#[tokio::test]
async fn a_block_that_does_not_hash_to_its_cid_is_not_there_and_costs_no_other() {
    let repo = Repo::large();
    let sections = repo.sections();
    for index in 0..sections.len() {
        let mut altered = sections.clone();
        *altered[index].1.last_mut().unwrap() ^= 1;
        let spool = spool(&write(&[repo.root], &altered)).await.unwrap();
        for (at, (cid, block)) in sections.iter().enumerate() {
            let expected = (at != index).then_some(block.as_slice());
            assert_eq!(spool.get(cid).unwrap().as_deref(), expected);
        }
    }
}

/// A section with this CID, which may be longer than `Cid` can be.
fn opaque(car: &mut Vec<u8>, cid: &[u8], block: &[u8]) {
    push_section(car, &[cid, block].concat());
}

#[tokio::test]
async fn a_cid_of_any_length_is_passed_by() {
    let whole = block(b"whole");
    let mut car = write(&[whole.0], &[]);
    // The record itself in place of its hash, short and long, and a CID without a version.
    opaque(
        &mut car,
        &[&[1, 0x71, 0, 0x80, 1], &[7; 128][..]].concat(),
        b"",
    );
    let inline = [&[1, 0x55, 0, 0x80, 0x80, 1], &[7; 1 << 14][..]].concat();
    opaque(&mut car, &inline, b"x");
    opaque(&mut car, &[&[0x12, 32], &[7; 32][..]].concat(), b"x");
    push_section(&mut car, &[whole.0.to_bytes(), whole.1].concat());
    let spool = spool(&car).await.unwrap();
    assert!(spool.contains(&whole.0).unwrap());
}

#[tokio::test]
async fn a_car_that_ends_inside_a_section_is_cut_short() {
    let sections = [block(b"first"), block(&[7; 300])];
    let car = write(&[address_of(b"first")], &sections);
    let boundaries = [0, 1, 2].map(|count| write(&[sections[0].0], &sections[..count]).len());
    for end in (0..car.len()).filter(|end| !boundaries.contains(end)) {
        let expected = boundaries.into_iter().rfind(|boundary| *boundary < end);
        let expected = expected.unwrap_or(0) as u64;
        let error = error(&car[..end]).await;
        assert!(
            matches!(error, SpoolError::Truncated { offset } if offset == expected),
            "{end}: {error}"
        );
    }
    for end in boundaries {
        assert!(spool(&car[..end]).await.is_ok());
    }
}

#[tokio::test]
async fn what_follows_the_last_block_must_be_a_block() {
    let whole = write(&[address_of(b"root")], &[block(b"root")]);
    for garbage in [&[0][..], &[0; 4096], b"\x04what", b"<html>", &[0xff; 3]] {
        let car = [&whole, garbage].concat();
        let error = error(&car).await;
        let at_garbage = match error {
            SpoolError::Cid { offset } | SpoolError::Truncated { offset } => offset,
            other => panic!("{garbage:?}: {other}"),
        };
        assert_eq!(at_garbage, whole.len() as u64);
    }
}

#[tokio::test]
async fn a_section_beyond_the_limit_is_refused_before_it_is_read() {
    for length in [1 << 27, 1 << 28, 1 << 40, usize::MAX >> 1] {
        let mut car = header();
        push_varint(&mut car, length);
        // A reader must not read beyond the header of the section.
        let endless = car.chain(repeat(0));
        let read = Spool::read(endless, PLENTY, &std::env::temp_dir()).await;
        assert!(
            matches!(read, Err(SpoolError::TooLarge { limit }) if limit == PLENTY.bytes),
            "{length}"
        );
    }
    let longest = block(&vec![7; MAX_SECTION - 36]);
    let spool = spool(&write(&[longest.0], std::slice::from_ref(&longest))).await;
    assert_eq!(spool.unwrap().get(&longest.0).unwrap().unwrap(), longest.1);
}

#[tokio::test]
async fn a_block_that_is_too_long_is_hashed_in_pieces_and_not_kept() {
    for bytes in [MAX_SECTION - 35, 20 << 20] {
        let (long, other) = (block(&vec![7; bytes]), block(b"other"));
        let mut false_one = block(&vec![8; bytes]);
        false_one.1[bytes - 1] = 9;
        let raw = Cid::new_v1(0x55, *address_of(b"raw").hash());
        let sections = [
            long.clone(),
            false_one.clone(),
            (raw, vec![7; bytes]),
            other.clone(),
        ];
        let spool = spool(&write(&[long.0], &sections)).await.unwrap();
        assert_eq!(spool.get(&long.0).unwrap(), None);
        assert_eq!(spool.too_long(&long.0), Some(bytes as u64));
        for cid in [false_one.0, raw, other.0] {
            assert_eq!(spool.too_long(&cid), None);
        }
        assert_eq!(spool.get(&other.0).unwrap().unwrap(), other.1);
    }
}

#[tokio::test]
async fn a_long_block_that_is_cut_short_cuts_the_car_short() {
    let long = block(&vec![7; MAX_SECTION * 2]);
    let car = write(&[long.0], std::slice::from_ref(&long));
    for missing in [1, MAX_SECTION, car.len() - 200] {
        let error = error(&car[..car.len() - missing]).await;
        assert!(matches!(error, SpoolError::Truncated { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_car_has_no_more_bytes_than_are_allowed() {
    let sections = [block(&[1; 200]), block(&[2; 200])];
    let car = write(&[sections[0].0], &sections);
    let limit = car.len() as u64;
    let folder = std::env::temp_dir();
    let bytes = |bytes| Limits { bytes, ..PLENTY };
    assert!(Spool::read(&*car, bytes(limit), &folder).await.is_ok());
    for limit in [0, 1, 10, 200, limit - 1] {
        let read = Spool::read(&*car, bytes(limit), &folder).await;
        assert!(matches!(read, Err(SpoolError::TooLarge { limit: at }) if at == limit));
    }
}

#[tokio::test]
async fn a_car_has_no_more_blocks_than_are_allowed() {
    let sections: Vec<Section> = (0..101_u8).map(|n| block(&[n])).collect();
    let limits = Limits {
        blocks: 100,
        ..PLENTY
    };
    for (count, is_allowed) in [(100, true), (101, false)] {
        let car = write(&[sections[0].0], &sections[..count]);
        let read = Spool::read(&*car, limits, &std::env::temp_dir()).await;
        assert_eq!(read.is_ok(), is_allowed);
        if let Err(error) = read {
            assert!(matches!(error, SpoolError::TooMany { limit: 100 }));
        }
    }
}

#[tokio::test]
async fn of_several_roots_the_first_one_counts() {
    let (a, b) = (address_of(b"a"), address_of(b"b"));
    assert_eq!(*spool(&write(&[a, b], &[])).await.unwrap().root(), a);
    assert!(matches!(
        error(&write(&[], &[])).await,
        SpoolError::Header(HeaderError::Fields(_))
    ));
    assert!(spool(&header()).await.is_ok());
}

#[tokio::test]
async fn a_file_without_a_header_is_not_a_car() {
    let with_header = |header: &[u8]| {
        let mut car = Vec::new();
        push_section(&mut car, header);
        car
    };
    let html = b"<!doctype html><title>Hello, there is nothing of what you look for</title>";
    assert!(matches!(error(html).await, SpoolError::Header(_)));
    assert!(matches!(
        error(b"").await,
        SpoolError::Truncated { offset: 0 }
    ));
    // {roots: [ … 2^32 items
    let announcing = with_header(b"\xa1\x65roots\x9b\x00\x00\x00\x01\x00\x00\x00\x00");
    assert!(matches!(error(&announcing).await, SpoolError::Header(_)));
    let mut version_2 = header();
    *version_2.last_mut().unwrap() = 2;
    assert!(matches!(
        error(&version_2).await,
        SpoolError::Header(HeaderError::Fields(_))
    ));
}

#[tokio::test]
async fn the_spool_has_no_name_in_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let car = Repo::large().car();
    let spool = Spool::read(&*car, PLENTY, folder.path()).await.unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    assert!(spool.contains(spool.root()).unwrap());
}

#[tokio::test]
async fn a_missing_folder_is_an_error_of_the_worker() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let read = Spool::read(&*header(), PLENTY, &missing).await;
    assert!(matches!(read, Err(SpoolError::File(_))));
}
