//! How hosts are spared: so many requests at once to each, at such a rate, and none while it wants to be
//! left alone.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hashlink::LruCache;
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, timeout};
use url::Url;

use crate::net::request_limiter::RequestLimiter;
use crate::repo::host::HostError;

/// Hosts that are remembered; beyond it the least recently used one is forgotten.
const HOSTS: usize = 1000;
/// Requests under way at once to one host.
const AT_ONCE: usize = 2;
const PER_SECOND: u32 = 10;
const BURST: u32 = 20;
/// How long one waits for one's turn. A host that has long transfers under way holds up nobody.
const SLOT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a host is left alone that asks for it and does not say how long.
const DEFAULT_COOLDOWN: Duration = Duration::from_secs(30);

/// One limiter a host.
pub struct HostLimiters(Mutex<LruCache<String, Arc<HostLimiter>>>);

/// The way to one host.
pub(crate) struct HostLimiter {
    limiter: RequestLimiter,
    cooldown_until: Mutex<Option<Instant>>,
}

/// Why a host is not asked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoSlot {
    #[error("others are at the host")]
    Busy,
    #[error("the host wants to be left alone for another {} s", .0.as_secs())]
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
    /// Waits for one's turn, which lasts until what is given is dropped.
    ///
    /// # Errors
    /// While the host wants to be left alone, or others are before us for too long.
    pub(crate) async fn enter(&self) -> Result<Option<SemaphorePermit<'_>>, NoSlot> {
        self.check_cooldown()?;
        let turn = timeout(SLOT_TIMEOUT, self.limiter.enter()).await;
        let turn = turn.map_err(|_| NoSlot::Busy)?;
        self.check_cooldown()?;
        Ok(turn)
    }

    /// Heeds what a host says of itself.
    pub(crate) fn record_response<T>(&self, answer: Result<T, HostError>) -> Result<T, HostError> {
        if let Err(HostError::Throttled { retry_after }) = &answer {
            let rest = retry_after.unwrap_or(DEFAULT_COOLDOWN);
            *self.cooldown_until() = Some(Instant::now() + rest);
        }
        answer
    }

    fn check_cooldown(&self) -> Result<(), NoSlot> {
        let until = *self.cooldown_until();
        let rest = until.map(|until| until.saturating_duration_since(Instant::now()));
        match rest {
            Some(rest) if !rest.is_zero() => Err(NoSlot::CoolingDown(rest)),
            _ => Ok(()),
        }
    }

    fn cooldown_until(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.cooldown_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
