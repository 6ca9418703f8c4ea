//! The actor that verifies handles dies at any point: every handle is checked in the end. Holds invariants
//! 3.2 and 9.18.

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use huddle_firehose::actor::Arguments;
use huddle_firehose::actor::progress::Progress;
use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::identity::{
    HandleResolver, Identities, Identity, Limits, Resolve, ResolveError,
};
use huddle_firehose::net;
use huddle_firehose::net::dns::Dns;
use huddle_firehose::net::http_client::Fetcher;
use huddle_firehose::repo::handles::{HandleVerifier, HandlesActor};
use huddle_firehose::store::sqlite::SqliteStore;
use huddle_firehose::testing::fault::{Fault, FaultPlan, Faults, Point};
use ractor::Actor;
use test_support::dns_server::DnsServer;
use tokio::time::{sleep, timeout};

use crate::fixture::*;

const NAMES: [&str; 3] = [ALICE, BOB, CAROL];
const SHOWN: &str = "SELECT did || ' ' || handle_status FROM visible_accounts ORDER BY did";
const CHECKED: &str = "SELECT count(*) FROM visible_accounts WHERE handle_status <> 'unknown'";

/// Every document declares a handle that ends with the account's name.
struct Documents;

fn handle_of(did: &str) -> String {
    format!("{}.example", did.trim_start_matches("did:plc:"))
}

impl Resolve for Documents {
    fn resolve<'a>(&'a self, did: &'a Did) -> BoxFuture<'a, Result<Identity, ResolveError>> {
        let mut identity = Identity::new(did.clone(), String::new());
        identity.handle = Some(handle_of(did.as_str()));
        ready(Ok(identity)).boxed()
    }
}

/// Strikes at each second pass of a point, a few times.
struct Often {
    point: Point,
    fault: Fault,
    passed: AtomicU32,
}

impl FaultPlan for Often {
    fn strike(&self, point: Point) -> Option<Fault> {
        if point != self.point {
            return None;
        }
        let pass = self.passed.fetch_add(1, Ordering::SeqCst);
        (pass < 6 && pass.is_multiple_of(2)).then_some(self.fault)
    }
}

/// Runs the actor, and another one after each death, until no handle is unknown. Returns how many died.
async fn verify_all(database: &Database, verifier: &Arc<HandleVerifier>, faults: &Faults) -> u32 {
    for deaths in 0.. {
        let arguments = Arguments {
            shared: verifier.clone(),
            progress: Progress::new(),
            faults: faults.clone(),
        };
        let Ok((actor, running)) = Actor::spawn(None, HandlesActor, arguments).await else {
            continue;
        };
        let done = async {
            while database.number(CHECKED).await < 3 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            _ended = running => {}
            () = done => {
                actor.stop(None);
                return deaths;
            }
        }
    }
    0
}

#[tokio::test(flavor = "multi_thread")]
async fn every_handle_is_checked_wherever_the_actor_dies() {
    let dns = DnsServer::start().await;
    // Bob's handle leads to another account.
    for did in [ALICE, CAROL] {
        dns.set(
            &format!("_atproto.{}", handle_of(did)),
            &[&format!("did={did}")],
        );
    }
    dns.set(
        &format!("_atproto.{}", handle_of(BOB)),
        &[&format!("did={ALICE}")],
    );
    let points = [
        Point::HandlesStart,
        Point::HandlesStep,
        Point::HandlesChecked,
        Point::HandlesNoted,
    ];
    let faults = [Fault::Error, Fault::Kill, Fault::Panic];
    let cases = points
        .iter()
        .flat_map(|point| faults.map(|fault| (*point, fault)));
    join_all(cases.map(|(point, fault)| assert_all_checked(&dns, point, fault))).await;
}

async fn assert_all_checked(dns: &DnsServer, point: Point, fault: Fault) {
    let database = Database::new().await;
    database.track(&NAMES).await;
    let store = SqliteStore::open(&database.url()).await.unwrap();
    let verifier = Arc::new(HandleVerifier {
        store: Arc::new(store),
        identities: Identities::new(Documents, Limits::default()),
        resolver: HandleResolver::new(
            Dns::new(&[net::dns::DnsServer(dns.address)]),
            Fetcher::new(true).unwrap(),
            true,
            Duration::from_secs(5),
        ),
    });
    let plan = Arc::new(Often {
        point,
        fault,
        passed: AtomicU32::new(0),
    });
    let faults = Faults::planned(plan);
    let verified = verify_all(&database, &verifier, &faults);
    let deaths = timeout(Duration::from_secs(60), verified).await;
    let deaths = deaths.unwrap_or_else(|_elapsed| panic!("{point:?} {fault:?}"));
    assert!(deaths > 0, "{point:?} {fault:?}");
    assert_eq!(
        database.column(SHOWN).await,
        [
            format!("{ALICE} verified"),
            format!("{BOB} invalid"),
            format!("{CAROL} verified")
        ],
        "{point:?} {fault:?}"
    );
}
