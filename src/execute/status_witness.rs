//! Backups as witnesses of what the status files must hold, which have no checksums, and of how long a relation's file must be.
//!
//! Only a good backup of the present timeline counts that the data directory itself remembers: it was made since the last
//! restore, of this very history. And it must have ended before the redo point of the last checkpoint: whatever it
//! says was in the files of the cluster by then, with nothing left to replay.

use super::Tools;
use super::cut_files::{self, Comparison};
use super::joined_wal::JoinedWal;
use crate::cluster::inspect::status::{
    Contradiction, FormerFiles, FormerState, StatusUpdate, contradictions,
};
use crate::cluster::inspect::wal::WalDirectory;
use crate::cluster::{control_file, lineage};
use crate::pg::BlockNumber;
use crate::pg::control_file::ControlFile;
use crate::pg::slru;
use crate::pg::wal::WalReader;
use crate::plan::{
    BackupKind, BackupSummary, ClusterCondition, DamagedPage, Diagnosis, FileContent, Finding, Remedy,
};
use crate::repository::{BackupReader, CHUNK_SIZE_BYTES, EntryContent, Repository};
use crate::sys::ReadRoot;
use anyhow::Context;

/// Asks a backup where nothing in the data directory proves the status of transactions, and looks for a repair in place of
/// what is wrong. A repository that cannot be read adds nothing.
pub(super) fn ask_backups(tools: &Tools, diagnosis: &mut Diagnosis) {
    let is_judged = matches!(
        diagnosis.condition,
        ClusterCondition::Sound | ClusterCondition::Repairable | ClusterCondition::Damaged
    );
    let Ok(Some(repository)) = tools.repository() else { return };
    if !diagnosis.is_status_open || !is_judged || diagnosis.journal.is_some() {
        return;
    }
    if let Err(error) = ask(repository, diagnosis) {
        tools
            .progress
            .note(&format!("could not compare the status of transactions with the backups: {error:#}"));
    }
    diagnosis.findings.sort_by_key(|finding| finding.severity);
    diagnosis.condition = ClusterCondition::of_findings(&diagnosis.findings);
}

fn ask(repository: &Repository, diagnosis: &mut Diagnosis) -> anyhow::Result<()> {
    let root = ReadRoot::open(&diagnosis.data_directory).context("open the data directory")?;
    let control = control_file::read(&root).context("read the control file")?;
    let backups = repository.backups().context("list the backups")?;
    let Some(witness) = backups.iter().find(|backup| is_witness(backup, &root, &control)) else {
        return Ok(());
    };
    let _reading = repository.lock_shared("reading the status of transactions");
    let reader = repository.reader(witness.name).with_context(|| format!("open {}", witness.name))?;
    let name = witness.name.to_string();
    for found in contradictions_of(&root, &control, &reader) {
        let is_same = |finding: &Finding| finding.is_wrong_status() && finding.place == found.place();
        if !diagnosis.findings.iter().any(is_same) {
            diagnosis.findings.push(found.finding(&name));
        }
    }
    let comparison = Comparison { root: &root, control: &control, repository, former: &reader };
    for found in cut_files::findings(&comparison) {
        if !diagnosis.findings.iter().any(|finding| finding.place == found.place) {
            diagnosis.findings.push(found);
        }
    }
    let repair = Repair { repository, root: &root, control: &control, reader: &reader };
    for finding in &mut diagnosis.findings {
        if finding.is_wrong_status()
            && finding.remedy == Remedy::Replace
            && let Some(content) = repair.content_of(&finding.place)
        {
            finding.remedy = Remedy::WriteFile(content);
        }
    }
    Ok(())
}

/// Returns the pages of status files that a running cluster has otherwise than its former backup: they are damaged, and a
/// backup that has them is not good.
pub(super) fn damaged_pages(
    data: &ReadRoot,
    control: &ControlFile,
    former: &BackupReader,
) -> Vec<DamagedPage> {
    if !is_witness(former.summary(), data, control) {
        return Vec::new();
    }
    let name = former.summary().name.to_string();
    let of_file = |found: &Contradiction| {
        let page = |block: &u32| DamagedPage {
            file: found.place(),
            relation: None,
            block: BlockNumber(*block),
            problem: found.evidence(&name),
        };
        found.pages.iter().map(page).collect::<Vec<_>>()
    };
    contradictions_of(data, control, former).iter().flat_map(of_file).collect()
}

pub(super) fn is_witness(backup: &BackupSummary, root: &ReadRoot, control: &ControlFile) -> bool {
    backup.name.kind() == BackupKind::Backup
        && backup.is_good()
        && backup.system_identifier == Some(control.system_identifier)
        && backup.timeline == Some(control.timeline)
        && backup.stop_lsn.is_some_and(|stop| stop <= control.redo)
        && lineage::read(root).has(backup)
}

fn contradictions_of(root: &ReadRoot, control: &ControlFile, reader: &BackupReader) -> Vec<Contradiction> {
    let (Some(baseline), Some(start)) = (reader.header().baseline, reader.summary().start_lsn) else {
        return Vec::new();
    };
    let former = FormerState {
        next_xid: baseline.next_xid,
        next_multi: baseline.next_multi,
        wal_since_bytes: control.redo.0.saturating_sub(start.0),
    };
    contradictions(root, control, former, reader)
}

impl FormerFiles for BackupReader {
    fn is_same(&self, path: &str, bytes: &[u8]) -> bool {
        let Some(entry) = self.entry(path).filter(|entry| entry.size_bytes() == bytes.len() as u64) else {
            return false;
        };
        let EntryContent::File { chunks, .. } = &entry.content else { return false };
        chunks.load().is_ok_and(|chunks| {
            bytes.chunks(CHUNK_SIZE_BYTES).map(|piece| self.chunk_id(piece)).eq(chunks.iter().copied())
        })
    }

    fn read(&self, path: &str) -> Option<Vec<u8>> {
        self.read_file(path, slru::SEGMENT_BYTES).ok().flatten()
    }
}

/// The repair of one status file: what the backup has of it, with all that the WAL says since.
struct Repair<'a> {
    repository: &'a Repository,
    root: &'a ReadRoot,
    control: &'a ControlFile,
    reader: &'a BackupReader,
}

impl Repair<'_> {
    /// Returns the content that the file must have; `None` where the WAL does not reach from the backup to the redo point.
    fn content_of(&self, place: &str) -> Option<FileContent> {
        let control = self.control;
        let summary = self.reader.summary();
        let copy = match self.reader.entry(place) {
            Some(_) => self.reader.read(place)?,
            // It was begun since.
            None => Vec::new(),
        };
        let size_bytes = self.root.facts(place).ok()?.map_or(0, |facts| facts.size_bytes);
        let mut update = StatusUpdate::begin(place, control.major, copy, size_bytes)?;
        let wal = WalDirectory::of_cluster(self.root, control)?;
        let archive = self.repository.wal_archive(control.system_identifier);
        let source = JoinedWal::new(&wal, &archive, control.timeline);
        let mut reader = WalReader::new(source, wal.geometry, summary.start_lsn?);
        loop {
            let record = reader.next_record().ok()?;
            if record.start >= control.redo {
                break;
            }
            update.apply(&record);
        }
        let description = format!("of {}, with what the WAL has of it since", summary.name);
        Some(FileContent { description, bytes: update.finish() })
    }
}
