//! What is in `pg_xact` and `pg_multixact`, which have no checksums: whether it is what the server wrote.
//!
//! The seal of the last stop has a hash of each file. Where there is none, after a crash or a stop by other means,
//! the WAL before the redo point is the witness: each commit, each rollback and each multixact in it was written to
//! these files by the checkpoint (xlog.c, `CheckPointGuts()`). A page of zeros is held against the rows, which note
//! themselves that their transaction committed. What is neither sealed nor in the WAL any more, the newest backup of the
//! cluster's past may know; whoever has the repository asks it.
//!
//! Nothing else is called damage: transactions that the end of a server cut short have the status 0 for ever, and
//! `pg_resetwal -x` leaves pages of zeros.

mod files;
mod former;
mod repair;
mod rows;
mod wal;
mod zeros;

use super::wal::WalDirectory;
use super::{Inspection, StatusWitness};
use crate::pg::control_file::ControlFile;
use crate::plan::{Finding, Remedy, Severity};

pub(crate) use former::{Contradiction, FormerFiles, FormerState, contradictions};
pub(crate) use repair::StatusUpdate;
pub(super) use rows::{RowHints, RowTally, ToBeReplayed};

/// The findings of this folder: transactions, and multixacts.
const STATUS_WRONG: &str = "transaction-status-wrong";
const MULTIXACT_WRONG: &str = "multixact-wrong";

impl Inspection<'_> {
    /// Checks the content of the status files, and looks for a repair of what the seal found changed.
    pub(super) fn check_status_content(&mut self, tree: &super::FileTree) {
        let Some(control) = self.control.clone() else { return };
        if !self.has_wal_of_its_own() || self.was_just_promoted(&control) {
            return;
        }
        let Some(wal) = WalDirectory::of_cluster(self.root, &control) else { return };
        if !self.changed_status.is_empty() {
            self.repair_changed_status(&wal, &control);
        } else if self.status_witness != StatusWitness::Seal {
            self.status_witness = StatusWitness::Backups;
            self.check_status_by_wal(&wal, &control);
            self.check_pages_of_zeros(&wal, &control, tree);
        }
    }

    /// A standby that was promoted and died before its first checkpoint: its files are as replay left them.
    fn was_just_promoted(&self, control: &ControlFile) -> bool {
        !self.is_clean() && control.previous_timeline != control.timeline
    }

    /// Puts proven contents in the place of changed files, where the WAL has all that is wrong with them.
    fn repair_changed_status(&mut self, wal: &WalDirectory, control: &ControlFile) {
        let changed = std::mem::take(&mut self.changed_status);
        for (place, sealed) in &changed {
            let content = repair::proven_content(self.root, wal, control, (place, *sealed));
            let Some(content) = content else { continue };
            let about_it =
                |finding: &&mut Finding| finding.place == *place && finding.remedy == Remedy::Replace;
            for finding in self.findings.iter_mut().filter(about_it) {
                finding.severity = Severity::Warning;
                finding.remedy = Remedy::WriteFile(content.clone());
            }
        }
        self.changed_status = changed;
    }
}
