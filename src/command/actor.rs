//! The CommandActor: carries out the commands of operators, in their order.

use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::Commands;
use super::scope::Asked;
use super::step::{Step, Turns, step};
use crate::actor::{ActorContext, Arguments};
use crate::store::StoreError;
use crate::testing::fault::Point;

/// How often the actor looks for a command that another process has written, and for long ones that go
/// on.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Carries out the commands of operators. All that is to be done is in the tables, so its successor
/// goes on.
pub struct CommandActor;

#[derive(Debug)]
pub enum CommandMessage {
    /// Carry out the commands that wait.
    Look,
}

pub struct CommandActorState {
    context: ActorContext<Commands>,
    turns: Turns,
    /// What an earlier actor left is noted as interrupted, and the pauses are in force.
    has_begun: bool,
    /// The process is about to end or to restart, so that no further command is begun.
    is_leaving: bool,
}

impl Actor for CommandActor {
    type Msg = CommandMessage;
    type State = CommandActorState;
    type Arguments = Arguments<Commands>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let context =
            ActorContext::start(arguments, myself.get_cell(), Point::CommandStart).await?;
        myself.send_interval(LOOK_INTERVAL, || CommandMessage::Look);
        myself.cast(CommandMessage::Look)?;
        Ok(CommandActorState {
            context,
            turns: Turns::default(),
            has_begun: false,
            is_leaving: false,
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<Self::Msg>,
        CommandMessage::Look: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        if let Err(error) = state.carry_out_all().await {
            tracing::debug!(%error, "the database failed; the commands wait, trying again in 1 s");
        }
        Ok(())
    }
}

impl CommandActorState {
    async fn carry_out_all(&mut self) -> Result<(), StoreError> {
        let commands = self.context.shared().clone();
        let scope = &commands.scope;
        if !self.has_begun {
            let interrupted = scope.store.interrupt_commands().await?;
            if interrupted > 0 {
                tracing::warn!(
                    commands = interrupted,
                    "commands were interrupted by the end of the last run; they are done again"
                );
            }
            scope.show_pauses().await?;
            self.has_begun = true;
        }
        while !self.is_leaving {
            let faults = self.context.faults();
            let asked = match step(scope, &mut self.turns, faults).await? {
                Step::Did(asked) => asked,
                Step::NeedsStop => Some(Asked::Restart),
                Step::Nothing => return Ok(()),
            };
            commands.note_change();
            if let (Some(asked), Some(live)) = (asked, &scope.live) {
                self.is_leaving = true;
                live.asked.send_replace(Some(asked));
            }
        }
        Ok(())
    }
}
