//! How the program logs in at a NATS server: with a token, a user and password, a file of credentials, or a
//! certificate.
//! Holds invariants 10.4 and 12.10.

use std::sync::Arc;

use test_support::mock_relay::relay;
use test_support::nats::{Accounts, Login, OwnServer, Queue, SECRET, USER};
use test_support::postgres::{Schema, assert_consumed};
use test_support::recorded_frames::frames;
use test_support::tables::Database;
use test_support::worker_process::Program;

use crate::consuming::{consume, produce, until_empty};
use crate::effects::*;
use crate::nats::{NUMBERS, follow, follower, numbers};
use crate::truth::assert_is_true;

const WRONG: &str = "wr0ng";

/// The first error of a sink at `url`.
pub(crate) async fn refusal(queue: &Queue, url: &str) -> String {
    let database = Database::new();
    let store = Arc::new(database.store().await);
    apply(&store, vec![put(ALICE, "a", 1)], 1).await;
    let mut sink = follower(&store, &queue.url_at(url));
    sink.step().await.unwrap_err().to_string()
}

/// The program starts with a `wrong` secret in a file, which is replaced by the `right` one while it runs.
async fn logs_in_when_the_secret_is_right(
    login: Login,
    (user, parameter): (&str, &str),
    (wrong, secret_in_it): (&str, &str),
) {
    let Some(server) = OwnServer::start_with(login).await else {
        return Queue::missing().unwrap_or_default();
    };
    let queue = Queue::at(&server.url_with_login());
    let (relay, database) = (relay(frames()).await, Database::new());
    let file = database.folder().join("secret");
    std::fs::write(&file, wrong).unwrap();
    let url = queue.url_at(&server.url().replace("nats://", &format!("nats://{user}")));
    let url = format!("{url}&{parameter}={}", file.display());
    let mut command = produce(&relay, &database, &url);
    command.args(["--stop-after-idle", "1"]);
    let mut program = Program::start(command).await;
    let line = program.logs("the sink takes nothing").await.to_string();
    let status = program.status().await["sinks"]["nats"].to_string();
    for text in [&line, &status] {
        assert!(text.contains("the server refuses the login"), "{text}");
    }
    assert!(!status.contains(secret_in_it), "{status}");
    std::fs::write(&file, server.secret()).unwrap();
    program.logs("stopped").await;
    assert!(program.child.wait().await.unwrap().success());
    for secret in [secret_in_it, SECRET] {
        assert!(!program.log_so_far().contains(secret));
    }
    assert_is_true(&database, &relay).await;
    // Records may have been published before their account was removed.
    let published = numbers(&queue.waiting().await);
    for row in database.rows(NUMBERS).await {
        assert!(published.contains(&row), "{row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_server_refuses_is_told_and_the_right_one_is_taken_without_a_restart() {
    logs_in_when_the_secret_is_right(Login::Token, ("", "token_file"), (WRONG, WRONG)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_the_server_refuses_is_told_and_the_right_one_is_taken_without_a_restart() {
    let user = format!("{USER}@");
    logs_in_when_the_secret_is_right(Login::User, (&user, "password_file"), (WRONG, WRONG)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_the_server_refuses_are_told_and_the_right_ones_are_taken_without_a_restart()
 {
    let other = Accounts::generate();
    logs_in_when_the_secret_is_right(
        Login::Credentials,
        ("", "creds_file"),
        (&other.credentials, &other.seed),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_in_the_url_is_taken_and_one_that_is_wrong_or_missing_is_told_without_a_secret() {
    for login in [Login::Token, Login::User, Login::Credentials] {
        let Some(server) = OwnServer::start_with(login).await else {
            return Queue::missing().unwrap_or_default();
        };
        let queue = Queue::at(&server.url_with_login());
        let (database, plain) = (Database::new(), server.url());
        let missing = refusal(&queue, &plain).await;
        assert!(missing.contains("the server wants a login"), "{missing}");
        for user in [format!("{WRONG}@"), format!("{USER}:{WRONG}@")] {
            let url = plain.replace("nats://", &format!("nats://{user}"));
            let error = refusal(&queue, &url).await;
            assert!(error.contains("the server refuses the login"), "{error}");
            assert!(!error.contains(WRONG), "{error}");
        }
        let garbage = database.folder().join("garbage");
        std::fs::write(&garbage, WRONG).unwrap();
        let url = format!("{plain}?creds_file={}", garbage.display());
        let error = refusal(&queue, &url).await;
        assert!(error.contains("has no credentials"), "{error}");
        assert!(!error.contains(WRONG), "{error}");
        let store = Arc::new(database.store().await);
        apply(&store, vec![put(ALICE, "a", 1)], 1).await;
        assert_eq!(follow(&mut follower(&store, &queue.url())).await, []);
        assert_eq!(
            numbers(&queue.waiting().await),
            database.rows(NUMBERS).await
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_logs_in_as_a_sink_does() {
    for login in [
        Login::Token,
        Login::User,
        Login::Credentials,
        Login::Certificate,
    ] {
        let Some(server) = OwnServer::start_with(login).await else {
            return Queue::missing().unwrap_or_default();
        };
        let Some(schema) = Schema::new().await else {
            return;
        };
        let queue = Queue::at(&server.url_with_login());
        let database = Database::new();
        let store = Arc::new(database.store().await);
        apply(&store, vec![put(ALICE, "a", 1)], 1).await;
        assert_eq!(follow(&mut follower(&store, &queue.url())).await, []);
        let program = Program::start(consume(&queue.url(), &schema.url())).await;
        until_empty(&queue).await;
        assert_consumed(&schema, &database.path()).await;
        assert!(!program.log_so_far().contains(SECRET));
    }
}
