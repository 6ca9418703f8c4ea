//! The HttpActor: keeps the operator's endpoints up.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::admin::http;
use crate::pipeline::Context;

/// See the module.
pub struct HttpActor;

#[derive(Debug)]
pub enum HttpMessage {
    /// The server ended, which it should not.
    Ended(std::io::Result<()>),
}

impl Actor for HttpActor {
    type Msg = HttpMessage;
    /// Stops the server when the actor ends, however it does.
    type State = DropGuard;
    type Arguments = Arc<Context>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        context: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let Some(listener) = &context.listener else {
            return Err("started without a listener".into());
        };
        // The listener outlives the actor, so a restart needs no free port.
        let listener = TcpListener::from_std(listener.try_clone()?)?;
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        let endpoints = context.endpoints();
        tokio::spawn(async move {
            let ended = http::serve(listener, endpoints, stop).await;
            // Where the actor is gone already, that is why the server ended.
            let _unheard = myself.cast(HttpMessage::Ended(ended));
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
