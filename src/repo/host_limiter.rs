//! Request limits of each host: concurrent requests, rate, and a cooldown.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hashlink::LruCache;
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, timeout};
use url::Url;

use crate::net::request_limiter::RequestLimiter;
use crate::repo::host::HostError;

/// The number of hosts that are remembered. Beyond it, the least recently used one is forgotten.
const HOSTS: usize = 1000;
/// Concurrent requests to one host.
const AT_ONCE: usize = 2;
const PER_SECOND: u32 = 10;
const BURST: u32 = 20;
/// How long a job waits for a slot. After that it is rescheduled, so that a host with long
/// transfers delays no other repository.
const SLOT_TIMEOUT: Duration = Duration::from_secs(2);
/// The cooldown if the host does not name one.
const DEFAULT_COOLDOWN: Duration = Duration::from_secs(30);

/// One limiter for each host.
pub struct HostLimiters(Mutex<LruCache<String, Arc<HostLimiter>>>);

/// The request limiter of one host, with its cooldown.
pub(crate) struct HostLimiter {
    limiter: RequestLimiter,
    cooldown_until: Mutex<Option<Instant>>,
}

/// Why a host is not asked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoSlot {
    #[error("all request slots of the host are in use")]
    Busy,
    #[error("the host asked for a pause; next request in {} s", .0.as_secs())]
    CoolingDown(Duration),
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
                limiter: RequestLimiter::new(AT_ONCE, PER_SECOND, BURST),
                cooldown_until: Mutex::default(),
            })
        });
        Arc::clone(limiter)
    }
}

impl HostLimiter {
    /// Waits for a slot, which is released when the permit is dropped.
    ///
    /// # Errors
    /// During a cooldown, or if no slot is free in time.
    pub(crate) async fn enter(&self) -> Result<Option<SemaphorePermit<'_>>, NoSlot> {
        self.check_cooldown()?;
        let slot = timeout(SLOT_TIMEOUT, self.limiter.enter()).await;
        let slot = slot.map_err(|_| NoSlot::Busy)?;
        self.check_cooldown()?;
        Ok(slot)
    }

    /// Starts the cooldown that a throttled response asks for. Returns the response.
    pub(crate) fn record_response<T>(
        &self,
        response: Result<T, HostError>,
    ) -> Result<T, HostError> {
        if let Err(HostError::Throttled { retry_after }) = &response {
            let cooldown = retry_after.unwrap_or(DEFAULT_COOLDOWN);
            *self.cooldown_until() = Some(Instant::now() + cooldown);
        }
        response
    }

    fn check_cooldown(&self) -> Result<(), NoSlot> {
        let until = *self.cooldown_until();
        let remaining = until.map(|until| until.saturating_duration_since(Instant::now()));
        match remaining {
            Some(remaining) if !remaining.is_zero() => Err(NoSlot::CoolingDown(remaining)),
            _ => Ok(()),
        }
    }

    fn cooldown_until(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.cooldown_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
