//! `backup`, `check` and `doctor`.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use simulated_network::http::HttpServer;
use simulated_network::network::Network;
use simulated_network::shape::Shape;
use test_support::mock_relay::recorded_relay;

use super::{Folder, assert_success, huddle, huddle_meanwhile, stderr, stdout};

fn demo(folder: &Folder) -> String {
    let file = folder.path("huddle.db");
    assert_success(&huddle(
        &["demo", "--rate", "5000", "--database", &file],
        &[],
    ));
    file
}

#[test]
fn what_the_demo_makes_passes_every_check_and_damage_is_named() {
    let folder = Folder::new();
    let file = demo(&folder);
    let checked = huddle(&["check", "--database", &file], &[]);
    assert_success(&checked);
    assert!(
        stdout(&checked)
            .lines()
            .all(|line| line.starts_with("ok\t"))
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let mut other = test_support::tables::stranger_at(std::path::Path::new(&file)).await;
        let damage =
            sqlx::query("DELETE FROM bookings WHERE uri = (SELECT min(uri) FROM bookings)");
        damage.execute(&mut other).await.unwrap();
    });
    let checked = huddle(&["check", "--database", &file], &[]);
    assert_eq!(checked.status.code(), Some(1));
    let wrong = "WRONG\teach valid booking has a row\t1 rows, such as at://did:plc:";
    assert!(stdout(&checked).contains(wrong), "{}", stdout(&checked));
    assert!(stderr(&checked).contains("1 rules are broken"));
}

#[test]
fn a_backup_is_a_database_that_passes_every_check() {
    let folder = Folder::new();
    let file = demo(&folder);
    let copy = folder.path("copy.db");
    let made = huddle(&["backup", &copy, "--database", &file], &[]);
    assert_success(&made);
    assert!(
        stdout(&made).ends_with(" records, verified\n"),
        "{}",
        stdout(&made)
    );
    assert_success(&huddle(&["check", "--database", &copy], &[]));
    let again = huddle(&["backup", &copy, "--database", &file], &[]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("exists; name a file that does not"));
}

#[tokio::test]
async fn a_doctor_finds_nothing_where_all_is_well() {
    let (folder, relay) = (Folder::new(), recorded_relay().await);
    let network = Arc::new(Mutex::new(Network::new(1, Shape::default())));
    let http = HttpServer::start(network).await.unwrap();
    let (file, source, plc) = (folder.path("huddle.db"), relay.url(), http.url());
    assert_success(&huddle_meanwhile(&["migrate", "--database", &file]).await);
    let arguments = [
        "doctor",
        "--database",
        &file,
        "--source-url",
        &source,
        "--plc-url",
        &plc,
        "--allow-private-addresses",
    ];
    let output = huddle_meanwhile(&arguments).await;
    let told = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{told}{}", stderr(&output));
    for line in [
        "ok      configuration: it is valid",
        "warning configuration: private addresses allowed",
        "ok      lexicons: 0 documents",
        "ok      database: the file is sound",
        "ok      database: the tables agree",
        "ok      disk: ",
        "ok      PLC directory: ",
        "ok      clock: it agrees with ",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
}

#[tokio::test]
async fn a_doctor_says_what_is_wrong_and_what_to_do() {
    let folder = Folder::new();
    let free = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let file = folder.path("huddle.db");
    std::fs::write(&file, "no database").unwrap();
    let (source, plc) = (format!("ws://{}", free()), format!("http://{}", free()));
    let arguments = [
        "doctor",
        "--database",
        &file,
        "--source-url",
        &source,
        "--plc-url",
        &plc,
        "--lexicons",
        "no/such/folder",
    ];
    let output = huddle_meanwhile(&arguments).await;
    assert_eq!(output.status.code(), Some(1));
    let told = stdout(&output);
    for line in [
        "FAULT   lexicons: ",
        "FAULT   database: ",
        "FAULT   PLC directory: ",
        "FAULT   source: ",
        "        to do: ",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    assert!(stderr(&output).contains("4 faults"), "{}", stderr(&output));
}
