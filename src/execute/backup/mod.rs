//! Takes backups: hot ones of a running server, which is never stopped, and cold ones of a directory that was set
//! aside.
//!
//! The order of a hot backup is PostgreSQL's own (`perform_base_backup()` in basebackup.c): start, list, copy, the
//! control file last, stop, the WAL from start to stop. Only then is the backup finished in the repository; whatever
//! fails before leaves nothing that is listed. A temporary replication slot keeps the WAL meanwhile, so that no
//! archive is needed.

mod cold;
pub(super) mod copying;
pub(super) mod former;
pub(super) mod listing;
mod pages;
mod session;
mod space;
mod unchanged;
mod wal;

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, Utc};
use rayon::ThreadPool;

pub use cold::{ColdOptions, Stored, create_cold};
pub(super) use cold::{Shortcuts, create_cold_by};

use self::copying::{Copied, Copier};
use self::former::Former;
use self::listing::{Listing, Rules};
use self::session::{BackupSession, Stopped};
use super::cut_files::{self, Comparison};
use super::status_witness::{damaged_pages, is_witness};
use crate::cluster::inspect::{backed_up_to, relation_names};
use crate::cluster::{control_file, lineage, wal_gap};
use crate::error::{Failure, Kind};
use crate::pg::Lsn;
use crate::pg::control_file::{CONTROL_FILE, ControlFile};
use crate::pg::page::PageRules;
use crate::pg::wal::WalRange;
use crate::plan::ancestry::Mark;
use crate::plan::archive::first_missing;
use crate::plan::{BackupFormat, BackupKind, BackupName, BackupSummary, DamagedPage};
use crate::progress::Progress;
use crate::repository::{BackupWriter, Baseline, Repository, TableEntry, TableHeader};
use crate::sys::{OwnDirectory, ReadRoot, step_point};

/// How often the session is asked whether it still lives while files are copied.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// What a person can say of a backup that is to be made.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// When it begins; its name tells this time.
    pub time: DateTime<Utc>,
    /// What a person wants to remember of it.
    pub note: Option<String>,
    /// Make it even if nothing changed since the newest.
    pub force: bool,
    /// Read every file, whatever its size and time say: pages that went bad on the disk are found that way.
    pub full_read: bool,
    /// How many threads copy; as many as there are cores when not given, and never more.
    pub worker_threads: Option<NonZeroUsize>,
}

impl CreateOptions {
    /// A backup that begins now, without a note, if anything changed.
    pub fn now() -> Self {
        Self { time: Utc::now(), note: None, force: false, full_read: false, worker_threads: None }
    }
}

/// What came of an attempt to make a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is one of it at a time")]
pub enum CreateOutcome {
    /// A backup was made.
    Created(BackupSummary),
    /// The cluster is what the newest good backup holds, so that none was made.
    Unchanged {
        /// That backup.
        newest: BackupName,
    },
}

/// Takes a backup of a running server.
///
/// `client` is a session of a superuser, or of a role that may take backups, with nothing else going on in it; `data`
/// is the server's data directory. When this returns [`CreateOutcome::Created`], the backup is on disk, whole.
/// Damaged pages do not fail it: they are in its summary, and it does not count as good.
///
/// # Errors
/// No backup was made, and no other one was harmed. [`Kind::Busy`] while another process works in the repository.
pub fn create(
    client: &mut postgres::Client,
    data: &ReadRoot,
    repository: &Repository,
    options: &CreateOptions,
    progress: &dyn Progress,
) -> anyhow::Result<CreateOutcome> {
    let name = BackupName::new(BackupKind::Backup, options.time);
    let writer = repository.begin(name).context("begin a backup")?;
    let pool = worker_pool(options.worker_threads)?;
    let control = read_control_file(data)?;
    session::prepare(client, &control)?;
    let newest = former::newest_comparable(repository, &control)?;
    let former = newest.as_ref().and_then(|newest| Former::of(newest, &control));
    space::ensure_enough(repository, data, former.as_ref(), &control)?;

    progress.begin("waiting for a checkpoint", None);
    let started = BackupSession::start(client, &name.to_string());
    progress.end();
    let (mut session, start_lsn) = started?;
    step_point("the backup started in the server");
    let control = read_control_file(data)?;
    ensure_same_storage(data, &control, start_lsn)?;

    let listed_at_ns = time_before_listing_ns(data)?;
    let listing = Listing::read(data, Rules::Hot).context("list the data directory")?;
    // A gap in the archive is closed by a backup alone, whether anything changed or not.
    let mut wrong_status =
        newest.as_ref().map(|newest| damaged_pages(data, &control, newest)).unwrap_or_default();
    if let Some(newest) = newest.as_ref().filter(|newest| is_witness(newest.summary(), data, &control)) {
        let comparison = Comparison { root: data, control: &control, repository, former: newest };
        wrong_status.extend(cut_files::damaged_pages(&comparison, &|text| progress.note(text)));
    }
    let has_gap = !matches!(wal_gap::read(data.path()), Ok(None));
    if !options.force
        && !has_gap
        && wrong_status.is_empty()
        && !newest.as_ref().is_some_and(|newest| has_hole_after(repository, newest.summary(), progress))
        && let (Some(newest), Some(former)) = (&newest, &former)
        && pool.install(|| unchanged::is_unchanged(former, &listing, &control))?
        && pool.install(|| unchanged::is_all_stored(newest, &writer, progress))
    {
        session.stop()?;
        // That it holds what the cluster holds shows whose past it is.
        note_in_data_directory(data, &control, newest.summary(), progress);
        remember(data, repository, progress);
        return Ok(CreateOutcome::Unchanged { newest: newest.summary().name });
    }

    let known = former.filter(|_| !options.full_read);
    let job =
        HotJob { data, writer: &writer, control: &control, listing: &listing, known, pool: &pool, progress };
    let (entries, mut summary) = job.run(&mut session, start_lsn)?;
    summary.damaged_pages.extend(wrong_status);
    drop(session);
    let (next_xid, next_multi) = (control.next_xid, control.next_multi);
    let header =
        TableHeader::new(listing.directory_mode, Some(Baseline { listed_at_ns, next_xid, next_multi }));
    let note = options.note.clone();
    let summary = BackupSummary { created_at: options.time, finished_at: Some(Utc::now()), note, ..summary };
    // Before it counts, so that a backup that is listed is in the list.
    note_in_data_directory(data, &control, &summary, progress);
    step_point("the backup noted in the data directory");
    let summary = writer.finish(header, entries, summary).context("finish the backup")?;
    remember(data, repository, progress);
    if has_gap {
        wal_gap::close(data.path(), start_lsn).context("note that the gap in the WAL archive is closed")?;
    }
    Ok(CreateOutcome::Created(summary))
}

