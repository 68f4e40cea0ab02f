//! Whether a cluster that was restored and recovered has every row that was committed in the one that it replaces.
//!
//! Before recovery nobody knows: a segment may not be there when it is fetched, a record in it may be damaged. So the
//! plan says what there is to replay, and only what recovery came to is measured, against the furthest place that the
//! replaced cluster is known to have reached. A commit is acknowledged once its record is on the disk (xact.c,
//! `RecordTransactionCommit()`), so that none is lost whose record was replayed.

use crate::cluster::control_file;
use crate::cluster::inspect::follow;
use crate::cluster::inspect::wal::{WalDirectory, find_last_known};
use crate::pg::control_file::{CONTROL_FILE, ControlFile};
use crate::pg::wal::WalFileName;
use crate::pg::{Lsn, timeline_history};
use crate::plan::Diagnosis;
use crate::plan::recovery::Replay;
use crate::plan::timelines::History;
use crate::sys::ReadRoot;

/// A history file has a line for each timeline.
const MOST_HISTORY_BYTES: u64 = 1 << 20;
/// What shows that the WAL once went further, without saying how far.
const BEYOND_THE_WAL: &str = "page-beyond-wal";

/// How far a cluster is known to have written WAL.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastKnown {
    /// The furthest place that something shows.
    pub(super) lsn: Lsn,
    /// Whether it is the end of a segment, and the file of the next is not there: it may have been, and be lost.
    may_be_more: bool,
}

/// Returns the furthest place that a diagnosed cluster is known to have written WAL to; `None` where nothing tells one.
///
/// It is asked while that cluster is in place.
pub(super) fn last_known_lsn(root: &ReadRoot, diagnosis: &Diagnosis) -> Option<LastKnown> {
    let believed = diagnosis.identity.control_crc;
    let control = control_file::read_at(root, CONTROL_FILE).ok().map(|(_, control)| control);
    let control = control.filter(|control| believed == Some(control.crc));
    let wal = match &control {
        Some(control) => WalDirectory::of_cluster(root, control),
        None => WalDirectory::without_control_file(root),
    };
    let of_control = control.iter().flat_map(|control| [control.checkpoint, control.min_recovery_point]);
    let of_archiver = control.as_ref().and_then(|control| noted_as_filled(root, control));
    let places =
        [diagnosis.wal_end, wal.as_ref().and_then(find_last_known), of_archiver, last_backup(diagnosis)];
    let lsn = places.into_iter().flatten().chain(of_control).filter(|place| *place > Lsn(0)).max()?;
    Some(LastKnown { lsn, may_be_more: wal.is_none_or(|wal| lacks_next(&wal, lsn)) })
}

/// Whether the WAL ends where a segment does, and nothing has the name of the next one. The server makes or recycles that
/// file before it writes to it (xlog.c, `XLogFileInit()`), so that a file which holds other WAL shows that it did not.
fn lacks_next(wal: &WalDirectory, end: Lsn) -> bool {
    let size_bytes = u64::from(wal.geometry.segment_size_bytes);
    let Some(newest) = wal.newest() else { return true };
    let next = newest.numbered(end.0 / size_bytes.max(1));
    end.0.is_multiple_of(size_bytes) && !wal.has_file(&next.to_string())
}

/// Where the last of its own backups ends that the data directory remembers.
fn last_backup(diagnosis: &Diagnosis) -> Option<Lsn> {
    let timeline = diagnosis.identity.timeline?;
    let history = History::new(timeline, &diagnosis.identity.ancestors);
    let own = diagnosis.lineage.backups.iter().filter(|mark| history.has(mark.timeline, mark.stop_lsn));
    own.map(|mark| mark.stop_lsn).max()
}

/// The end of the last segment of the present timeline that the server noted as filled (xlogarchive.c,
/// `XLogArchiveNotifySeg()`), be it there or not.
fn noted_as_filled(root: &ReadRoot, control: &ControlFile) -> Option<Lsn> {
    let statuses = follow(root, "pg_wal").ok()?.names("archive_status").ok()?;
    let names = statuses.iter().filter_map(|status| status.rsplit_once('.')).map(|(name, _)| name);
    let segments = names.filter_map(|name| WalFileName::parse(name, control.wal_segment_size).ok());
    let filled = segments.filter(|segment| segment.timeline == control.timeline).max()?;
    filled.next().map(WalFileName::start_lsn)
}

/// Says what the recovery of a restored cluster, which is in place and serves, came to, beside the cluster that it replaced.
/// `None` where that is not more than the plan said.
pub(super) fn outcome_of_replay(
    root: &ReadRoot,
    diagnosis: &Diagnosis,
    replay: &Replay,
    known: Option<LastKnown>,
) -> Option<String> {
    if !replay.reaches_the_end || replay.target.is_some() {
        return None;
    }
    let once_went_further = diagnosis.findings.iter().any(|finding| finding.code == BEYOND_THE_WAL);
    Some(match (end_of_recovery(root), known) {
        (Some(end), Some(LastKnown { lsn, .. })) if end < lsn => format!(
            "the WAL was replayed to {end}, and the cluster that was replaced had written to {lsn}: commits in between are \
             lost, unless they are in what is set aside"
        ),
        (Some(end), Some(known)) if !once_went_further && !known.may_be_more => {
            format!("no committed row is lost: the WAL was replayed to its end, {end}")
        }
        (Some(end), _) => format!(
            "the WAL was replayed to {end}; nothing shows whether it once went further, and if it did, commits after that \
             are lost"
        ),
        (None, _) => return None,
    })
}

/// Where the recovery of a cluster ended that has taken a timeline of its own: there it left the one before (timeline.c,
/// `writeTimeLineHistory()`).
fn end_of_recovery(root: &ReadRoot) -> Option<Lsn> {
    let (_, control) = control_file::read_served(root).ok()?;
    let name = timeline_history::file_name(control.timeline);
    let text = follow(root, "pg_wal").ok()?.read_text(name, MOST_HISTORY_BYTES).ok()??;
    timeline_history::parse(&text)?.last().map(|ancestor| ancestor.switch_point)
}
