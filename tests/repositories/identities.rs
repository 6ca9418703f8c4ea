//! Changed keys and hosts, wrong signatures, and a PLC directory that does not answer. Holds
//! invariants 9.4 and 11.3.

use simulated_network::mishap::{Endpoint, Mishap};

use super::{A, B, D, E, LIKE, POST, few_accounts, few_accounts_with_offers};

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_plc_directory_parks_only_the_commits_of_accounts_it_is_asked_about() {
    let verified = few_accounts_with_offers().await;
    let mishap = Mishap::Status(503);
    verified
        .http
        .misbehave(Endpoint::DidDocument, mishap, u64::MAX);
    verified.tell(|network| {
        network.emit_empty_identity(0);
        network.write(0, &[D], &[A]);
        network.write(1, &[D], &[A]);
        network.write(0, &[E], &[]);
        network.write(1, &[E], &[]);
    });
    // The cursor moves on.
    verified.until_applied().await;
    assert_eq!(
        (verified.waiting(0).await, verified.waiting(1).await),
        (2, 0)
    );
    assert_eq!(
        (verified.visible(0).await, verified.visible(1).await),
        (3, 4)
    );
    verified
        .until("the PLC directory is asked", async || {
            verified.repo(0).await.unwrap().retry_at.is_some()
        })
        .await;
    assert_eq!(verified.waiting(0).await, 2);
    assert_eq!(verified.waiting_for_their_accounts().await, 0);

    verified.http.behave(Endpoint::DidDocument);
    verified.until_settled().await;
    assert_eq!(verified.waiting(0).await, 0);
    assert!(verified.resyncs(0).await.is_empty());
    assert_eq!(verified.verify_errors(), [""; 0]);
    assert!(verified.dead_letters().await.is_empty());
    verified.compare().await;
}

