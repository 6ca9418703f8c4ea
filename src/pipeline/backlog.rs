//! Slows the reading of a source down while much is parked that waits for the PLC directory.
//!
//! Such commits are never dropped: all accounts share the directory, so when it is slow, many
//! repositories would have to be fetched as a whole. So their number is bounded by how much is read.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::sleep;

use super::Context;
use crate::repo::Repositories;
use crate::telemetry::status::Failure;

/// How often the tables are asked whether reading may go on, while the limit is reached.
const PAUSE: Duration = Duration::from_secs(1);
/// The same, while what is in the ledger might reach the limit.
const SHORT_PAUSE: Duration = Duration::from_millis(20);
/// The bytes that are read before the tables are asked again, if they cannot be read.
const WITHOUT_ANSWER: u64 = 1 << 20;

/// How much may be read before the tables are asked again how much waits.
#[derive(Debug, Default)]
pub(super) struct DirectoryBacklog {
    headroom: u64,
}

impl DirectoryBacklog {
    /// Whether [`Self::room`] returns at once.
    pub(super) fn has_room(&self, context: &Context) -> bool {
        self.headroom > 0 || context.repositories.is_none()
    }

    /// Returns as soon as more may be read: less than `parked_limit` waits, with all that is in the
    /// ledger; or less than seven eighths of it, once the limit was reached.
    pub(super) async fn room(&mut self, context: &Context) {
        let Some(repositories) = &context.repositories else {
            return;
        };
        let limit = context.options.parked_limit;
        let mut bound = limit;
        loop {
            // Before the tables, so that what is parked meanwhile is not missed.
            let held = context.ledger.held_bytes() as u64;
            let Some(parked) = parked_bytes(repositories).await else {
                self.headroom = WITHOUT_ANSWER;
                break;
            };
            if parked >= bound {
                if bound == limit {
                    slow_down(context, parked);
                    bound = limit - limit / 8;
                }
                sleep(PAUSE).await;
                continue;
            }
            self.headroom = limit.saturating_sub(parked + held);
            if self.headroom > 0 {
                break;
            }
            sleep(SHORT_PAUSE).await;
        }
        if bound < limit {
            speed_up(context);
        }
    }

    /// Notes what was read. All of it may be parked.
    pub(super) fn note(&mut self, bytes: usize) {
        self.headroom = self.headroom.saturating_sub(bytes as u64);
    }
}

async fn parked_bytes(repositories: &Repositories) -> Option<u64> {
    // The writers of events report that the database fails.
    repositories.store.bytes_awaiting_directory().await.ok()
}

fn slow_down(context: &Context, parked: u64) {
    let limit = context.options.parked_limit;
    tracing::warn!(
        source = %context.source.id(),
        parked_bytes = parked,
        parked_limit = limit,
        "too many commits wait for keys of the PLC directory; they are kept, and the source is read again when it has given some"
    );
    show(
        context,
        Some(Failure {
            at: Timestamp::now(),
            reason: format!("{parked} bytes are parked, and `parked_limit` is {limit} bytes"),
        }),
    );
}

fn speed_up(context: &Context) {
    tracing::info!(
        source = %context.source.id(),
        "the PLC directory has given keys; the source is read again"
    );
    show(context, None);
}

fn show(context: &Context, failure: Option<Failure>) {
    let source = context.source.id();
    context
        .status
        .update(|status| status.source_mut(source).slowed_by_directory = failure);
}
