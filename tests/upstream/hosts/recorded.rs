//! Recorded answers of the reference server.

use std::fs;

use huddle_firehose::atproto::syntax::{Did, Tid};
use huddle_firehose::repo::host::{HostError, Hosts, LatestCommit, RepoError, RepoStatus};
use serde_json::Value;
use test_support::scripted_server::{Server, answer};
use test_support::shared_data::shared_recording;

use super::{host, hosts};

/// A server that replays the answer.
async fn saying(recorded: &Value) -> Server {
    let status = format!("{} Recorded", recorded["status"]);
    Server::answering(&answer(&status, "", &recorded["body"].to_string())).await
}

fn text(recorded: &Value, field: &str) -> Option<String> {
    recorded["body"][field].as_str().map(str::to_owned)
}

fn rev(recorded: &Value) -> Option<Tid> {
    text(recorded, "rev").map(|rev| Tid::parse(&rev).unwrap())
}

/// The expected error, if it is a refusal.
fn refusal(recorded: &Value) -> Option<HostError> {
    let error = match text(recorded, "error")?.as_str() {
        "RepoDeactivated" => RepoError::Deactivated,
        "RepoNotFound" => RepoError::NotFound,
        "RepoTakendown" => RepoError::Takendown,
        other => panic!("{other}"),
    };
    Some(error.into())
}

#[tokio::test]
async fn the_reference_servers_answers_are_understood() {
    let Some(file) = shared_recording("small-sync-answers.json") else {
        return;
    };
    let answers: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let answers = answers.as_object().unwrap();
    assert!(answers.len() > 15);
    let mut refused = 0;
    for (did, recorded) in answers {
        let did = Did::parse(did).unwrap();

        let latest = &recorded["getLatestCommit"];
        let server = saying(latest).await;
        let found = hosts()
            .latest_commit(&host(&server.http_url("")), &did)
            .await;
        let expected = refusal(latest).map_or_else(
            || {
                Ok(LatestCommit {
                    cid: text(latest, "cid").unwrap().parse().unwrap(),
                    rev: rev(latest).unwrap(),
                })
            },
            Err,
        );
        assert_eq!(found, expected);

        let status = &recorded["getRepoStatus"];
        let server = saying(status).await;
        let found = hosts().repo_status(&host(&server.http_url("")), &did).await;
        let expected = refusal(status).map_or_else(
            || {
                Ok(RepoStatus {
                    active: status["body"]["active"].as_bool().unwrap(),
                    status: text(status, "status"),
                    rev: rev(status),
                })
            },
            Err,
        );
        assert_eq!(found, expected);

        let repo = &recorded["getRepo"];
        if let Some(expected) = refusal(repo) {
            let server = saying(repo).await;
            let found = hosts().repo(&host(&server.http_url("")), &did).await;
            assert_eq!(found.err(), Some(expected));
            refused += 1;
        }
    }
    assert_eq!(refused, 3);
}
