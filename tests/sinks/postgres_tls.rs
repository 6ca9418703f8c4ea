//! How the connection to Postgres is encrypted, at a server with TLS and at one without. Holds invariant
//! 10.4.

use std::fs::File;
use std::process::Stdio;

use test_support::certificates::Certificates;
use test_support::postgres::{OwnServer, Schema, assert_follows};
use test_support::tables::Database;
use test_support::waiting::soon;

use crate::consuming::*;
use crate::effects::*;
use crate::postgres::{follow, follower_at};
use crate::worker::Worker;

/// Whether the sink's connection is encrypted, as the server has it.
async fn is_encrypted(schema: &Schema) -> Vec<String> {
    let query = format!(
        "SELECT ssl::text FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
         WHERE application_name = '{}'",
        schema.name
    );
    schema.column(&query).await
}

/// The first error of a sink.
async fn refusal(schema: &Schema, server: &str, parameters: &str) -> String {
    let worker = Worker::new().await;
    worker.apply(vec![put(ALICE, "a", 1)], 1).await;
    let url = schema.url_with(server, parameters);
    let mut sink = follower_at(&url, &worker.store, "postgres");
    sink.step().await.unwrap_err().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_encrypted_where_the_server_knows_tls_and_its_certificate_is_checked() {
    let Some(certificates) = Certificates::new() else {
        return;
    };
    let Some(server) = OwnServer::start(Some(&certificates)).await else {
        return;
    };
    let (address, name) = (&server.url, server.url.replace("127.0.0.1", "localhost"));
    let (root, other) = (certificates.root(), certificates.other_root());
    let root = format!("sslrootcert={}", root.display());
    let other = format!("sslrootcert={}", other.display());
    for (server, parameters) in [
        (address, String::new()),
        (address, "sslmode=require".to_owned()),
        (address, format!("sslmode=require&{root}")),
        (address, format!("sslmode=verify-ca&{root}")),
        (&name, format!("sslmode=verify-full&{root}")),
    ] {
        let schema = Schema::at(address);
        let worker = Worker::new().await;
        worker.apply(vec![put(ALICE, "a", 1)], 1).await;
        let url = schema.url_with(server, &parameters);
        let mut sink = follower_at(&url, &worker.store, "postgres");
        follow(&mut sink).await;
        assert_eq!(is_encrypted(&schema).await, ["true"], "{parameters}");
        assert_follows(&schema, &worker.database.path()).await;
    }
    let schema = Schema::at(address);
    for (server, parameters) in [
        (&name, format!("sslmode=verify-full&{other}")),
        (&name, "sslmode=verify-full".to_owned()),
        (address, format!("sslmode=verify-full&{root}")),
        (address, format!("sslmode=verify-ca&{other}")),
        (address, format!("sslmode=require&{other}")),
    ] {
        let error = refusal(&schema, server, &parameters).await;
        assert!(error.contains("sslrootcert names"), "{parameters}: {error}");
    }
    assert_eq!(is_encrypted(&schema).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_is_refused_where_tls_is_required_and_otherwise_one_warning() {
    let Some(server) = OwnServer::start(None).await else {
        return;
    };
    let schema = Schema::at(&server.url);
    for mode in ["require", "verify-ca", "verify-full"] {
        let error = refusal(&schema, &server.url, &format!("sslmode={mode}")).await;
        assert!(error.contains("sslmode=disable"), "{mode}: {error}");
    }
    for (parameters, warnings) in [("", 1), ("sslmode=allow", 1), ("sslmode=disable", 0)] {
        let schema = Schema::at(&server.url);
        let (relay, database) = (slow_relay(300).await, Database::new());
        let log = database.folder().join("log");
        let url = schema.url_with(&server.url, parameters);
        let mut command = produce(&relay, &database, &url);
        command
            .args(["--stop-after-idle", "1", "--log-format", "json"])
            .stderr(Stdio::from(File::create(&log).unwrap()));
        let mut program = command.kill_on_drop(true).spawn().unwrap();
        // It connects again.
        for count in [15, 30] {
            until("there are more records", async || {
                records(&schema).await >= count
            })
            .await;
            until("a connection has ended", async || {
                schema.end_sinks().await > 0
            })
            .await;
        }
        assert!(soon(program.wait()).await.unwrap().success());
        let log = std::fs::read_to_string(&log).unwrap();
        let found = log.lines().filter(|line| line.contains("is not encrypted"));
        let found: Vec<&str> = found.collect();
        assert_eq!(found.len(), warnings, "{found:?}");
        assert!(found.iter().all(|line| line.contains("\"WARN\"")));
        assert_follows(&schema, &database.path()).await;
    }
}
