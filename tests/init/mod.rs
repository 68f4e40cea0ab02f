//! `init-postgresql` on a real server: making, repairing, restoring, refusing, and being interrupted.

mod fresh;
mod interrupted;
mod recovery;
mod refusals;
mod restore;
