//! The UpkeepActor: prepares the tables, deletes what removed accounts had written, purges by age, and
//! tidies the metrics.

use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::{Instant, timeout};

use super::consumer::SharedTarget;
use crate::actor::{ActorContext, Arguments};
use crate::testing::fault::Point;

/// How often the metrics are tidied, and asked whether upkeep is due.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often the target is asked for its upkeep while it has none left.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(10);
const DEADLINE: Duration = Duration::from_secs(25);

/// Does what no task asks for; see the module.
pub(super) struct UpkeepActor;

/// What an UpkeepActor needs.
pub(super) struct UpkeepContext {
    pub(super) target: SharedTarget,
    pub(super) prometheus: PrometheusHandle,
}

#[derive(Debug)]
pub(super) struct Tick;

pub(super) struct UpkeepState {
    context: ActorContext<UpkeepContext>,
    due_at: Instant,
}

impl Actor for UpkeepActor {
    type Msg = Tick;
    type State = UpkeepState;
    type Arguments = Arguments<UpkeepContext>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let cell = myself.get_cell();
        let context = ActorContext::start(arguments, cell, Point::UpkeepStart).await?;
        myself.cast(Tick)?;
        Ok(UpkeepState {
            context,
            due_at: Instant::now(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        Tick: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let _busy = state.context.begin(Point::UpkeepTick).await?;
        state.context.prometheus.run_upkeep();
        if Instant::now() >= state.due_at {
            let target = state.context.target.clone();
            let upkeep = async move { target.lock().await.do_upkeep().await };
            // The consumers tell that the target does not answer.
            let has_more = matches!(timeout(DEADLINE, upkeep).await, Ok(Ok(true)));
            state.due_at = match has_more {
                true => Instant::now(),
                false => Instant::now() + UPKEEP_INTERVAL,
            };
        }
        myself.send_after(INTERVAL, || Tick);
        Ok(())
    }
}
