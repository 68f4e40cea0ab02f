//! Stores a directory in which no server runs, as it is: one that was found damaged, or that a restore replaced.
//!
//! It is evidence and last resort, so nothing is left out and nothing judged. What cannot be read is set down in the
//! note, and does not keep the rest from being stored.

use std::collections::HashSet;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use chrono::{DateTime, Utc};

use super::copying::{Copied, Copier};
use super::former::Former;
use super::listing::{Listing, Rules};
use super::worker_pool;
use crate::cluster::control_file;
use crate::cluster::wal_gap::{self, WalGap};
use crate::pg::control_file::ControlFile;
use crate::pg::wal::WalFileName;
use crate::pg::{Lsn, version};
use crate::plan::{BackupFormat, BackupName, BackupSummary};
use crate::progress::Progress;
use crate::repository::{Repository, TableHeader};
use crate::sys::ReadRoot;

/// How many unreadable files the note names.
const NAMED_UNREADABLE: usize = 20;

/// Where the server notes which segments it need not archive any more.
const ARCHIVE_STATUS: &str = "pg_wal/archive_status/";

/// More than a checkpoint record takes, with the page headers in it.
const CHECKPOINT_RECORD_BYTES: u64 = 512;

/// What is to be said of a directory that is stored.
#[derive(Clone, Debug)]
pub struct ColdOptions {
    /// What it is to be called: `damaged_…` or `replaced_…`. The next name of the same second is taken when there is
    /// one already.
    pub name: BackupName,
    /// When it was set aside.
    pub time: DateTime<Utc>,
    /// Why.
    pub note: Option<String>,
}

/// A directory that was stored.
#[derive(Clone, Debug)]
pub struct Stored {
    /// What it is in the repository.
    pub summary: BackupSummary,
    /// What could not be read, and why: of this, the directory still has the only copy.
    pub unreadable: Vec<String>,
}

/// What need not be read of a directory, or need not be stored, since more is known of it.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::execute) struct Shortcuts<'a> {
    /// A former backup, whose files are taken over where size and time say that they are still the same. Never for a
    /// cluster that may be damaged: what went bad keeps its size and its time.
    pub(in crate::execute) known: Option<&'a Former<'a>>,
    /// The control file of a clean stop, after which nothing has to be replayed.
    pub(in crate::execute) stop: Option<&'a ControlFile>,
}

/// Stores a directory in which no server runs. When this returns, it is in the repository, whole, but for what is
/// told, and named in its note, as unreadable.
pub fn create_cold(
    directory: &ReadRoot,
    repository: &Repository,
    options: &ColdOptions,
    progress: &dyn Progress,
) -> anyhow::Result<Stored> {
    create_cold_by(directory, repository, options, Shortcuts::default(), progress)
}

/// [`create_cold`] of a directory of which more is known.
pub(in crate::execute) fn create_cold_by(
    directory: &ReadRoot,
    repository: &Repository,
    options: &ColdOptions,
    shortcuts: Shortcuts,
    progress: &dyn Progress,
) -> anyhow::Result<Stored> {
    let writer = repository.begin(options.name).context("begin a backup")?;
    let pool = worker_pool(None)?;
    let mut listing = Listing::read(directory, Rules::Cold).context("list the directory")?;
    if let Some(stop) = shortcuts.stop {
        let gap = wal_gap::read(directory.path()).context("read the note of a gap in the WAL archive")?;
        leave_out_needless_wal(&mut listing, stop, gap.as_ref());
    }
    progress.begin("copying files", Some(listing.size_bytes()));
    let abort = AtomicBool::new(false);
    let copier = Copier {
        writer: &writer,
        listing: &listing,
        pages: None,
        known: shortcuts.known,
        rules: Rules::Cold,
        progress,
        abort: &abort,
    };
    let result = pool.install(|| copier.copy_all());
    progress.end();
    let Copied { entries, unreadable, reused_bytes, .. } = result?;
    let unreadable = [listing.unreadable.as_slice(), &unreadable].concat();
    let summary = BackupSummary {
        created_at: options.time,
        finished_at: Some(Utc::now()),
        note: note(options.note.as_deref(), &unreadable),
        reused_bytes,
        ..describe(directory, writer.name())
    };
    let header = TableHeader::new(listing.directory_mode, None);
    let summary = writer.finish(header, entries, summary).context("finish the backup")?;
    Ok(Stored { summary, unreadable })
}

