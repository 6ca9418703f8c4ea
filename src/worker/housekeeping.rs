//! The HousekeepingActor: what has to be done from time to time.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::timeout;

use crate::pipeline::Context;
use crate::store::Retention;
use crate::testing::fault::Point;

/// How often the budget is shown, and the histograms' samples are folded in: the exporter keeps
/// every single one until then.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How often the gaps on record are counted, and the repositories that wait for something.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);
const COUNT_DEADLINE: Duration = Duration::from_secs(5);
/// How often rows that outlived their retention are looked for, the first time after a minute.
const PURGE_INTERVAL: Duration = Duration::from_secs(3600);
const FIRST_PURGE: Duration = Duration::from_secs(60);
const PURGE_DEADLINE: Duration = Duration::from_secs(60);

/// See the module.
pub struct HousekeepingActor;

#[derive(Debug)]
pub enum HousekeepingMessage {
    Upkeep,
    Count,
    Purge,
}

impl Actor for HousekeepingActor {
    type Msg = HousekeepingMessage;
    type State = Arc<Context>;
    type Arguments = Arc<Context>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        context: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        myself.send_interval(UPKEEP_INTERVAL, || HousekeepingMessage::Upkeep);
        myself.send_interval(COUNT_INTERVAL, || HousekeepingMessage::Count);
        myself.send_after(FIRST_PURGE, || HousekeepingMessage::Purge);
        Ok(context)
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        context: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let faults = &context.faults;
        faults
            .pass(Point::HousekeepingMessage, myself.get_cell())
            .await?;
        match message {
            HousekeepingMessage::Upkeep => upkeep(context),
            HousekeepingMessage::Count => {
                count_gaps(context).await;
                count_repositories(context).await;
            }
            HousekeepingMessage::Purge => {
                purge(context).await;
                myself.send_after(PURGE_INTERVAL, || HousekeepingMessage::Purge);
            }
        }
        Ok(())
    }
}

fn upkeep(context: &Context) {
    let in_flight = context.budget.in_flight_bytes();
    context.status.update(|status| {
        status.budget.limit_bytes = context.budget.limit_bytes() as u64;
        status.budget.in_flight_bytes = in_flight as u64;
    });
    context.prometheus.run_upkeep();
}

// That the database does not answer is told by those who write to it.
async fn count_gaps(context: &Context) {
    let source = context.ledger.source();
    let counted = timeout(COUNT_DEADLINE, context.store.count_open_gaps(source)).await;
    if let Ok(Ok(open_gaps)) = counted {
        context
            .status
            .update(|status| status.source_mut(source).open_gaps = open_gaps);
    }
}

async fn count_repositories(context: &Context) {
    let Some(repositories) = &context.repositories else {
        return;
    };
    let counted = timeout(COUNT_DEADLINE, repositories.store.repo_counts()).await;
    if let Ok(Ok(counts)) = counted {
        context
            .status
            .update(|status| status.repositories = Some(counts));
    }
}

async fn purge(context: &Context) {
    let retention = Retention {
        inactive_request_days: context.config.request_retention_days,
        dead_letter_days: context.config.dead_letter_retention_days,
    };
    let purged = timeout(PURGE_DEADLINE, context.store.purge(retention)).await;
    match purged {
        Ok(Ok(purged)) => tracing::info!(
            booking_requests = purged.booking_requests,
            dead_letters = purged.dead_letters,
            resyncs = purged.resyncs,
            "purged what outlived its retention"
        ),
        Ok(Err(error)) => tracing::warn!(%error, "could not purge; trying again later"),
        Err(_elapsed) => tracing::warn!("purging met its deadline; going on later"),
    }
}
