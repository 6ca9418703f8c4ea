//! The real program verifies handles, by a DNS server of the test. Holds invariant 9.18.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use huddle_firehose::store::sqlite::{Access, Options, SqliteStore};
use simulated_network::http::HttpServer;
use simulated_network::network::Network;
use simulated_network::relay::{self, Relay};
use simulated_network::shape::Shape;
use test_support::dns_server::DnsServer;
use test_support::waiting::SLOT_TIMEOUT;
use test_support::worker_process::{Program, command};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

#[tokio::test(flavor = "multi_thread")]
async fn a_handle_is_verified_if_it_leads_to_the_account_that_declares_it() {
    let shape = Shape {
        accounts: 3,
        ..Shape::default()
    };
    let mut network = Network::new(1, shape);
    for account in 0..2 {
        network.write(account, &["com.huddle.slotOffer/key-0"], &[]);
    }
    let accounts = network.accounts();
    let dns = DnsServer::start().await;
    let own = format!("did={}", accounts[0].did);
    for account in &accounts[..2] {
        dns.set(&format!("_atproto.{}", account.handle), &["v=spf1", &own]);
    }
    let (handle, dids) = (
        accounts[0].handle.clone(),
        [0, 1].map(|n| accounts[n].did.clone()),
    );
    let network = Arc::new(Mutex::new(network));
    let http = HttpServer::start(network.clone()).await.unwrap();
    let relay = Relay::start_before(http.address(), relay::Options::default());
    let relay = relay.await.unwrap();
    relay.append(network.lock().unwrap().log());

    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("huddle.db").display());
    let mut run = Command::from(command(env!("CARGO_BIN_EXE_huddle-firehose")));
    run.args([
        "run",
        "--listen",
        "127.0.0.1:0",
        "--allow-private-addresses",
    ])
    .args(["--source-url", &relay.url()])
    .args(["--plc-url", &http.url()])
    .args(["--dns-servers", &dns.address.to_string()])
    .args(["--database-url", &url]);
    let _program = Program::start(run).await;
    let deadline = Instant::now() + SLOT_TIMEOUT;
    let shown = loop {
        let options = Options {
            access: Access::Read,
            ..Options::default()
        };
        let query = "SELECT did || ' ' || coalesce(handle, '-') || ' ' || handle_status \
                     FROM visible_accounts WHERE handle_status <> 'unknown' ORDER BY did";
        let store = SqliteStore::open_with(&url, options).await;
        let shown: Vec<String> = match store {
            Ok(store) => sqlx::query_scalar(query)
                .fetch_all(store.reader())
                .await
                .unwrap(),
            Err(_) => Vec::new(),
        };
        if shown.len() == 2 {
            break shown;
        }
        assert!(Instant::now() < deadline, "{shown:?}");
        sleep(Duration::from_millis(20)).await;
    };
    let mut expected = [
        format!("{} {handle} verified", dids[0]),
        format!("{} - invalid", dids[1]),
    ];
    expected.sort();
    assert_eq!(shown, expected);
}