/// Leaves out the WAL that a cleanly stopped cluster needs no more: segments after the one in which its last checkpoint
/// ends were renamed or made in advance (PostgreSQL: `InstallXLogFileSegment()` in xlog.c), and those before the redo
/// point are left out once they are archived. The server's own note is not enough for that: a segment that was given up
/// instead of archived has it, too, and is in the noted gap.
fn leave_out_needless_wal(listing: &mut Listing, stop: &ControlFile, gap: Option<&WalGap>) {
    let done = |path: &str| Some(path.strip_prefix(ARCHIVE_STATUS)?.strip_suffix(".done")?.to_owned());
    let is_given_up = |name: &str| gap.is_some_and(|gap| gap.covers(name));
    let archived: HashSet<String> =
        listing.items.iter().filter_map(|item| done(item.path.as_str())).collect();
    let is_archived_and_past = |name: &str| {
        let segment = WalFileName::parse(name, stop.wal_segment_size).ok();
        let end = |segment: WalFileName| segment.start_lsn().0.saturating_add(stop.wal_segment_size.into());
        archived.contains(name)
            && !is_given_up(name)
            && segment.is_some_and(|segment| end(segment) <= stop.redo.0)
    };
    listing.items.retain(|item| {
        let path = item.path.as_str();
        let name = path.strip_prefix("pg_wal/").unwrap_or_default();
        let noted = done(path).unwrap_or_default();
        !is_made_in_advance(name, stop) && !is_archived_and_past(name) && !is_archived_and_past(&noted)
    });
}

fn is_made_in_advance(name: &str, stop: &ControlFile) -> bool {
    let Ok(segment) = WalFileName::parse(name, stop.wal_segment_size) else { return false };
    let end = Lsn(stop.checkpoint.0.saturating_add(CHECKPOINT_RECORD_BYTES));
    let last = WalFileName::containing(end, stop.timeline, stop.wal_segment_size);
    last.is_ok_and(|last| segment.timeline == stop.timeline && segment.segment_number > last.segment_number)
}

/// What can be told of a cluster that may be damaged in any way.
fn describe(directory: &ReadRoot, name: BackupName) -> BackupSummary {
    let mut summary = BackupSummary::unknown(name, BackupFormat::Chunked);
    let version = directory.read_text("PG_VERSION", 64).ok().flatten();
    summary.major_version = version.and_then(|text| version::parse(&text).ok());
    if let Ok(control) = control_file::read(directory) {
        summary.system_identifier = Some(control.system_identifier);
        summary.major_version = Some(control.major_version());
        summary.timeline = Some(control.timeline);
        summary.checkpoint_lsn = Some(control.checkpoint);
        summary.wal_segment_size_bytes = Some(control.wal_segment_size);
    }
    summary
}

fn note(given: Option<&str>, unreadable: &[String]) -> Option<String> {
    if unreadable.is_empty() {
        return given.map(str::to_owned);
    }
    let named: Vec<&str> = unreadable.iter().take(NAMED_UNREADABLE).map(String::as_str).collect();
    let more = unreadable.len().saturating_sub(NAMED_UNREADABLE);
    let more = if more == 0 { String::new() } else { format!("; and {more} more") };
    let unreadable = format!("could not be read: {}{more}", named.join("; "));
    Some(given.map_or_else(|| unreadable.clone(), |given| format!("{given}; {unreadable}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_segment_that_was_given_up_is_stored_though_the_server_calls_it_archived() {
        // Two segments before the redo point. The server needs to archive neither; one of them never was.
        let data = tempfile::tempdir().unwrap();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/postgres/15/pg_control");
        let control = ControlFile::parse(&fs::read(path).unwrap()).unwrap();
        let lsn = Lsn(3 * u64::from(control.wal_segment_size));
        let stop = ControlFile { redo: lsn, checkpoint: lsn, ..control };
        fs::create_dir_all(data.path().join("pg_wal/archive_status")).unwrap();
        let names = ["000000010000000000000001", "000000010000000000000002"];
        for name in names {
            fs::write(data.path().join("pg_wal").join(name), name).unwrap();
            fs::write(data.path().join(format!("{ARCHIVE_STATUS}{name}.done")), "").unwrap();
        }
        let gap = WalGap::with(None, names[1], lsn, "the disk was full", Utc::now());
        let mut listing = Listing::read(&ReadRoot::open(data.path()).unwrap(), Rules::Cold).unwrap();

        leave_out_needless_wal(&mut listing, &stop, Some(&gap));

        let left: Vec<&str> = listing.files().map(|item| item.path.as_str()).collect();
        assert_eq!(left, [format!("pg_wal/{}", names[1]), format!("{ARCHIVE_STATUS}{}.done", names[1])]);
    }
}
