//! That somebody ran `pg_resetwal` on a cluster, and what it left that would otherwise count as damage. Plain data.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::pg::{Lsn, SystemIdentifier};

/// The traces of a `pg_resetwal`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalReset {
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// The checkpoint record with which its WAL begins since.
    pub checkpoint: Lsn,
    /// The files of `pg_xact` that were shorter than the next transaction number asks for, with their sizes. With `-x`,
    /// numbers are passed over that no transaction ever had, and their status is in no file.
    pub short: BTreeMap<String, u64>,
    /// The first file of `pg_xact` that was there. Before 15, `-x` sets the oldest number far back, to have all tables
    /// vacuumed soon, where no file ever was.
    pub first: Option<String>,
}
