//! A cluster as it stands: what its directory says without a server, and the server that runs in it.

pub mod binaries;
pub mod configuration;
pub mod control_file;
pub(crate) mod elsewhere;
pub mod history;
pub mod initdb;
pub mod inspect;
pub mod last_failure;
pub mod own_archiving;
pub mod own_settings;
pub mod readiness;
pub mod seal;
pub mod server;
mod server_sockets;
pub mod session;
pub mod setup;
pub(crate) mod tree;
pub mod wal_gap;

pub use inspect::{Expectations, inspect};
