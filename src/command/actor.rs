//! The CommandActor: carries out the commands of operators, in their order.

use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::Commands;
use super::scope::Asked;
use super::step::{Step, Turns, interrupt, step};
use crate::actor::{ActorContext, Arguments};
use crate::store::StoreError;
use crate::testing::fault::Point;

/// How often the actor looks for a command that another process has written, and for long ones that go
/// on.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Carries out the commands of operators. The tables hold what is left to do, so the next actor goes on
/// after a death.
pub struct CommandActor;

#[derive(Debug)]
pub enum CommandMessage {
    /// Carry out the commands that wait.
    Look,
}

pub struct CommandActorState {
    context: ActorContext<Commands>,
    turns: Turns,
    /// What an earlier actor left is noted as interrupted.
    has_begun: bool,
    /// The pauses of the tables are in force. After a failure of the database that is not known: it may
    /// have taken a pause without an answer.
    shows_pauses: bool,
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
            shows_pauses: false,
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
            state.shows_pauses = false;
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
            interrupt(scope).await?;
            self.has_begun = true;
        }
        if !self.shows_pauses {
            scope.show_pauses().await?;
            self.shows_pauses = true;
        }
        while !self.is_leaving {
            let faults = self.context.faults();
            let asked = match step(scope, &mut self.turns, faults).await? {
                Step::Did(asked) => asked,
                Step::NeedsStop => Some(Asked::Restart),
                Step::Nothing => return Ok(()),
            };
            if let (Some(asked), Some(live)) = (asked, &scope.live) {
                self.is_leaving = true;
                live.asked.send_replace(Some(asked));
            }
            commands.note_change();
        }
        Ok(())
    }
}
