//! Tests the records that a snapshot returns. Holds invariant 9.5.

use ipld_core::ipld;
use ipld_core::ipld::Ipld;
use simulated_network::car::address_of;
use simulated_network::record::SLOT_OFFER;

use super::support::{Repo, accounts, everything, held};
use huddle_firehose::repo::snapshot::SnapshotError;

#[tokio::test]
async fn a_snapshot_holds_what_its_repository_holds() {
    let mut records = 0;
    for seed in 0..3 {
        for account in accounts(seed, 200) {
            let repo = Repo::of(&account);
            let snapshot = repo.verify().await.unwrap();
            let head = account.repo.head().unwrap();
            assert_eq!(snapshot.cid, head.commit);
            assert_eq!(snapshot.commit.rev.as_str(), head.rev);
            assert_eq!(snapshot.commit.data, head.data);
            let held = held(&snapshot, everything);
            let expected: Vec<_> = repo.records.clone().into_iter().collect();
            assert_eq!(held, expected, "seed {seed}");
            for (_, cid) in held {
                let record = snapshot.record(&cid).unwrap();
                assert_eq!(record, repo.blocks[&cid]);
                records += 1;
            }
        }
    }
    assert!(records > 100, "only {records}");
}

#[tokio::test]
async fn only_wanted_collections_are_returned() {
    let repo = Repo::large();
    let wants = |collection: &str| collection == SLOT_OFFER;
    let snapshot = repo.verify_where(wants).await.unwrap();
    let offers = repo.records.into_iter();
    let offers: Vec<_> = offers
        .filter(|(path, _)| path.starts_with(&format!("{SLOT_OFFER}/")))
        .collect();
    assert!(!offers.is_empty());
    assert_eq!(held(&snapshot, wants), offers);
}

#[tokio::test]
async fn a_repository_may_hold_one_record_or_nothing() {
    let records = [("com.huddle.booking/a", ipld!({ "text": "one" }))];
    for count in [0, 1] {
        let repo = Repo::holding(&records[..count]);
        let snapshot = repo.verify().await.unwrap();
        assert_eq!(held(&snapshot, everything).len(), count);
    }
}

#[tokio::test]
async fn a_record_that_is_too_long_is_named_and_costs_no_other() {
    let record = |bytes: usize| Ipld::Bytes(vec![7; bytes - 5]);
    let [long, too_long] = [1 << 20, (1 << 20) + 1].map(record);
    let repo = Repo::holding(&[("com.huddle.a/1", long), ("com.huddle.a/2", too_long)]);
    let snapshot = repo.verify().await.unwrap();
    let held = held(&snapshot, everything);
    assert_eq!(snapshot.record(&held[0].1).unwrap().len(), 1 << 20);
    assert!(matches!(
        snapshot.record(&held[1].1),
        Err(SnapshotError::RecordSize { cid, bytes: 1_048_577 }) if *cid == held[1].1
    ));
    let other = address_of(b"other");
    assert!(matches!(
        snapshot.record(&other),
        Err(SnapshotError::RecordMissing(cid)) if *cid == other
    ));
}

#[tokio::test]
async fn a_path_that_is_not_text_is_returned_too() {
    let mut repo = Repo::holding(&[]);
    let value = repo.add(&ipld!({}));
    let entry = ipld!({
        "p": 0,
        "k": Ipld::Bytes(b"com.huddle.a/\xff".to_vec()),
        "v": Ipld::Link(value),
        "t": null,
    });
    let data = repo.add(&ipld!({ "l": null, "e": [entry] }));
    repo.sign(data);
    let snapshot = repo.verify().await.unwrap();
    let expected = ("com.huddle.a/\u{fffd}".to_owned(), value);
    assert_eq!(held(&snapshot, everything), [expected]);
}

#[tokio::test]
async fn a_path_without_a_slash_is_in_no_collection() {
    let repo = Repo::holding(&[("com.huddle.a", ipld!({})), ("com.huddle.b/1", ipld!({}))]);
    let snapshot = repo.verify().await.unwrap();
    let held = held(&snapshot, everything);
    assert_eq!(held.len(), 1);
    assert_eq!(held[0].0, "com.huddle.b/1");
}
