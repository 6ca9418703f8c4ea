//! The consumers that are there, each with a key that lives as long as a lease. The partitions are shared
//! among them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::connection::unavailable;
use super::link::Link;
use crate::model::RandomId;
use crate::sink::SinkError;
use crate::sink::queue::Presence;

/// The deadline of saying that this consumer is there, with what has to be looked up before.
const DEADLINE: Duration = Duration::from_secs(45);

/// How many partitions this consumer may have, and has.
#[derive(Debug, Default)]
pub(super) struct Membership {
    /// 0 until it is known how many consumers there are.
    share: AtomicU32,
    held: AtomicU32,
}

/// A partition that is counted as held. It is given back with the value.
#[derive(Debug)]
pub(super) struct Slot(Arc<Membership>);

impl Membership {
    /// A place for one more partition; `None` if this consumer has its share.
    pub(super) fn slot(self: &Arc<Self>) -> Option<Slot> {
        let share = self.share.load(Ordering::Relaxed);
        let more = |held: u32| (held < share).then_some(held + 1);
        let taken = self
            .held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.ok().map(|_| Slot(self.clone()))
    }

    /// Whether it has more than its share.
    pub(super) fn is_above_share(&self) -> bool {
        self.held.load(Ordering::Relaxed) > self.share.load(Ordering::Relaxed)
    }

    fn divide(&self, partitions: u32, members: u32) {
        let share = partitions.div_ceil(members.max(1));
        self.share.store(share, Ordering::Relaxed);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The key of this consumer.
pub(super) struct NatsPresence {
    link: Link,
    membership: Arc<Membership>,
    key: String,
}

impl NatsPresence {
    pub(super) fn new(link: Link, membership: Arc<Membership>) -> Self {
        Self {
            link,
            membership,
            key: RandomId::random().to_string(),
        }
    }

    async fn show(&self) -> Result<u32, SinkError> {
        let linked = self.link.get().await?;
        let layout = &self.link.options.layout;
        let store = &linked.found.members;
        let showing = async {
            let put = store.put(&self.key, "".into()).await;
            put.map_err(|error| unavailable("cannot say that this consumer is there", error))?;
            let info = store.stream.get_info().await;
            let info = info.map_err(|error| unavailable("cannot count consumers", error))?;
            Ok::<_, SinkError>(info.state.subjects_count)
        };
        let members = linked.connection.run(showing).await;
        if members.is_err() {
            self.link.doubt();
        }
        let members = u32::try_from(members?).unwrap_or(u32::MAX).max(1);
        self.membership.divide(layout.partitions, members);
        Ok(members)
    }

    async fn go(&self) {
        self.membership.share.store(0, Ordering::Relaxed);
        let Ok(linked) = self.link.get().await else {
            // The key ends by itself.
            return;
        };
        let layout = &self.link.options.layout;
        let going = async {
            let store = &linked.found.members;
            let subject = format!("$KV.{}.{}", layout.members(), self.key);
            let purged = store.stream.purge().filter(subject).await;
            purged.map_err(|error| unavailable("cannot leave", error))
        };
        let _ends_by_itself = linked.connection.run(going).await;
    }
}

impl Presence for NatsPresence {
    fn beat(&mut self) -> BoxFuture<'_, Result<Option<u32>, SinkError>> {
        Box::pin(async {
            let shown = timeout(DEADLINE, self.show()).await;
            let late = || SinkError::unavailable("the server does not answer");
            shown.unwrap_or_else(|_| Err(late())).map(Some)
        })
    }

    fn leave(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(self.go())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_has_its_share_and_gives_back_what_is_above_it() {
        let membership = Arc::new(Membership::default());
        assert!(
            membership.slot().is_none(),
            "it is not known how many there are"
        );
        membership.divide(16, 3);
        let slots: Vec<_> = std::iter::from_fn(|| membership.slot()).collect();
        assert_eq!(slots.len(), 6);
        membership.divide(16, 4);
        assert!(membership.is_above_share());
        drop(slots);
        assert!(!membership.is_above_share());
    }
}
