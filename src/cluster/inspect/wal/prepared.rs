//! What the WAL that is kept says of prepared transactions: which were prepared and have not ended.

use super::WalDirectory;
use crate::cluster::inspect::catalog::low_half;
use crate::pg::Lsn;
use crate::pg::two_phase::PreparedTransaction;
use crate::pg::wal::{Checkpoint, WalEvent, WalMoment, WalRecord};
use std::collections::{BTreeMap, BTreeSet};

/// What the WAL says of the transactions that were asked for.
#[derive(Debug, Default)]
pub(in crate::cluster::inspect) struct PreparedInWal {
    /// The state data of those that were prepared before the redo point and have not ended, by their numbers.
    pub(in crate::cluster::inspect) states: BTreeMap<u32, Vec<u8>>,
    /// The subtransactions of those.
    subtransactions: BTreeSet<u32>,
    /// Those that replay ends, or prepares by itself.
    replayed: BTreeSet<u32>,
    /// From this number on, with its epoch, every transaction that was prepared has its record in this WAL.
    known_from: Option<u64>,
    /// Before this number none was running, nor prepared, when the last checkpoint said so.
    active_from: Option<u32>,
}

impl PreparedInWal {
    /// Reads the WAL from the oldest record that is left to its end, for a server that will replay from `redo`.
    ///
    /// What was prepared after the redo point needs no file: replay prepares it again (twophase.c,
    /// `PrepareRedoAdd()`). Of what ends after it replay needs none either (xact.c, `xact_redo()`).
    pub(in crate::cluster::inspect) fn read(wal: &WalDirectory, redo: Lsn, wanted: &BTreeSet<u32>) -> Self {
        let mut found = Self::default();
        let oldest = wal.oldest_before(redo);
        let Some(mut reader) = oldest.and_then(|oldest| wal.reader_from(oldest).ok()) else { return found };
        let from = reader.position();
        while let Ok(record) = reader.next_record() {
            if let Some(WalEvent::Checkpoint(checkpoint)) = record.event() {
                found.note_checkpoint(&checkpoint, from);
            }
            found.note_prepared(&record, redo, wanted);
            if record.start >= redo
                && let Some(WalMoment::TransactionEnd { xid, .. }) = record.moment()
                && wanted.contains(&xid)
            {
                found.replayed.insert(xid);
            }
        }
        let Self { states, replayed, .. } = &mut found;
        states.retain(|xid, _| !replayed.contains(xid));
        found
    }

    /// A checkpoint reads the next number after its redo point is fixed, so that whatever is prepared under a later
    /// number has its record after that (xlog.c, `CreateCheckPoint()`).
    fn note_checkpoint(&mut self, checkpoint: &Checkpoint, from: Lsn) {
        if checkpoint.redo() >= from && self.known_from.is_none() {
            self.known_from = Some(checkpoint.next_xid());
        }
        self.active_from = checkpoint.oldest_active_xid().or(self.active_from);
    }

    fn note_prepared(&mut self, record: &WalRecord<'_>, redo: Lsn, wanted: &BTreeSet<u32>) {
        let Some(state) = record.prepared_state() else { return };
        let Some(transaction) = PreparedTransaction::of_state(state, record.major()) else { return };
        if !wanted.contains(&transaction.xid) {
            return;
        }
        if record.start >= redo {
            self.replayed.insert(transaction.xid);
            self.replayed.extend(transaction.subtransactions);
        } else {
            self.states.insert(transaction.xid, state.to_vec());
            self.subtransactions.extend(transaction.subtransactions);
        }
    }

    /// Those of some transactions of which it is not known whether they were prepared. `next_xid` is the next number,
    /// with its epoch, which all of them precede.
    pub(in crate::cluster::inspect) fn undecided(&self, candidates: &BTreeSet<u32>, next_xid: u64) -> usize {
        let behind = |xid: u32| low_half(next_xid).wrapping_sub(xid);
        let is_known = |xid: u32| {
            self.known_from.is_some_and(|from| next_xid.saturating_sub(from) >= u64::from(behind(xid)))
        };
        let is_over = |xid: u32| self.active_from.is_some_and(|active| behind(active) < behind(xid));
        let is_decided = |xid: &u32| {
            self.states.contains_key(xid)
                || self.subtransactions.contains(xid)
                || self.replayed.contains(xid)
                || is_known(*xid)
                || is_over(*xid)
        };
        candidates.iter().filter(|xid| !is_decided(xid)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_wal_goes_back_to_and_what_was_over_by_a_checkpoint_is_decided() {
        let next = (1_u64 << 32) + 5;
        let candidates = BTreeSet::from([u32::MAX - 9, u32::MAX - 1, 3]);
        let found = |known_from, active_from| {
            let found = PreparedInWal { known_from, active_from, ..PreparedInWal::default() };
            found.undecided(&candidates, next)
        };

        assert_eq!(found(None, None), 3);
        assert_eq!(found(Some(next), None), 3, "nothing was made since");
        assert_eq!(found(Some(next - 7), None), 1, "from MAX - 1 on");
        assert_eq!(found(Some(100), None), 0);
        assert_eq!(found(None, Some(3)), 1, "the one that was active");
        assert_eq!(found(None, Some(4)), 0);
    }

    #[test]
    fn what_was_prepared_or_is_replayed_is_decided() {
        let found = PreparedInWal {
            states: BTreeMap::from([(10, Vec::new())]),
            subtransactions: BTreeSet::from([11]),
            replayed: BTreeSet::from([12]),
            ..PreparedInWal::default()
        };
        assert_eq!(found.undecided(&BTreeSet::from([10, 11, 12, 13]), 20), 1);
    }
}
