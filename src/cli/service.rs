//! A worker that is started again when a command asks for it. Its sockets stay open meanwhile.

use std::net::TcpListener;
use std::sync::Arc;

use anyhow::Context;

use huddle_firehose::admin::control::ControlSocket;
use huddle_firehose::admin::tokens::TokenFile;
use huddle_firehose::config::{Config, ListenAddress};
use huddle_firehose::store::sqlite::path_of;
use huddle_firehose::worker::{self, AdminDoor, Doors, Options, RunningWorker};

/// What a worker is started from.
pub(super) struct Service {
    options: Options,
    doors: Doors,
}

impl Service {
    /// Makes the control socket. The caller has the lock of the database.
    pub(super) fn new(
        config: &Config,
        endpoints: Option<TcpListener>,
        admin: Option<AdminDoor>,
    ) -> anyhow::Result<Self> {
        let database = path_of(&config.database_url)?;
        Ok(Self {
            options: config.into(),
            doors: Doors {
                endpoints,
                control: Some(ControlSocket::bind(&database)?),
                admin,
            },
        })
    }

    pub(super) async fn start(&self) -> anyhow::Result<RunningWorker> {
        let doors = self.doors.try_clone()?;
        Ok(worker::start(self.options.clone(), doors).await?)
    }
}

/// Listens on the address of a setting, so that a port in use is reported at once.
pub(super) fn listen(setting: &str, address: &ListenAddress) -> anyhow::Result<TcpListener> {
    let listener = address
        .bind()
        .with_context(|| format!("{setting}: cannot listen on {address}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The address on which commands are taken, if there is one.
pub(super) fn admin_door(config: &Config) -> anyhow::Result<Option<AdminDoor>> {
    let (Some(address), Some(tokens)) = (&config.admin_listen, &config.admin_tokens_file) else {
        return Ok(None);
    };
    let tokens = TokenFile::open(tokens).context("admin_tokens_file")?;
    Ok(Some(AdminDoor {
        listener: listen("admin_listen", address)?,
        tokens: Arc::new(tokens),
    }))
}
