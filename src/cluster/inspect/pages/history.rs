//! What the WAL that is still there says about single pages.

use crate::cluster::inspect::wal::{FoundCheckpoint, WalDirectory, WalTouches, find_checkpoints};
use crate::pg::control_file::ControlFile;
use crate::pg::layout::Fork;
use crate::pg::wal::{RelationLocator, WalFileName};
use crate::pg::{BlockNumber, Lsn};

/// A page, as WAL records name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cluster::inspect) struct PageReference {
    /// Tablespace, database and file number.
    pub(in crate::cluster::inspect) relation: RelationLocator,
    /// The fork.
    pub(in crate::cluster::inspect) fork: Fork,
    /// Counted over the relation.
    pub(in crate::cluster::inspect) block: BlockNumber,
}

/// The WAL, as far as pages are concerned.
#[derive(Debug, Default)]
pub(in crate::cluster::inspect) struct PageHistory {
    wal: Option<WalDirectory>,
    last_checkpoint: Lsn,
    /// After a crash what replay will touch; after a clean stop what was touched, as far back as there is WAL.
    touches: Option<WalTouches>,
}

impl PageHistory {
    /// Of a crashed cluster: reads the WAL from the redo point on.
    pub(in crate::cluster::inspect) fn to_be_replayed(wal: WalDirectory, control: &ControlFile) -> Self {
        let touches = WalTouches::from_record(&wal, control.redo);
        // Where not even the first record is there, that is what is wrong, and nothing follows for the pages.
        let touches = (touches.end > control.redo).then_some(touches);
        Self { wal: Some(wal), last_checkpoint: control.checkpoint, touches }
    }

    /// Of a cluster that was stopped cleanly: reads all WAL that was kept.
    pub(in crate::cluster::inspect) fn of_all(wal: WalDirectory, control: &ControlFile) -> Self {
        let touches = WalTouches::of_retained(&wal, control.checkpoint);
        Self { wal: Some(wal), last_checkpoint: control.checkpoint, touches }
    }

    /// What the WAL touches; `None` where there is none to be read.
    pub(super) fn touches(&self) -> Option<&WalTouches> {
        self.touches.as_ref()
    }

    /// The end of the last record that changed the page, where the page has been there since.
    pub(in crate::cluster::inspect) fn last_change(&self, page: &PageReference) -> Option<Lsn> {
        let touches = self.touches.as_ref()?;
        let touch = touches.touch(page.relation, page.fork, page.block)?;
        let is_known = touch.last_end.is_valid() && !touches.is_gone(page.relation, page.fork, page.block);
        is_known.then_some(touch.last_end)
    }

    /// The pages of a relation from a block on that the WAL knows of, and that were not removed since.
    pub(in crate::cluster::inspect) fn pages_from(
        &self,
        relation: RelationLocator,
        first: u32,
    ) -> Vec<PageReference> {
        let Some(touches) = &self.touches else { return Vec::new() };
        let is_there =
            |block: &BlockNumber| block.0 >= first && !touches.is_gone(relation, Fork::Main, *block);
        let blocks = touches.blocks_of(relation).filter(is_there);
        blocks.map(|block| PageReference { relation, fork: Fork::Main, block }).collect()
    }

    /// Whether the replay that comes anyway writes the page anew before it reads it, or removes it unread.
    pub(in crate::cluster::inspect) fn is_healed_by_replay(&self, page: &PageReference) -> bool {
        let Some(touches) = &self.touches else { return false };
        match touches.touch(page.relation, page.fork, page.block) {
            Some(touch) => touch.first_is_complete,
            None => touches.is_gone(page.relation, page.fork, page.block),
        }
    }

    /// Whether a page of which the WAL says nothing is surely not in it.
    pub(in crate::cluster::inspect) fn is_complete(&self) -> bool {
        self.touches.as_ref().is_some_and(|touches| touches.is_complete)
    }

    /// For each group of pages an older checkpoint from which replay would write all of them anew, and may begin:
    /// the newest that serves all groups, else for each the newest that serves it.
    ///
    /// The WAL is read once for each checkpoint, however many groups there are.
    pub(in crate::cluster::inspect) fn checkpoints_before(
        &self,
        groups: &[Vec<PageReference>],
    ) -> Vec<Option<Lsn>> {
        let mut newest = vec![None; groups.len()];
        let Some(wal) = self.wal.as_ref().filter(|_| !groups.is_empty()) else { return newest };
        let oldest = wal.oldest_before(self.last_checkpoint).map(WalFileName::start_lsn);
        for found in find_checkpoints(wal, self.last_checkpoint).into_iter().rev() {
            let redo = found.checkpoint.redo();
            if found.lsn >= self.last_checkpoint || oldest.is_none_or(|oldest| redo < oldest) {
                continue;
            }
            let touches = WalTouches::from_record(wal, redo);
            if touches.end <= self.last_checkpoint || !touches.obstacles.is_empty() {
                // What forbids this one lies before every older one's end, too.
                break;
            }
            let is_healed = |page: &PageReference| {
                let touch = touches.touch(page.relation, page.fork, page.block);
                touch.is_some_and(|touch| touch.first_is_complete)
            };
            let serves: Vec<bool> = groups.iter().map(|pages| pages.iter().all(is_healed)).collect();
            if serves.iter().all(|serves| *serves) {
                return vec![Some(found.lsn); groups.len()];
            }
            for (newest, serves) in newest.iter_mut().zip(serves) {
                if serves {
                    newest.get_or_insert(found.lsn);
                }
            }
        }
        newest
    }
}

/// The newest checkpoint, older than the last, from which a replay may begin and makes a relation that was made at
/// `created` all anew.
pub(in crate::cluster::inspect) fn checkpoint_before_creation(
    wal: &WalDirectory,
    last: Lsn,
    created: Lsn,
) -> Option<Lsn> {
    let oldest = wal.oldest_before(last)?.start_lsn();
    let is_before = |found: &FoundCheckpoint| {
        let redo = found.checkpoint.redo();
        found.lsn < last && redo <= created && redo >= oldest
    };
    let found = find_checkpoints(wal, last).into_iter().rev().find(is_before)?;
    let touches = WalTouches::from_record(wal, found.checkpoint.redo());
    (touches.end > last && touches.obstacles.is_empty()).then_some(found.lsn)
}
