//! The ApiActor: serves the interface that takes commands, on the control socket or on an address.

use std::net;
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::api::{self, ApiState};
use super::control::{ControlListener, ControlSocket};
use super::http::LimitedListener;

/// How many connections are open at once on an address.
const MOST_CONNECTIONS: usize = 32;

/// Serves the interface that takes commands.
pub struct ApiActor;

/// Where the interface is served, and what it serves.
pub struct ApiDoor {
    pub entry: Entry,
    pub state: ApiState,
}

/// Where the interface is served. It outlives the actor, so that requests wait for its successor.
#[derive(Debug)]
pub enum Entry {
    Address(net::TcpListener),
    Socket(ControlSocket),
}

#[derive(Debug)]
pub enum ApiMessage {
    /// The server ended, which is a failure.
    Ended(std::io::Result<()>),
}

impl Actor for ApiActor {
    type Msg = ApiMessage;
    /// Stops the server when the actor ends.
    type State = DropGuard;
    type Arguments = Arc<ApiDoor>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        door: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let state = door.state.clone();
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        // The casts fail if the actor has ended. Then the end of the actor has ended the server.
        match &door.entry {
            Entry::Address(listener) => {
                let listener = TcpListener::from_std(listener.try_clone()?)?;
                let listener = LimitedListener::with_places(listener, MOST_CONNECTIONS);
                tokio::spawn(async move {
                    let ended = api::serve(listener, state, stop).await;
                    let _sent = myself.cast(ApiMessage::Ended(ended));
                });
            }
            Entry::Socket(socket) => {
                let commands = state.commands.clone();
                let listener = ControlListener::new(socket.try_clone()?, commands)?;
                tokio::spawn(async move {
                    let ended = api::serve(listener, state, stop).await;
                    let _sent = myself.cast(ApiMessage::Ended(ended));
                });
            }
        }
        Ok(guard)
    }

    async fn handle(
        &self,
        _myself: ActorRef<Self::Msg>,
        ApiMessage::Ended(ended): Self::Msg,
        _guard: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        ended?;
        Err("the server of the interface ended by itself".into())
    }
}
