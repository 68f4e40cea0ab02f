//! A cluster as it stands: what its directory says without a server, and the server that runs in it.

pub mod binaries;
pub mod configuration;
pub mod control_file;
pub mod history;
pub mod initdb;
pub mod inspect;
pub mod own_archiving;
pub mod own_settings;
pub mod readiness;
pub mod seal;
pub(crate) mod served;
pub mod server;
pub mod session;
pub mod setup;
pub(crate) mod tree;
pub mod wal_gap;

pub use inspect::{Expectations, inspect};
