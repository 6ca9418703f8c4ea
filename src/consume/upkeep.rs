//! The UpkeepActor: prepares the tables, deletes what removed accounts had written, purges by age, and
//! tidies the metrics.

use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::{Instant, timeout};

use super::consumer::SharedTarget;
use super::lasting_failure::LastingFailure;
use crate::actor::{ActorContext, Arguments};
use crate::sink::SinkError;
use crate::telemetry::status::StatusBoard;
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
    pub(super) status: StatusBoard,
    pub(super) prometheus: PrometheusHandle,
}

#[derive(Debug)]
pub(super) struct Tick;

pub(super) struct UpkeepState {
    context: ActorContext<UpkeepContext>,
    due_at: Instant,
    failure: LastingFailure,
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
            due_at: Instant::now(),
            failure: LastingFailure::new(context.status.clone(), |consumption| {
                &mut consumption.upkeep_failure
            }),
            context,
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
            let has_more = state.do_upkeep().await;
            state.due_at = match has_more {
                true => Instant::now(),
                false => Instant::now() + UPKEEP_INTERVAL,
            };
        }
        myself.send_after(INTERVAL, || Tick);
        Ok(())
    }
}

impl UpkeepState {
    /// Does a piece of upkeep. Returns whether more is left.
    async fn do_upkeep(&mut self) -> bool {
        // The consumers tell that the target does not answer them.
        let Ok(mut target) = timeout(DEADLINE, self.context.target.lock()).await else {
            return true;
        };
        let done = timeout(DEADLINE, target.do_upkeep()).await;
        drop(target);
        let late = |_elapsed| SinkError::late(DEADLINE);
        match done.map_err(late).flatten() {
            Ok(has_more) => {
                if let Some(seconds) = self.failure.ended() {
                    tracing::info!(
                        failed_s = seconds,
                        "the upkeep of the tables succeeds again"
                    );
                }
                has_more
            }
            Err(error) => {
                if let Some(reason) = self.failure.failed(error) {
                    tracing::warn!(
                        error = reason,
                        "the upkeep of the tables fails; tasks are applied, but rows of removed accounts \
                         stay, and nothing is purged by age"
                    );
                }
                false
            }
        }
    }
}
