//! Refreshes identities that are no longer valid and are used all the same, while nothing waits for
//! it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::cache::Identities;
use super::locate::is_plc;
use crate::atproto::syntax::Did;

/// The DIDs that wait for a refresh. Those of the PLC directory are apart from the others, because
/// outsiders can name slow hosts.
#[derive(Default)]
pub(super) struct Overdue {
    plc: Mutex<Lane>,
    hosts: Mutex<Lane>,
}

/// DIDs that are refreshed in their order.
#[derive(Default)]
struct Lane {
    dids: VecDeque<Did>,
    /// A task works on it.
    is_running: bool,
}

impl Overdue {
    fn lane(&self, is_plc: bool) -> MutexGuard<'_, Lane> {
        let lane = if is_plc { &self.plc } else { &self.hosts };
        // Every state of it is valid by itself.
        lane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self, is_plc: bool) -> Option<Did> {
        self.lane(is_plc).dids.pop_front()
    }

    /// Ends the task of a lane, unless there is more to do.
    fn end(&self, is_plc: bool) -> bool {
        let mut lane = self.lane(is_plc);
        lane.is_running = !lane.dids.is_empty();
        !lane.is_running
    }
}

impl Identities {
    /// Has `did` refreshed when the look-ups that commits wait for leave room. Returns whether it
    /// will be. The queue is bounded by the cache: an entry is in it once.
    pub(super) fn refresh_behind(&self, did: &Did) -> bool {
        let Ok(runtime) = Handle::try_current() else {
            return false;
        };
        let is_plc = is_plc(did);
        let mut lane = self.shared.overdue.lane(is_plc);
        lane.dids.push_back(did.clone());
        if !lane.is_running {
            lane.is_running = true;
            runtime.spawn(self.in_background().refresh_lane(is_plc));
        }
        true
    }

    async fn refresh_lane(self, is_plc: bool) {
        let shared = Arc::clone(&self.shared);
        let most = match is_plc {
            true => shared.limits.plc_in_flight,
            false => shared.limits.in_flight,
        };
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < most.max(1) {
                let Some(did) = shared.overdue.next(is_plc) else {
                    break;
                };
                running.push(self.refresh_overdue(did));
            }
            if running.next().await.is_none() && shared.overdue.end(is_plc) {
                return;
            }
        }
    }

    async fn refresh_overdue(&self, did: Did) {
        let look_up = {
            let mut entries = self.shared.entries();
            let Some(entry) = entries.peek_mut(&did) else {
                return;
            };
            entry.is_overdue = false;
            let now = Instant::now();
            // It may have been looked up meanwhile, or forgotten.
            let until = entry.answer.as_ref().map(|answered| answered.until);
            if until.is_none_or(|until| now < until) || !self.may_look_up(&did, entry, now) {
                return;
            }
            self.join(&did, entry, false)
        };
        if let Ok(mut answer) = look_up {
            // The cache has learned it.
            let _answer = answer.wait_for(Option::is_some).await;
        }
    }
}
