//! Accepts connections of the control socket: those of the worker's user and of root.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::sleep;

use super::ControlSocket;
use crate::admin::api::Entrance;
use crate::admin::http::{Limited, Places};
use crate::command::{Caller, Commands, Role};
use crate::model::{AuditEntry, AuditOutcome};

/// How many connections are open at once.
const MOST_CONNECTIONS: usize = 32;
/// The delay after an accept that failed, as it does without free descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// The user who may do everything.
const ROOT: u32 = 0;

pub(in crate::admin) struct ControlListener {
    listener: UnixListener,
    owner: u32,
    places: Arc<Places>,
    commands: Arc<Commands>,
}

impl ControlListener {
    pub(in crate::admin) fn new(
        socket: ControlSocket,
        commands: Arc<Commands>,
    ) -> io::Result<Self> {
        Ok(Self {
            listener: UnixListener::from_std(socket.listener)?,
            owner: socket.owner,
            places: Places::new(MOST_CONNECTIONS),
            commands,
        })
    }

    /// Who is at the other end, if that may be.
    fn caller(&self, stream: &UnixStream) -> Option<Caller> {
        let peer = stream.peer_cred().ok()?.uid();
        let name = format!("uid {peer}");
        if may_connect(peer, self.owner) {
            return Some(Caller {
                name,
                role: Role::Admin,
            });
        }
        tracing::warn!(
            peer,
            owner = self.owner,
            "a user may not use the control socket"
        );
        let entry = AuditEntry {
            actor: name,
            command: None,
            action: "connect".to_owned(),
            target: String::new(),
            before: None,
            after: None,
            reason: None,
            outcome: AuditOutcome::Denied("neither the user of the worker nor root".to_owned()),
        };
        let commands = self.commands.clone();
        tokio::spawn(async move { commands.scope.store.audit(&entry).await });
        None
    }
}

fn may_connect(peer: u32, owner: u32) -> bool {
    peer == owner || peer == ROOT
}

impl Listener for ControlListener {
    type Io = Limited<UnixStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    let Some(caller) = self.caller(&stream) else {
                        continue;
                    };
                    let stream = Limited::new(stream, self.places.take().await);
                    return (stream.of(caller), address);
                }
                Err(_) => {
                    // Its descriptor may be the one that is missing.
                    self.places.close_oldest_incomplete();
                    sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

impl Connected<IncomingStream<'_, ControlListener>> for Entrance {
    fn connect_info(stream: IncomingStream<'_, ControlListener>) -> Self {
        Self::of(stream.io())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holds invariant 13.5.
    #[test]
    fn the_workers_user_and_root_may_connect() {
        assert!(may_connect(1000, 1000));
        assert!(may_connect(0, 1000));
        assert!(!may_connect(1001, 1000));
        assert!(!may_connect(1000, 0));
    }
}