/// Whether WAL is missing in the archive after a backup, so that from there on only a newer backup is of use. Somebody may
/// have run the server without the archive, and no note tells of that.
fn has_hole_after(repository: &Repository, backup: &BackupSummary, progress: &dyn Progress) -> bool {
    let known = backup.system_identifier.zip(backup.wal_segment_size_bytes);
    let Some((cluster, size)) = known else { return false };
    match repository.wal_archive(cluster).view(size) {
        Ok(mut view) => {
            let state = repository.scrub_state().unwrap_or_default();
            let damaged: Vec<&str> = state.damaged_wal().collect();
            view.segments.retain(|segment| !damaged.contains(&segment.to_string().as_str()));
            first_missing(backup, &view).is_some()
        }
        Err(error) => {
            progress.note(&format!("could not look for holes in the WAL archive: {error}"));
            false
        }
    }
}

/// Notes in the data directory that a backup is of its past, before the backup counts. A full disk of the data makes it no
/// worse a backup.
fn note_in_data_directory(
    data: &ReadRoot,
    control: &ControlFile,
    summary: &BackupSummary,
    progress: &dyn Progress,
) {
    let Some(mark) = Mark::of(summary) else { return };
    if let Err(error) = lineage::note(data, control.system_identifier, mark, control.timeline) {
        progress.note(&format!("could not note the backup in the data directory: {error}"));
    }
}

/// Notes in the data directory where its backups are, so that a repository that is not mounted is missed. The backup is as
/// good without the note, which the next one writes.
fn remember(data: &ReadRoot, repository: &Repository, progress: &dyn Progress) {
    let Some(identity) = repository.identity() else { return };
    if backed_up_to(data).as_deref() == Some(&identity.id) {
        return;
    }
    let noted = OwnDirectory::open(data.path())
        .and_then(|own| own.write_durably("repository", identity.id.as_bytes()));
    match noted {
        Ok(()) => {}
        // A server that pgbox never had anything to do with.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            progress.note(&format!("could not note in the data directory where its backups are: {error}"));
        }
    }
}

/// Copying, stopping, and the WAL: the part of a hot backup that writes to the repository.
struct HotJob<'a> {
    data: &'a ReadRoot,
    writer: &'a BackupWriter<'a>,
    control: &'a ControlFile,
    listing: &'a Listing,
    /// What need not be read, where it is still what it was.
    known: Option<Former<'a>>,
    pool: &'a ThreadPool,
    progress: &'a dyn Progress,
}

