//! How the connection to NATS is encrypted, and whose certificates are taken. Holds invariant 10.4.

use std::sync::Arc;

use test_support::nats::{Login, OwnServer, Queue};
use test_support::tables::Database;

use crate::effects::*;
use crate::nats::{NUMBERS, follow, follower, numbers};
use crate::nats_logins::refusal;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_certificate_is_trusted_is_followed_and_no_other_one() {
    let Some(server) = OwnServer::start_with(Login::Certificate).await else {
        return Queue::missing().unwrap_or_default();
    };
    let files = server.certificates();
    let [root, other] = [files.root(), files.other_root()].map(|path| path.display().to_string());
    let client = format!(
        "cert_file={}&key_file={}",
        files.client_certificate().display(),
        files.client_key().display()
    );
    let key_of_other = other.replace(".pem", ".key");
    let stranger = format!("cert_file={other}&key_file={key_of_other}");
    let queue = Queue::at(&server.url_with_login());
    let (database, url) = (Database::new(), server.url());
    let address = url.replace("localhost", "127.0.0.1");
    for (url, reason) in [
        (format!("{url}?{client}"), "UnknownIssuer; ca_file names"),
        (
            format!("{url}?{client}&ca_file={other}"),
            "BadSignature; ca_file names",
        ),
        (
            format!("{address}?{client}&ca_file={root}"),
            "not valid for name",
        ),
        (format!("{url}?ca_file={root}"), "; the server wants"),
        (
            format!("{url}?ca_file={root}&{stranger}"),
            "; the server wants",
        ),
    ] {
        // A server that refuses its client may have closed the connection before its alert is read.
        let mut error = refusal(&queue, &url).await;
        for _ in 0..4 {
            if !error.contains(reason) {
                error = refusal(&queue, &url).await;
            }
        }
        assert!(error.contains(reason), "{url}: {error}");
    }
    let store = Arc::new(database.store().await);
    apply(&store, vec![put(ALICE, "a", 1)], 1).await;
    // Where the URL does not ask for TLS, the server does.
    for scheme in ["tls://", "nats://"] {
        let url = queue.url().replace("tls://", scheme);
        assert_eq!(follow(&mut follower(&store, &url)).await, []);
        assert_eq!(
            numbers(&queue.waiting().await),
            database.rows(NUMBERS).await
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_used_is_named_and_nothing_of_it_is_told() {
    let Some(server) = OwnServer::start_with(Login::Certificate).await else {
        return Queue::missing().unwrap_or_default();
    };
    let files = server.certificates();
    let queue = Queue::at(&server.url_with_login());
    let [root, certificate, key, other_key] = [
        files.root(),
        files.client_certificate(),
        files.client_key(),
        files.server_key(),
    ]
    .map(|path| path.display().to_string());
    let missing = format!("{root}.missing");
    for (parameters, named) in [
        (format!("ca_file={missing}"), &missing),
        (format!("ca_file={key}"), &key),
        (format!("cert_file={key}&key_file={key}"), &key),
        (
            format!("cert_file={certificate}&key_file={certificate}"),
            &certificate,
        ),
        (
            format!("cert_file={certificate}&key_file={other_key}"),
            &other_key,
        ),
    ] {
        let error = refusal(&queue, &format!("{}?{parameters}", server.url())).await;
        assert!(
            error.contains(&format!("{named} cannot be used")),
            "{error}"
        );
        assert!(!error.contains("BEGIN"), "{error}");
    }
}
