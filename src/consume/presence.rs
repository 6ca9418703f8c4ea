//! The PresenceActor: says twice a second that this process is there, so that the partitions are shared
//! among all that are.

use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use std::sync::Arc;

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
                // The consumers tell that the queue does not answer.
                if let Ok(members) = state.presence.beat().await {
                    state.context.status.update(|status| {
                        if let Some(consumption) = &mut status.consumption {
                            consumption.members = members;
                        }
                    });
                }
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
