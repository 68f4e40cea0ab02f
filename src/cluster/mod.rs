//! A cluster as it stands: what its directory says without a server, and the server that runs in it.

pub mod binaries;
pub mod configuration;
pub mod configuration_files;
pub mod control_file;
pub(crate) mod elsewhere;
pub mod history;
pub mod initdb;
pub mod inspect;
pub(crate) mod known_locales;
pub mod last_failure;
pub(crate) mod lineage;
pub mod own_archiving;
pub mod own_settings;
pub mod ownership;
pub mod readiness;
pub mod scram;
pub mod seal;
pub(crate) mod served;
pub mod server;
pub mod server_configuration;
mod server_sockets;
pub mod server_stop;
pub mod session;
pub mod setup;
pub mod standby;
mod start_progress;
mod system_print;
pub(crate) mod tree;
mod unsynced;
pub mod usable_configuration;
pub mod user_name;
pub mod wal_gap;
pub(crate) mod wal_reset;

pub use inspect::{Expectations, inspect};
