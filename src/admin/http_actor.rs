//! The HttpActor: serves the operator's endpoints.

use std::net;
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::http::{self, HttpState};

/// Serves the operator's endpoints.
pub struct HttpActor;

/// The socket of the endpoints, and what they show.
pub struct Endpoints {
    /// It outlives the actor, so that a restart keeps the port.
    pub listener: net::TcpListener,
    pub state: HttpState,
}

#[derive(Debug)]
pub enum HttpMessage {
    /// The server ended, which is a failure.
    Ended(std::io::Result<()>),
}

impl Actor for HttpActor {
    type Msg = HttpMessage;
    /// Stops the server when the actor ends.
    type State = DropGuard;
    type Arguments = Arc<Endpoints>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        endpoints: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let listener = TcpListener::from_std(endpoints.listener.try_clone()?)?;
        let state = endpoints.state.clone();
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        tokio::spawn(async move {
            let ended = http::serve(listener, state, stop).await;
            // The cast fails if the actor has ended. Then the end of the actor has ended the
            // server.
            let _sent = myself.cast(HttpMessage::Ended(ended));
        });
        Ok(guard)
    }

    async fn handle(
        &self,
        _myself: ActorRef<Self::Msg>,
        HttpMessage::Ended(ended): Self::Msg,
        _guard: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        ended?;
        Err("the HTTP server ended by itself".into())
    }
}
