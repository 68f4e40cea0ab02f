//! The WAL that recovery needs: whether it is there and whole, and what it says.
//!
//! It is read before every start, so only from the redo point on; all of it is read only where something else is
//! already known to be wrong.

mod chain;
mod checkpoints;
mod control;
mod files;
mod prepared;
mod touches;

pub(super) use chain::WalState;
pub(crate) use chain::{find_end, find_last_known};
pub(crate) use checkpoints::{
    FoundCheckpoint, MapHistory, find_checkpoint_at, find_checkpoints, map_history,
};
pub(crate) use files::{WalDirectory, WalFiles};
pub(super) use prepared::PreparedInWal;
pub(crate) use touches::WalTouches;
