//! The PresenceActor: says twice a second that this process is there, so that the partitions are shared
//! among all that are.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use super::lasting_failure::LastingFailure;
use crate::actor::address::Address;
use crate::actor::{ActorContext, Arguments};
use crate::sink::queue::{Presence, Queue};
use crate::telemetry::status::StatusBoard;
use crate::testing::fault::Point;

const INTERVAL: Duration = Duration::from_millis(500);

/// Says that this process is there; see the module.
pub(super) struct PresenceActor;

/// What a PresenceActor needs.
pub(super) struct PresenceContext {
    pub(super) queue: Arc<dyn Queue>,
    pub(super) status: StatusBoard,
    pub(super) address: Address<PresenceMessage>,
}

#[derive(Debug)]
pub(super) enum PresenceMessage {
    Beat,
    /// Say that this process ends, and answer.
    Leave(RpcReplyPort<()>),
}

pub(super) struct PresenceState {
    context: ActorContext<PresenceContext>,
    presence: Box<dyn Presence>,
    failure: LastingFailure,
    has_left: bool,
}

impl Actor for PresenceActor {
    type Msg = PresenceMessage;
    type State = PresenceState;
    type Arguments = Arguments<PresenceContext>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let cell = myself.get_cell();
        let context = ActorContext::start(arguments, cell, Point::PresenceStart).await?;
        myself.cast(PresenceMessage::Beat)?;
        Ok(PresenceState {
            presence: context.queue.presence(),
            failure: LastingFailure::new(context.status.clone(), |consumption| {
                &mut consumption.presence_failure
            }),
            context,
            has_left: false,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            PresenceMessage::Beat if state.has_left => {}
            PresenceMessage::Beat => {
                let _busy = state.context.begin(Point::PresenceBeat).await?;
                state.beat().await;
                myself.send_after(INTERVAL, || PresenceMessage::Beat);
            }
            PresenceMessage::Leave(reply) => {
                state.has_left = true;
                state.presence.leave().await;
                let _asked_no_more = reply.send(());
            }
        }
        Ok(())
    }
}

impl PresenceState {
    async fn beat(&mut self) {
        match self.presence.beat().await {
            Ok(members) => {
                self.context.status.update(|status| {
                    if let Some(consumption) = &mut status.consumption {
                        consumption.members = members;
                    }
                });
                if let Some(seconds) = self.failure.ended() {
                    tracing::info!(
                        failed_s = seconds,
                        "this process is counted among the consumers again"
                    );
                }
            }
            Err(error) => {
                if let Some(reason) = self.failure.failed(error) {
                    tracing::warn!(
                        error = reason,
                        "this process cannot be counted among the consumers; it takes no partition if it \
                         never was"
                    );
                }
            }
        }
    }
}
