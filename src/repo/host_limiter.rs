//! Request limits of each host: concurrent requests, a rate that follows its answers, and a pause
//! when it refuses.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashlink::LruCache;
use tokio::time::{Instant, timeout};
use url::Url;

use crate::net::pace::Rate;
use crate::net::request_limiter::{Permit, RequestLimiter};
use crate::repo::host::HostError;

/// The number of hosts that are remembered. Beyond it, the least recently used one is forgotten.
const HOSTS: usize = 1000;
/// Concurrent requests to one host.
const AT_ONCE: usize = 2;
/// A host that serves all requests is soon asked as fast as the worker can; one that refuses some is
/// asked less often.
const RATE: Rate = Rate {
    initial: 10,
    least: 1,
    most: 100,
    burst: 20,
};
/// How long a method is not asked for after a host said that it does not know it. A newer version of
/// the host may.
const LACKING_FOR: Duration = Duration::from_secs(3600);
/// How long a job waits for a slot, or for the end of a pause. After that it is rescheduled, so that
/// a host with long transfers delays no other repository.
const SLOT_TIMEOUT: Duration = Duration::from_secs(2);

/// One limiter for each host.
pub struct HostLimiters(Mutex<LruCache<String, Arc<HostLimiter>>>);

/// The request limiter of one host, and the methods that it does not have.
pub(crate) struct HostLimiter {
    limiter: RequestLimiter,
    /// Until when each of [`HeadMethod`] counts as lacking.
    lacking_until: Mutex<[Option<Instant>; 2]>,
}

/// A method that tells the head of a repository without the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadMethod {
    RepoStatus,
    LatestCommit,
}

/// The permission to make one request to a host.
pub(crate) struct HostPermit<'a>(Permit<'a>);

/// Why a host is not asked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoSlot {
    #[error("all request slots of the host are in use")]
    Busy,
    #[error("the host refuses requests for now; next request in {} s", .0.as_secs())]
    CoolingDown(Duration),
}

/// The pause of a job that found no free slot. A random part of up to half of it is added.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

impl NoSlot {
    /// When to ask for a slot again.
    pub(crate) fn wait(self) -> Duration {
        match self {
            Self::Busy => BUSY_PAUSE.mul_f64(1.0 + 0.5 * fastrand::f64()),
            Self::CoolingDown(rest) => rest,
        }
    }
}

impl Default for HostLimiters {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(HOSTS)))
    }
}

impl HostLimiters {
    pub(crate) fn of(&self, host: &Url) -> Arc<HostLimiter> {
        let key = host.origin().ascii_serialization();
        let mut host_limiters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let limiter = host_limiters.entry(key).or_insert_with(|| {
            Arc::new(HostLimiter {
                limiter: RequestLimiter::new(AT_ONCE, RATE),
                lacking_until: Mutex::default(),
            })
        });
        Arc::clone(limiter)
    }
}

impl HostLimiter {
    /// Waits until a request may be made. The slot is released when the permit is dropped.
    ///
    /// # Errors
    /// If no slot is free in time, or the host's pause does not end in time.
    pub(crate) async fn enter(&self) -> Result<HostPermit<'_>, NoSlot> {
        if let Some(rest) = self.long_pause() {
            return Err(NoSlot::CoolingDown(rest));
        }
        match timeout(SLOT_TIMEOUT, self.limiter.enter()).await {
            Ok(permit) => Ok(HostPermit(permit)),
            Err(_) => Err(match self.limiter.paused_for() {
                Some(rest) => NoSlot::CoolingDown(rest),
                None => NoSlot::Busy,
            }),
        }
    }

    /// The rest of a pause that is too long to wait for it in place.
    pub(crate) fn long_pause(&self) -> Option<Duration> {
        self.limiter
            .paused_for()
            .filter(|rest| *rest > SLOT_TIMEOUT)
    }

    /// Whether the host is not known to lack `method`.
    pub(crate) fn may_have(&self, method: HeadMethod) -> bool {
        let lacking_until = self.lacking_until()[method as usize];
        lacking_until.is_none_or(|until| until <= Instant::now())
    }

    /// Notes that the host does not know `method`.
    pub(crate) fn note_lacking(&self, method: HeadMethod) {
        self.lacking_until()[method as usize] = Some(Instant::now() + LACKING_FOR);
    }

    fn lacking_until(&self) -> MutexGuard<'_, [Option<Instant>; 2]> {
        self.lacking_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl HostPermit<'_> {
    /// Notes the response, which decides when the host is asked again. Returns the response.
    pub(crate) fn record<T>(&self, response: Result<T, HostError>) -> Result<T, HostError> {
        match &response {
            Err(HostError::Throttled { retry_after }) => self.0.refused(*retry_after),
            // It says nothing about the host's limits.
            Err(HostError::Unavailable(_)) => {}
            Ok(_) | Err(HostError::Invalid(_) | HostError::NotSupported | HostError::Repo(_)) => {
                self.0.answered();
            }
        }
        response
    }
}
