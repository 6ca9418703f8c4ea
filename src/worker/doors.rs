//! The sockets on which a worker is asked. They outlive its runs, so that requests wait while it starts
//! again.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use crate::admin::control::ControlSocket;
use crate::admin::tokens::TokenFile;

/// The sockets on which a worker is asked.
#[derive(Debug, Default)]
pub struct Doors {
    /// `None` if there are no endpoints.
    pub endpoints: Option<TcpListener>,
    /// `None` if no commands are taken, as in tests.
    pub control: Option<ControlSocket>,
    /// `None` if commands are taken on the control socket only.
    pub admin: Option<AdminDoor>,
}

/// An address on which commands are taken, and whose.
#[derive(Debug)]
pub struct AdminDoor {
    pub listener: TcpListener,
    pub tokens: Arc<TokenFile>,
}

impl Doors {
    /// Other handles of the same sockets.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        let Self {
            endpoints,
            control,
            admin,
        } = self;
        let endpoints = endpoints.as_ref().map(TcpListener::try_clone);
        let control = control.as_ref().map(ControlSocket::try_clone);
        let admin = admin.as_ref().map(AdminDoor::try_clone);
        Ok(Self {
            endpoints: endpoints.transpose()?,
            control: control.transpose()?,
            admin: admin.transpose()?,
        })
    }
}

impl AdminDoor {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            listener: self.listener.try_clone()?,
            tokens: self.tokens.clone(),
        })
    }
}

impl From<Option<TcpListener>> for Doors {
    fn from(endpoints: Option<TcpListener>) -> Self {
        Self {
            endpoints,
            ..Self::default()
        }
    }
}
