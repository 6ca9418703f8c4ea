//! A resolver that a test controls.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::identity::resolve::{Resolve, ResolveError, Unavailable};
use huddle_firehose::identity::{Identities, Identity, Limits};
use huddle_firehose::net::http_client::FetchError;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

/// Clones share the same resolver.
#[derive(Clone, Default)]
pub(crate) struct Scripted(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    /// The failure of a DID. Any other DID has an identity.
    failures: BTreeMap<Did, Failure>,
    /// How long an answer takes.
    delay: Duration,
    requests: Vec<(Did, Instant)>,
    under_way: usize,
    most_under_way: usize,
}

#[derive(Clone)]
pub(crate) enum Failure {
    Error(ResolveError),
    Panic,
}

pub(crate) fn unavailable(retry_after: Option<Duration>) -> ResolveError {
    let status = FetchError::Status {
        status: 503,
        retry_after,
    };
    Unavailable::from(status).into()
}

impl Scripted {
    pub(crate) fn with_delay(delay: Duration) -> Self {
        let scripted = Self::default();
        scripted.0.lock().unwrap().delay = delay;
        scripted
    }

    pub(crate) fn cache(&self, limits: Limits) -> Identities {
        Identities::new(self.clone(), limits)
    }

    pub(crate) fn fail(&self, did: &Did, failure: Failure) {
        self.0.lock().unwrap().failures.insert(did.clone(), failure);
    }

    pub(crate) fn recover(&self, did: &Did) {
        self.0.lock().unwrap().failures.remove(did);
    }

    /// The number of requests so far.
    pub(crate) fn requests(&self) -> usize {
        self.0.lock().unwrap().requests.len()
    }

    /// Waits for this number of requests, without advancing the time.
    pub(crate) async fn reached(&self, requests: usize) {
        for _ in 0..1000 {
            if self.requests() >= requests {
                return;
            }
            yield_now().await;
        }
        panic!("{} requests instead of {requests}", self.requests());
    }

    /// When `did` was requested.
    pub(crate) fn times(&self, did: &Did) -> Vec<Instant> {
        let script = self.0.lock().unwrap();
        let of_did = script.requests.iter().filter(|(asked, _)| asked == did);
        of_did.map(|(_, at)| *at).collect()
    }

    pub(crate) fn most_under_way(&self) -> usize {
        self.0.lock().unwrap().most_under_way
    }

    /// The number of the request, its duration, and its failure.
    fn begin(&self, did: &Did) -> (usize, Duration, Option<Failure>) {
        let mut script = self.0.lock().unwrap();
        script.requests.push((did.clone(), Instant::now()));
        script.under_way += 1;
        script.most_under_way = script.most_under_way.max(script.under_way);
        let number = script.requests.len();
        (number, script.delay, script.failures.get(did).cloned())
    }
}

impl Resolve for Scripted {
    fn resolve<'a>(&'a self, did: &'a Did) -> BoxFuture<'a, Result<Identity, ResolveError>> {
        Box::pin(async move {
            let (number, delay, failure) = self.begin(did);
            sleep(delay).await;
            self.0.lock().unwrap().under_way -= 1;
            match failure {
                None => Ok(Identity::new(did.clone(), format!("key {number}"))),
                Some(Failure::Error(error)) => Err(error),
                Some(Failure::Panic) => panic!("a resolver that panics"),
            }
        })
    }
}
