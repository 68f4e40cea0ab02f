//! `init-postgresql` on a real server: making, repairing, restoring, refusing, and being interrupted.

mod another_container;
mod branches;
mod configuration;
mod directories;
mod docker_library;
mod elsewhere;
mod emptied;
mod environment;
mod fresh;
mod healing;
mod interrupted;
mod libraries;
mod locales;
mod orphans;
mod ownership;
mod prepared;
mod recovery;
mod refusals;
mod restore;
mod scripts;
mod seal;
mod sockets;
mod start_failures;
mod status;
mod wal_disk;
