//! The control socket: a Unix socket beside the database, on which the worker takes commands. Only the
//! user of the worker and root may connect.

pub mod client;
mod listener;
mod socket;

pub(super) use self::listener::ControlListener;
pub use self::socket::{ControlSocket, SocketError};