/// It says of every DID that it does not exist, or sends a page.
#[tokio::test(flavor = "multi_thread")]
async fn a_plc_directory_that_answers_wrongly_makes_no_dead_letters() {
    for mishap in [Mishap::Status(404), Mishap::WrongType] {
        let verified = few_accounts().await;
        verified
            .http
            .misbehave(Endpoint::DidDocument, mishap.clone(), u64::MAX);
        verified.tell(|network| {
            for number in 0..3 {
                network.write(number, &[A, B], &[]);
            }
        });
        verified.until_applied().await;
        verified
            .until("the PLC directory counts as not working", async || {
                verified
                    .tree
                    .context()
                    .status
                    .snapshot()
                    .directory
                    .is_some()
            })
            .await;
        for number in 0..3 {
            assert_eq!(verified.waiting(number).await, 1, "{mishap:?}");
        }

        verified.http.behave(Endpoint::DidDocument);
        verified.until_settled().await;
        verified
            .until("the PLC directory works", async || {
                verified
                    .tree
                    .context()
                    .status
                    .snapshot()
                    .directory
                    .is_none()
            })
            .await;
        assert!(verified.dead_letters().await.is_empty(), "{mishap:?}");
        assert_eq!(verified.verify_errors(), [""; 0]);
        verified.compare().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_key_costs_one_look_up() {
    let verified = few_accounts_with_offers().await;
    let before = verified.http.requests(Endpoint::DidDocument);
    verified.tell(|network| {
        network.replace_key(0);
        network.write(0, &[D], &[A]);
        network.write(0, &[LIKE], &[]);
    });
    verified.until_settled().await;
    verified.tell(|network| network.write(0, &[E], &[]));
    verified.until_settled().await;

    assert_eq!(verified.http.requests(Endpoint::DidDocument), before + 1);
    assert!(verified.resyncs(0).await.is_empty());
    assert_eq!(verified.verify_errors(), [""; 0]);
    assert!(verified.dead_letters().await.is_empty());
    verified.compare().await;
}

/// The first one causes a look-up of the key. The others find that the key was refreshed.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_signed_by_another_key_is_a_dead_letter_and_changes_nothing() {
    let verified = few_accounts_with_offers().await;
    let before = verified.records(0).await;
    let mut forged = Vec::new();
    for round in 1..=2 {
        forged.push(
            verified
                .tell(|network| network.emit_foreign_commit(0, A))
                .to_vec(),
        );
        forged.push(
            verified
                .tell(|network| network.emit_foreign_sync(0, B))
                .to_vec(),
        );
        verified.until_settled().await;
        assert_eq!(verified.records(0).await, before, "round {round}");
    }

    let letters = verified.dead_letters().await;
    assert!(letters.iter().all(|(stage, _)| stage == "verify"));
    let raw: Vec<Vec<u8>> = letters.into_iter().map(|(_, raw)| raw).collect();
    assert_eq!(raw, forged);
    let counted = "huddle_verify_errors_total{error=\"signature\"} 4";
    assert_eq!(verified.verify_errors(), [counted]);
    // Its host has the same head, so nothing is fetched.
    assert!(verified.http.requests(Endpoint::GetRepoStatus) > 0);
    assert!(verified.resyncs(0).await.is_empty());

    // The account's own commits continue from its head.
    verified.tell(|network| network.write(0, &[D], &[A]));
    verified.until_settled().await;
    assert!(verified.resyncs(0).await.is_empty());
    verified.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_moved_is_fetched_from_its_new_host() {
    let verified = few_accounts_with_offers().await;
    let new_host = verified.another_host().await;
    verified.tell(|network| {
        network.move_to(0, new_host.url());
        network.emit_empty_identity(0);
    });
    verified.withhold(|network| network.write(0, &[D], &[B]));
    verified.tell(|network| network.write(0, &[POST], &[]));
    verified.until_settled().await;

    let resyncs = verified.resyncs(0).await;
    let [resync] = resyncs.as_slice() else {
        panic!("expected one attempt: {resyncs:?}");
    };
    assert_eq!(resync.error, None);
    assert_eq!(resync.host, Some(format!("{}/", new_host.url())));
    assert_eq!(verified.http.requests(Endpoint::GetRepo), 0);
    verified.compare().await;
}

/// Its old host says that it does not have the account. That says nothing about its new host.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_moved_without_an_event_is_found_and_loses_nothing() {
    let verified = few_accounts_with_offers().await;
    let new_host = verified.another_host().await;
    verified.withhold(|network| {
        network.move_to(0, new_host.url());
        network.write(0, &[D], &[B]);
    });
    verified.tell(|network| network.write(0, &[POST], &[]));
    verified.until_settled().await;

    let resyncs = verified.resyncs(0).await;
    let last = resyncs.last().unwrap();
    assert_eq!(last.error, None, "{resyncs:?}");
    assert_eq!(last.host, Some(format!("{}/", new_host.url())));
    let changed = [last.created, last.updated, last.deleted];
    assert_eq!(changed, [1, 0, 1]);
    verified.compare().await;
}

/// A bad commit has its repository compared with a host that does not answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_good_commit_is_applied_whenever_its_key_comes_and_whatever_is_behind_it() {
    for is_late in [false, true] {
        let verified = few_accounts().await;
        for endpoint in [
            Endpoint::GetRepo,
            Endpoint::GetRepoStatus,
            Endpoint::GetLatestCommit,
        ] {
            for server in [&verified.http, &verified.mirror] {
                server.misbehave(endpoint, Mishap::Status(500), u64::MAX);
            }
        }
        if is_late {
            let mishap = Mishap::Status(503);
            verified
                .http
                .misbehave(Endpoint::DidDocument, mishap, u64::MAX);
        } else {
            verified.tell(|network| network.write(0, &[POST], &[]));
            verified.until_applied().await;
        }
        verified.tell(|network| {
            network.write(0, &[A], &[]);
            network.emit_broken_commit(0, B);
            network.emit_empty_identity(1);
        });
        verified.until_applied().await;
        if is_late {
            assert_eq!(verified.waiting(0).await, 1);
            verified.http.behave(Endpoint::DidDocument);
        }
        verified
            .until("the good commit is applied", async || {
                verified.visible(0).await == 1
            })
            .await;
        let repo = verified.repo(0).await.unwrap();
        assert_eq!(repo.state, "synchronized");
        assert_eq!(verified.dead_letters().await.len(), 1);
    }
}

/// Holds invariant 9.14.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_no_account_is_looked_up_again() {
    let verified = few_accounts_with_offers().await;
    let before = verified.http.requests(Endpoint::DidDocument);
    let verified = verified.restart(|_| {}).await;
    verified.tell(|network| {
        network.write(0, &[D], &[A]);
        network.write(1, &[D], &[A]);
    });
    verified.until_settled().await;
    assert_eq!(verified.http.requests(Endpoint::DidDocument), before);
    assert_eq!(verified.verify_errors(), [""; 0]);
    verified.compare().await;
}

/// Nothing has told the worker. The signature shows it, and costs one look-up.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_replaced_while_the_worker_was_down_is_found_by_its_first_commit() {
    let verified = few_accounts_with_offers().await;
    let before = verified.http.requests(Endpoint::DidDocument);
    verified.withhold(|network| network.replace_key(0));
    let verified = verified.restart(|_| {}).await;
    verified.tell(|network| network.write(0, &[D], &[A]));
    verified.until_settled().await;
    assert_eq!(verified.http.requests(Endpoint::DidDocument), before + 1);
    assert!(verified.dead_letters().await.is_empty());

    // The new key is kept, too.
    let verified = verified.restart(|_| {}).await;
    verified.tell(|network| network.write(0, &[E], &[]));
    verified.until_settled().await;
    assert_eq!(verified.http.requests(Endpoint::DidDocument), before + 1);
    verified.compare().await;
}
