//! The WAL that makes an imported backup whole, read record by record.
//!
//! Where a backup ends is told by the record that `pg_backup_stop()` writes; with it, all WAL from the start is there
//! and whole. A number in a file beside it would prove nothing.

use crate::error::{Failure, Kind};
use crate::execute::backup_wal::BackupWal;
use crate::pg::backup_label::BackupLabel;
use crate::pg::control_file::ControlFile;
use crate::pg::layout::RelationFile;
use crate::pg::wal::{BlockReference, RelationLocator, WalFault, WalFileName, WalGeometry, WalReader};
use crate::pg::{BlockNumber, Lsn, Oid};
use crate::plan::DamagedPage;
use crate::repository::BackupReader;
use std::collections::HashMap;

/// `RM_XLOG_ID` and `XLOG_BACKUP_END` (`pg_control.h`).
const BACKUP_END: (u8, u8) = (0, 0x50);

/// A block, as WAL records name it.
type Block = (RelationLocator, crate::pg::layout::Fork, BlockNumber);

/// What the WAL told.
pub(super) struct WalFacts {
    /// Where the backup becomes consistent.
    pub(super) stop_lsn: Lsn,
    /// When its checkpoint was made, in seconds since the epoch.
    pub(super) checkpoint_time: Option<i64>,
    /// The pages that stay damaged when the WAL is replayed.
    pub(super) damaged_pages: Vec<DamagedPage>,
}

/// Reads the WAL from the start of a backup to its end.
///
/// A page that was copied while the server wrote it is no damage if the first record about it has it whole: replay
/// does not read what was there.
pub(super) fn follow_wal(
    reader: &BackupReader,
    control: &ControlFile,
    label: &BackupLabel,
    damaged_pages: Vec<DamagedPage>,
) -> anyhow::Result<WalFacts> {
    let geometry = WalGeometry {
        major: control.major_version(),
        system_identifier: control.system_identifier,
        segment_size_bytes: control.wal_segment_size,
        block_size_bytes: control.wal_block_size,
    };
    let start = label.start_wal_location;
    let segment = WalFileName::containing(start, label.start_timeline, control.wal_segment_size)?;
    let mut failure = None;
    let source = BackupWal { reader, segment, failure: &mut failure };
    let followed = follow_records(WalReader::new(source, geometry, start), label, damaged_pages);
    match (followed, failure) {
        (Ok(facts), _) => Ok(facts),
        (Err(_), Some(failure)) => Err(anyhow::Error::new(failure).context("read back the WAL")),
        (Err(fault), None) => Err(incomplete(&fault).into()),
    }
}

fn follow_records(
    mut wal: WalReader<BackupWal>,
    label: &BackupLabel,
    damaged_pages: Vec<DamagedPage>,
) -> Result<WalFacts, WalFault> {
    let start = label.start_wal_location;
    let mut suspects: HashMap<Block, Option<bool>> =
        damaged_pages.iter().filter_map(block_of).map(|block| (block, None)).collect();
    let mut checkpoint_time = None;
    loop {
        let record = wal.next_record()?;
        if record.start == label.checkpoint_location
            && let Some(crate::pg::wal::WalEvent::Checkpoint(checkpoint)) = record.event()
        {
            checkpoint_time = Some(checkpoint.time());
        }
        if suspects.is_empty() && !record.is(BACKUP_END.0, BACKUP_END.1) {
            continue;
        }
        let Some(body) = record.body() else { continue };
        for reference in &body.blocks {
            note(&mut suspects, reference);
        }
        let begun_at = body.main_data.first_chunk().map(|bytes| Lsn(u64::from_le_bytes(*bytes)));
        if record.is(BACKUP_END.0, BACKUP_END.1) && begun_at == Some(start) {
            let stop_lsn = record.end;
            let is_healed = |page: &DamagedPage| {
                block_of(page).and_then(|block| suspects.get(&block).copied().flatten()) == Some(true)
            };
            let damaged_pages = damaged_pages.into_iter().filter(|page| !is_healed(page)).collect();
            return Ok(WalFacts { stop_lsn, checkpoint_time, damaged_pages });
        }
    }
}

fn incomplete(fault: &WalFault) -> Failure {
    let message = format!("cannot import it: the WAL that makes it consistent is not whole in it: {fault}");
    Failure::new(Kind::Refused, message).hint(
        "make it with `pg_basebackup --wal-method=stream` (or fetch), and import the directory that has pg_wal.tar, \
         too; nothing was imported",
    )
}

/// Only the first record about a page counts: one that needs what was there fails on a damaged one.
fn note(suspects: &mut HashMap<Block, Option<bool>>, reference: &BlockReference) {
    if let Some(verdict @ None) = suspects.get_mut(&(reference.relation, reference.fork, reference.block)) {
        *verdict = Some(reference.restore.is_complete());
    }
}

fn block_of(page: &DamagedPage) -> Option<Block> {
    let (directory, name) = page.file.rsplit_once('/')?;
    let file = RelationFile::parse(name)?;
    let number = |text: &str| text.parse().ok().map(Oid);
    let (tablespace, database) = match directory.split('/').collect::<Vec<_>>().as_slice() {
        ["global"] => (Oid::GLOBAL_TABLESPACE, Oid(0)),
        ["base", database] => (Oid::DEFAULT_TABLESPACE, number(database)?),
        ["pg_tblspc", tablespace, _, database] => (number(tablespace)?, number(database)?),
        _ => return None,
    };
    Some((RelationLocator { tablespace, database, relfilenode: file.relfilenode }, file.fork, page.block))
}
