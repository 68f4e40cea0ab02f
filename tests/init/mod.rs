//! `init-postgresql` on a real server: making, repairing, restoring, refusing, and being interrupted.

mod elsewhere;
mod environment;
mod fresh;
mod healing;
mod interrupted;
mod orphans;
mod recovery;
mod refusals;
mod restore;
mod seal;
mod sockets;
mod start_failures;
