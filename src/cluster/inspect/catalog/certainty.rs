//! What may be concluded from a file that is missing, by the state that the cluster was left in.
//!
//! `facts/corruption.md` §2 has the table and its proof. Whatever is unsure is a warning: replay may still make or
//! remove the file, and a false alarm would send a whole cluster back to its last backup.

use super::Certainty;
use crate::cluster::inspect::maps::FIRST_NORMAL_OID;
use crate::pg::control_file::{ClusterState, ControlFile};
use crate::pg::heap::{Tuple, Visibility};
use crate::pg::{Oid, TimelineId};
use crate::plan::Severity;

/// How the cluster was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Stopped cleanly: every file is as the catalogs have it.
    Clean,
    /// A primary died: what was committed before the last checkpoint has its files.
    CrashedPrimary,
    /// Within a recovery, or nobody knows: the catalogs may be half replayed, and replay removes files at once.
    Replaying,
}

/// The rules that hold for one cluster.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    standing: Standing,
    /// The first transaction that the last checkpoint knows nothing of.
    next_xid: Option<u32>,
}

impl Rules {
    /// The rules for a cluster with this control file, if it could be read.
    pub(super) fn of(control: Option<&ControlFile>, has_backup_label: bool) -> Self {
        let next_xid = control.map(|control| low_half(control.next_xid));
        let standing = match control {
            Some(control) if !has_backup_label => standing(control),
            _ => Standing::Replaying,
        };
        Self { standing, next_xid }
    }

    /// Whether nothing is left to replay.
    pub(super) fn is_clean(&self) -> bool {
        self.standing == Standing::Clean
    }

    /// Of what a row of a catalog says.
    pub(super) fn of_row(&self, tuple: &Tuple<'_>, visibility: Visibility) -> Certainty {
        let is_older = self.next_xid.is_some_and(|next| precedes(tuple.xmin, next));
        let is_sure = match self.standing {
            Standing::Clean => true,
            Standing::CrashedPrimary => is_older,
            Standing::Replaying => false,
        };
        if is_sure && visibility == Visibility::Live { Certainty::Sure } else { Certainty::Unsure }
    }

    /// Of a file that a relation map names. One with a number from before the first user object can only be
    /// initdb's own, and is never made by replay.
    pub(super) fn of_mapped(&self, relfilenode: Oid) -> Certainty {
        if self.is_clean() || relfilenode.0 < FIRST_NORMAL_OID { Certainty::Sure } else { Certainty::Unsure }
    }

    /// Of something that only holds once nothing is left to replay.
    pub(super) fn when_clean(&self) -> Certainty {
        if self.is_clean() { Certainty::Sure } else { Certainty::Unsure }
    }
}

impl Certainty {
    /// The severity of a finding that rests on this.
    pub(super) fn severity(self) -> Severity {
        match self {
            Self::Sure => Severity::Error,
            Self::Unsure => Severity::Warning,
        }
    }

    /// Both must be sure.
    pub(super) fn and(self, other: Self) -> Self {
        if self == Self::Sure { other } else { self }
    }
}

fn standing(control: &ControlFile) -> Standing {
    // A standby that was promoted and died before its first checkpoint has the state of a primary, and files as
    // replay left them.
    let was_just_promoted = control.timeline > TimelineId(1) && control.previous_timeline != control.timeline;
    match control.state {
        ClusterState::ShutDown => Standing::Clean,
        ClusterState::InProduction | ClusterState::ShuttingDown if !was_just_promoted => {
            Standing::CrashedPrimary
        }
        _ => Standing::Replaying,
    }
}

/// The transaction id without its epoch, as rows have it.
pub(in crate::cluster::inspect) fn low_half(full_xid: u64) -> u32 {
    u32::try_from(full_xid & 0xFFFF_FFFF).unwrap_or_default()
}

/// Whether a transaction id comes before another, where the ids begin again (transam.c, `TransactionIdPrecedes()`).
pub(in crate::cluster::inspect) fn precedes(xid: u32, other: u32) -> bool {
    const FIRST_NORMAL_XID: u32 = 3;
    if xid < FIRST_NORMAL_XID || other < FIRST_NORMAL_XID {
        return xid < other;
    }
    other.wrapping_sub(xid).wrapping_sub(1) < u32::MAX / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transaction_ids_begin_again() {
        assert!(precedes(1, 3) && precedes(700, 701) && !precedes(701, 701) && !precedes(702, 701));
        assert!(precedes(u32::MAX - 5, 10) && !precedes(10, u32::MAX - 5));
    }

    #[test]
    fn without_a_control_file_nothing_but_initdbs_own_is_sure() {
        let rules = Rules::of(None, false);
        assert!(!rules.is_clean());
        assert_eq!(rules.of_mapped(Oid(2671)), Certainty::Sure);
        assert_eq!(rules.of_mapped(Oid(16_400)), Certainty::Unsure);
        assert_eq!(rules.when_clean(), Certainty::Unsure);
    }
}
