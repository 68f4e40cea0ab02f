//! `init-postgresql` on a real server: making, repairing, restoring, refusing, and being interrupted.

mod directories;
mod emptied;
mod environment;
mod fresh;
mod healing;
mod interrupted;
mod orphans;
mod prepared;
mod recovery;
mod refusals;
mod restore;
mod seal;
