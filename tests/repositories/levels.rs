//! How much each level verifies.

use huddle_firehose::config::Verify;
use simulated_network::mishap::Endpoint;
use test_support::simulation::verified::Verified;

use super::{A, B, C, D, E, POST, few_accounts_with};

async fn few_accounts_at(level: Verify) -> Verified {
    let verified = few_accounts_with(|config| config.verify = level).await;
    verified.tell(|network| network.write(0, &[A, B, C], &[]));
    verified.until_settled().await;
    verified
}

/// The levels at which the first account's rows were verified, in the order of their paths.
async fn levels(verified: &Verified) -> Vec<String> {
    let records = verified.records(0).await.into_iter();
    records.map(|record| record.verified).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn at_level_none_any_signature_is_accepted_and_no_key_is_looked_up() {
    let verified = few_accounts_at(Verify::None).await;
    verified.tell(|network| network.emit_foreign_commit(0, D));
    verified.until_settled().await;

    assert_eq!(levels(&verified).await, ["none"; 4]);
    assert!(verified.dead_letters().await.is_empty());
    assert_eq!(verified.http.requests(Endpoint::DidDocument), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_level_commit_signatures_are_checked_and_chains_are_not() {
    let verified = few_accounts_at(Verify::Commit).await;
    verified.withhold(|network| network.write(0, &[POST], &[]));
    verified.tell(|network| {
        network.omit_prev_data(true);
        network.write(0, &[D], &[]);
    });
    verified.until_settled().await;
    assert_eq!(levels(&verified).await, ["commit"; 4]);
    assert_eq!(verified.verify_errors(), [""; 0]);

    assert!(verified.resyncs(0).await.is_empty());

    verified.tell(|network| network.emit_foreign_commit(0, E));
    verified.until_settled().await;
    let counted = "huddle_verify_errors_total{error=\"signature\"} 1";
    assert_eq!(verified.verify_errors(), [counted]);
    assert_eq!(verified.dead_letters().await.len(), 1);
    // Without a chain, the refused commit's content is unknown, so the repository is fetched.
    let resyncs = verified.resyncs(0).await;
    assert_eq!(resyncs.len(), 1);
    assert_eq!(resyncs[0].cause, "disputed");
    let changed = [resyncs[0].created, resyncs[0].updated, resyncs[0].deleted];
    assert_eq!(changed, [0, 0, 0]);
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_level_lenient_a_commit_without_prev_data_is_counted_and_kept() {
    let verified = few_accounts_at(Verify::Lenient).await;
    assert_eq!(levels(&verified).await, ["chain"; 3]);
    verified.tell(|network| {
        network.omit_prev_data(true);
        network.write(0, &[B, D], &[A]);
    });
    verified.until_settled().await;

    let expected = ["commit", "commit", "chain", "commit"];
    assert_eq!(levels(&verified).await, expected);
    let counted = "huddle_verify_errors_total{error=\"prev_data_missing\"} 1";
    assert_eq!(verified.verify_errors(), [counted]);
    assert!(verified.dead_letters().await.is_empty());
    assert!(verified.resyncs(0).await.is_empty());

    // The rev alone shows that a commit is missing.
    verified.withhold(|network| network.write(0, &[], &[B]));
    verified.tell(|network| network.write(0, &[E], &[]));
    verified.until_settled().await;
    let resyncs = verified.resyncs(0).await;
    assert_eq!(resyncs.len(), 1);
    assert_eq!(
        (resyncs[0].cause.as_str(), resyncs[0].deleted),
        ("since", 1)
    );
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_level_chain_a_commit_without_prev_data_is_a_dead_letter_and_its_repository_is_fetched()
{
    let verified = few_accounts_at(Verify::Chain).await;
    verified.tell(|network| {
        network.omit_prev_data(true);
        network.write(0, &[D], &[A]);
    });
    verified.until_settled().await;

    let letters = verified.dead_letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].0, "verify");
    let resyncs = verified.resyncs(0).await;
    assert_eq!(resyncs.len(), 1);
    assert_eq!((resyncs[0].created, resyncs[0].deleted), (1, 1));
    assert_eq!(levels(&verified).await, ["chain"; 4]);
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_tree_follows_the_rev_before_refuses_and_fetches_nothing_at_any_level() {
    for (level, verified_at, counted) in [
        (Verify::Chain, "chain", 2),
        (Verify::Lenient, "chain", 2),
        (Verify::Commit, "commit", 0),
    ] {
        let verified = few_accounts_at(level).await;
        verified.tell(|network| {
            network.omit_since(true);
            network.write(0, &[D], &[A]);
            network.write(0, &[E], &[]);
        });
        verified.until_settled().await;

        let levels = levels(&verified).await;
        assert!(
            levels.iter().all(|level| level == verified_at),
            "{levels:?}"
        );
        let line = format!("huddle_verify_errors_total{{error=\"since\"}} {counted}");
        let lines = (counted > 0).then_some(line);
        assert_eq!(verified.verify_errors(), Vec::from_iter(lines));
        assert!(verified.dead_letters().await.is_empty());
        assert!(verified.resyncs(0).await.is_empty());
        verified.compare().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_level_commit_a_record_that_did_not_come_with_its_commit_is_fetched_too() {
    let verified = few_accounts_at(Verify::Commit).await;
    for path in [D, E] {
        // The second time its head is known from the first.
        verified.tell(|network| {
            network.omit_records(true);
            network.write(0, &[path], &[]);
        });
        verified.until_settled().await;
    }
    let causes = verified.resyncs(0).await.into_iter();
    let causes: Vec<String> = causes.map(|resync| resync.cause).collect();
    assert_eq!(causes, ["record_missing"; 2]);
    assert!(verified.dead_letters().await.is_empty());
    verified.compare().await;
}
