//! How hosts are spared: so many requests at once to each, at such a rate, and none while it wants to be
//! left alone.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hashlink::LruCache;
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, timeout};
use url::Url;

use crate::net::request_limiter::Lane;
use crate::repo::host::HostError;

/// Hosts that are remembered; beyond it the least recently used one is forgotten.
const HOSTS: usize = 1000;
/// Requests under way at once to one host.
const AT_ONCE: usize = 2;
const PER_SECOND: u32 = 10;
const BURST: u32 = 20;
/// How long one waits for one's turn. A host that has long transfers under way holds up nobody.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a host is left alone that asks for it and does not say how long.
const REST: Duration = Duration::from_secs(30);

/// One lane a host.
pub struct HostLanes(Mutex<LruCache<String, Arc<HostLane>>>);

/// The way to one host.
pub(crate) struct HostLane {
    lane: Lane,
    rest_until: Mutex<Option<Instant>>,
}

/// Why a host is not asked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("others are at the host")]
    Busy,
    #[error("the host wants to be left alone for another {} s", .0.as_secs())]
    Resting(Duration),
}

impl Default for HostLanes {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(HOSTS)))
    }
}

impl HostLanes {
    pub(crate) fn of(&self, host: &Url) -> Arc<HostLane> {
        let key = host.origin().ascii_serialization();
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = lanes.entry(key).or_insert_with(|| {
            Arc::new(HostLane {
                lane: Lane::new(AT_ONCE, PER_SECOND, BURST),
                rest_until: Mutex::default(),
            })
        });
        Arc::clone(lane)
    }
}

impl HostLane {
    /// Waits for one's turn, which lasts until what is given is dropped.
    ///
    /// # Errors
    /// While the host wants to be left alone, or others are before us for too long.
    pub(crate) async fn enter(&self) -> Result<Option<SemaphorePermit<'_>>, Refused> {
        self.check_rest()?;
        let turn = timeout(PATIENCE, self.lane.enter()).await;
        let turn = turn.map_err(|_| Refused::Busy)?;
        self.check_rest()?;
        Ok(turn)
    }

    /// Heeds what a host says of itself.
    pub(crate) fn heed<T>(&self, answer: Result<T, HostError>) -> Result<T, HostError> {
        if let Err(HostError::Throttled { retry_after }) = &answer {
            let rest = retry_after.unwrap_or(REST);
            *self.rest_until() = Some(Instant::now() + rest);
        }
        answer
    }

    fn check_rest(&self) -> Result<(), Refused> {
        let until = *self.rest_until();
        let rest = until.map(|until| until.saturating_duration_since(Instant::now()));
        match rest {
            Some(rest) if !rest.is_zero() => Err(Refused::Resting(rest)),
            _ => Ok(()),
        }
    }

    fn rest_until(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.rest_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
