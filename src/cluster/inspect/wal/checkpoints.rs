//! What is looked for in all of the WAL that is left: checkpoints, and the last relation map of a database.

use super::{WalDirectory, chain};
use crate::pg::layout::Fork;
use crate::pg::wal::{Checkpoint, WalEvent};
use crate::pg::{Lsn, Oid};
use std::collections::BTreeSet;

/// A checkpoint record in `pg_wal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FoundCheckpoint {
    /// Where its record begins.
    pub(crate) lsn: Lsn,
    /// Where its record ends.
    pub(crate) end: Lsn,
    /// What it says.
    pub(crate) checkpoint: Checkpoint,
}

/// Finds all checkpoints in the WAL that is left without a gap before `until` and after it, oldest first.
pub(crate) fn find_checkpoints(wal: &WalDirectory, until: Lsn) -> Vec<FoundCheckpoint> {
    let oldest = wal.oldest_before(until);
    let Some(mut reader) = oldest.and_then(|oldest| wal.reader_from(oldest).ok()) else { return Vec::new() };
    let mut found = Vec::new();
    while let Ok(record) = reader.next_record() {
        if let Some(WalEvent::Checkpoint(checkpoint)) = record.event() {
            found.push(FoundCheckpoint { lsn: record.start, end: record.end, checkpoint });
        }
    }
    found
}

/// Reads the checkpoint whose record begins at an LSN; `None` if there is no whole one.
pub(crate) fn find_checkpoint_at(wal: &WalDirectory, lsn: Lsn) -> Option<FoundCheckpoint> {
    let mut reader = wal.reader_at(lsn);
    let record = reader.next_record().ok()?;
    match record.event()? {
        WalEvent::Checkpoint(checkpoint) => Some(FoundCheckpoint { lsn, end: record.end, checkpoint }),
        _ => None,
    }
}

/// What the WAL that is left tells of the relation map of a database.
#[derive(Debug, Default)]
pub(crate) struct MapHistory {
    /// Where the record of the last map begins, and the map's file.
    pub(crate) last: Option<(Lsn, Vec<u8>)>,
    /// The files of the database that were made since, or at all where there is no map: they are in no map.
    pub(crate) made_since: BTreeSet<Oid>,
}

/// Reads what the WAL that is left tells of the relation map of a database (0 for the shared one).
///
/// # Errors
/// If the WAL is not whole from its oldest record to the end, so that a later map may be missing.
pub(crate) fn map_history(wal: &WalDirectory, redo: Lsn, database: Oid) -> Result<MapHistory, String> {
    let oldest = wal.oldest_before(redo).ok_or_else(|| format!("the WAL of {redo} is not there"))?;
    let mut reader = wal.reader_from(oldest).map_err(|fault| fault.to_string())?;
    let tablespace = if database == Oid(0) { Oid::GLOBAL_TABLESPACE } else { Oid::DEFAULT_TABLESPACE };
    let mut history = MapHistory::default();
    let fault = loop {
        match reader.next_record() {
            Ok(record) => match record.event() {
                Some(WalEvent::RelationMapUpdate { database: of, file, .. }) if of == database => {
                    history = MapHistory { last: Some((record.start, file)), made_since: BTreeSet::new() };
                }
                Some(WalEvent::RelationCreated { relation, fork: Fork::Main })
                    if (relation.database, relation.tablespace) == (database, tablespace) =>
                {
                    history.made_since.insert(relation.relfilenode);
                }
                _ => {}
            },
            Err(fault) => break fault,
        }
    };
    if reader.end().is_none_or(|end| end <= redo) || chain::wal_beyond(wal, &fault).is_some() {
        return Err(format!("the WAL is not whole: {fault}"));
    }
    Ok(history)
}