impl HotJob<'_> {
    fn run(
        &self,
        session: &mut BackupSession<'_>,
        start_lsn: Lsn,
    ) -> anyhow::Result<(Vec<TableEntry>, BackupSummary)> {
        self.progress.begin("copying files", Some(self.listing.size_bytes()));
        let copied = self.copy_files(session);
        self.progress.end();
        let Copied { mut entries, mut damaged_pages, reused_bytes, unreadable } = copied?;
        for what in self.listing.unreadable.iter().chain(&unreadable) {
            self.progress.note(&format!("left out what is not PostgreSQL's and not for its user: {what}"));
        }

        step_point("the files copied, and not the control file");
        let (control_entry, last_control) = copying::copy_control_file(self.data, self.writer)?;
        step_point("the files copied");
        let Stopped { stop_lsn, files } = session.stop()?;
        step_point("the backup stopped in the server");
        entries.push(control_entry);
        for (path, text) in files {
            entries.push(copying::store_bytes(self.writer, path, text.as_bytes())?);
        }
        let (timeline, size) = (self.control.timeline, self.control.wal_segment_size);
        let range = WalRange::new(start_lsn, stop_lsn, timeline, size)?;
        let wal = wal::NeededWal { cluster: self.control.system_identifier, range };
        entries.extend(self.pool.install(|| wal.copy(self.data, self.writer)).context("copy the WAL")?);

        damaged_pages.sort_by(|left, right| (&left.file, left.block).cmp(&(&right.file, right.block)));
        name_relations(self.data, &mut damaged_pages);
        let summary = BackupSummary {
            data_directory: Some(self.data.path().to_string_lossy().into_owned()),
            system_identifier: Some(self.control.system_identifier),
            major_version: Some(self.control.major_version()),
            timeline: Some(self.control.timeline),
            start_lsn: Some(start_lsn),
            stop_lsn: Some(stop_lsn),
            checkpoint_lsn: Some(last_control.checkpoint),
            wal_segment_size_bytes: Some(self.control.wal_segment_size),
            reused_bytes,
            damaged_pages,
            ..BackupSummary::unknown(self.writer.name(), BackupFormat::Chunked)
        };
        Ok((entries, summary))
    }

    /// Copies in the pool while this thread watches the session: when it is gone, so is the backup, and going on
    /// would only read in vain.
    fn copy_files(&self, session: &mut BackupSession<'_>) -> anyhow::Result<Copied> {
        let abort = AtomicBool::new(false);
        let copier = Copier {
            writer: self.writer,
            listing: self.listing,
            pages: PageRules::of(self.control),
            known: self.known.as_ref(),
            rules: Rules::Hot,
            progress: self.progress,
            abort: &abort,
        };
        std::thread::scope(|scope| {
            let (sender, receiver) = mpsc::channel();
            let pool = self.pool;
            scope.spawn(move || sender.send(pool.install(|| copier.copy_all())));
            loop {
                match receiver.recv_timeout(PING_INTERVAL) {
                    Ok(result) => return result,
                    Err(RecvTimeoutError::Disconnected) => anyhow::bail!("a thread that copied files died"),
                    Err(RecvTimeoutError::Timeout) => {
                        session.ping().inspect_err(|_| abort.store(true, Ordering::Relaxed))?;
                    }
                }
            }
        })
    }
}

/// Says whose the damaged pages are.
fn name_relations(data: &ReadRoot, damaged_pages: &mut [DamagedPage]) {
    if damaged_pages.is_empty() {
        return;
    }
    let names = {
        let paths: Vec<&str> = damaged_pages.iter().map(|page| page.file.as_str()).collect();
        relation_names(data, &paths)
    };
    for page in damaged_pages {
        page.relation = names.get(&page.file).cloned();
    }
}

pub(super) fn worker_pool(wanted: Option<NonZeroUsize>) -> anyhow::Result<ThreadPool> {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = wanted.map_or(cores, |wanted| wanted.get().min(cores));
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().context("start worker threads")
}

/// Returns a time that is not after the listing which follows, nanoseconds since the epoch: that of the checkpoint just
/// made, by the clock that gives the files their times, where our own clock is ahead of it. A time of the future would let
/// a file that changes in the meantime pass for unchanged.
fn time_before_listing_ns(data: &ReadRoot) -> anyhow::Result<i64> {
    let now = Utc::now().timestamp_nanos_opt().unwrap_or_default();
    let written = data.facts(CONTROL_FILE).context("look at the control file")?;
    Ok(written.map_or(now, |facts| facts.modified_ns.min(now)))
}

fn read_control_file(data: &ReadRoot) -> anyhow::Result<ControlFile> {
    control_file::read_served(data).map(|(_, control)| control).context("read the control file")
}

/// A data directory that is another one than the server's, or an old view of it, shows by its control file.
fn ensure_same_storage(data: &ReadRoot, control: &ControlFile, start_lsn: Lsn) -> anyhow::Result<()> {
    if control.redo >= start_lsn {
        return Ok(());
    }
    let message = format!(
        "could not back up: the control file in '{}' does not show the checkpoint at {start_lsn} that the server \
         just made",
        data.path().display()
    );
    Err(Failure::new(Kind::Failed, message)
        .hint("check that PGDATA is the data directory of the server that answers on this port")
        .into())
}
