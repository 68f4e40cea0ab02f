//! Restoring into another directory, with the present cluster and its server left alone.
//!
//! The copy has the system identifier of the original, and begins a timeline of a number that the original may give to
//! another one day: if it ever archived into the original's repository, the two would mix. So its own
//! `postgresql.auto.conf` says `archive_mode = off`, which holds whoever starts it: pgbox, too, leaves what a cluster's
//! configuration says of archiving as it is. The alternative, a mark that only pgbox knows, would not hold for `pg_ctl`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use chrono::{DateTime, Utc};

use super::Prepared;
use crate::cluster::history::{self, Event};
use crate::cluster::inspect::{Depth, JOURNAL_FILE, follow};
use crate::error::{Failure, Kind};
use crate::execute::ensure::refuse_server_elsewhere;
use crate::execute::from_backup::build_beside;
use crate::execute::made_tablespace::{Surroundings, refuse_in_backup};
use crate::execute::private_server::{PrivateServer, PrivateStart, isolation};
use crate::execute::release::wait_for_release;
use crate::execute::restored_layout::{AUTO_CONFIGURATION, MAXIMUM_CONFIGURATION_SIZE_BYTES};
use crate::execute::staging::{STAGING, ensure_room, inspect_staged, staged};
use crate::execute::start::{RECOVERY_SIGNAL, Start};
use crate::execute::{Tools, start_failure, takeover};
use crate::plan::delta::SPARE_BYTES;
use crate::plan::point_in_time::Way;
use crate::plan::recovery::Replay;
use crate::plan::recovery_target::RecoveryTarget;
use crate::plan::{BackupSummary, Journal, Phase};
use crate::sys::{OWN_DIRECTORY, OperationLock, ReadRoot, WriteRoot, ensure_directory, step_point};

const ACTIVITY: &str = "backup-postgresql restore";
/// Where the server's own words go while it recovers, below the directory.
const LOG: &str = ".pgbox/recovery.log";

/// What goes into another directory.
#[derive(Clone, Copy, Debug)]
pub struct Elsewhere<'a> {
    /// The backup.
    pub backup: &'a BackupSummary,
    /// The moment; `None` is that of the backup.
    pub prepared: Option<&'a Prepared>,
    /// The directory, absent or empty.
    pub into: &'a Path,
}

/// Checks that a directory may be restored into.
///
/// # Errors
/// [`Kind::Refused`] for one that has something in it, or that is inside the data directory or the repository, or around
/// them.
pub fn check_place(tools: &Tools, into: &Path) -> anyhow::Result<()> {
    let settings = tools.settings;
    let place = resolved(into)?;
    let refused = |reason: String| {
        let message = format!("cannot restore into '{}': {reason}", into.display());
        let hint = "name a directory that is not there yet, or is empty. Nothing was changed.";
        Err(Failure::new(Kind::Refused, message).hint(hint).into())
    };
    let taken = [
        (&settings.data_directory, "the data directory of the present cluster"),
        (&settings.backup_directory, "the repository"),
    ];
    for (directory, what) in taken {
        let directory = resolved(directory)?;
        if place.starts_with(&directory) {
            return refused(format!("it is in {what}, '{}'", directory.display()));
        }
        if directory.starts_with(&place) {
            return refused(format!("{what}, '{}', is in it", directory.display()));
        }
    }
    let root = match ReadRoot::open(&place) {
        Ok(root) => root,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return refused(error.to_string()),
    };
    // What a restore that was killed left is not in the way of the next.
    let names = root.names(".").with_context(|| format!("list '{}'", place.display()))?;
    if root.facts(JOURNAL_FILE)?.is_some() {
        return Ok(());
    }
    match names.iter().find(|name| ![OWN_DIRECTORY, "lost+found"].contains(&name.as_str())) {
        Some(name) => refused(format!("there is something in it ('{name}')")),
        None => Ok(()),
    }
}

/// Checks that a directory may be restored into, and that what goes there stays there.
///
/// # Errors
/// [`Kind::Refused`] as [`check_place`], and where the backup's WAL makes a tablespace.
pub fn check_elsewhere(tools: &Tools, what: &Elsewhere) -> anyhow::Result<()> {
    check_place(tools, what.into)?;
    // Of a moment, all the WAL on the way was read when the way was found.
    match (what.prepared, tools.repository()?) {
        (None, Some(repository)) => refuse_in_backup(repository, what.backup, Surroundings::BesideCluster),
        _ => Ok(()),
    }
}

/// A path without links in what there is of it.
fn resolved(path: &Path) -> anyhow::Result<PathBuf> {
    let absolute = std::path::absolute(path).with_context(|| format!("find '{}'", path.display()))?;
    for ancestor in absolute.ancestors() {
        if let Ok(real) = ancestor.canonicalize() {
            let rest = absolute.strip_prefix(ancestor).unwrap_or(Path::new(""));
            return Ok(if rest.as_os_str().is_empty() { real } else { real.join(rest) });
        }
    }
    Ok(absolute)
}

/// Restores into another directory: recovered, cleanly stopped, and ready for a server of anybody's.
///
/// Until everything is whole, nothing but pgbox's own directory is in it; killed at any moment, the same command does it
/// anew.
///
/// # Errors
/// [`Kind::Refused`] as [`check_elsewhere`], and for want of room; and what failed. What was built is removed then.
pub fn restore_elsewhere(tools: &Tools, what: &Elsewhere, now: DateTime<Utc>) -> anyhow::Result<()> {
    check_elsewhere(tools, what)?;
    ensure_directory(what.into, 0o700, None).with_context(|| format!("make '{}'", what.into.display()))?;
    // A path that a server can be told, from wherever it runs.
    let into = what.into.canonicalize().with_context(|| format!("find '{}'", what.into.display()))?;
    let operation = OperationLock::take(&into, ACTIVITY).context("begin the restore")?;
    wait_for_release(tools, &into)?;
    let root = WriteRoot::claim(&into, None, ACTIVITY).context("take the directory")?;
    refuse_server_elsewhere(&root)?;
    if root.facts(JOURNAL_FILE)?.is_some() {
        return finish_cut_short(&root, what);
    }
    let needed_bytes = what.prepared.map_or(what.backup.size_bytes + SPARE_BYTES, Prepared::needed_bytes);
    ensure_room(&into, needed_bytes, &purpose(what))?;
    let built = build(tools, &root, what).and_then(|()| put_in_place(&root, what));
    if built.is_err() && root.facts(JOURNAL_FILE)?.is_none() {
        root.discard(STAGING).context("remove what was built")?;
    }
    built?;
    root.discard(LOG).context("remove the server's words")?;
    let event = Event {
        time: now,
        purpose: purpose(what),
        findings: Vec::new(),
        done: vec![format!(
            "restored from the repository in '{}'",
            tools.settings.backup_directory.display()
        )],
        remarks: Vec::new(),
        restored_from: Some(what.backup.name),
        set_aside: None,
    };
    history::record(&into, &event).context("record what was done")?;
    drop((root, operation));
    Ok(())
}

fn purpose(what: &Elsewhere) -> String {
    match what.prepared {
        Some(prepared) => format!("restore {} to {}", what.backup.name, prepared.way.target),
        None => format!("restore {}", what.backup.name),
    }
}

/// A cluster that was being moved up when a restore was killed is whole. Somebody may have started it since.
fn finish_cut_short(root: &WriteRoot, what: &Elsewhere) -> anyhow::Result<()> {
    let text = root.read_bounded(JOURNAL_FILE, 1 << 20).context("read the journal")?;
    let journal: Journal = serde_json::from_slice(&text).context("read the journal")?;
    let refused = |reason: String| {
        let message = format!("cannot restore into '{}': {reason}", root.path().display());
        Err(Failure::new(Kind::Refused, message).hint("name another directory").into())
    };
    if journal.aside.is_some() {
        return refused("another operation was cut short there".to_owned());
    }
    let operation = journal.operation.clone();
    takeover::resume(root, journal).context("finish what was cut short")?;
    takeover::accept(root.path())?;
    if operation == purpose(what) {
        return Ok(());
    }
    refused(format!("'{operation}' was cut short there when it was all but done, and is whole now"))
}

/// Builds the cluster in staging, recovered and cleanly stopped.
fn build(tools: &Tools, root: &WriteRoot, what: &Elsewhere) -> anyhow::Result<()> {
    let own = ReadRoot::open(&tools.settings.data_directory).ok();
    let present = own.and_then(|own| follow(&own, "pg_wal").ok());
    // Without a moment, recovery ends where the backup's own WAL does.
    let end = Replay { target: Some(RecoveryTarget::END), ..Replay::default() };
    let replay = what.prepared.map_or(end, |prepared| prepared.way.replay());
    build_beside(tools, root, what.backup.name, &replay, present.as_ref())?;
    if let Some(way) = what.prepared.map(|prepared| &prepared.way).filter(|way| way.landing.is_at_end) {
        end_wal_at(root, way)?;
    }
    step_point("built elsewhere");
    for file in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        if root.facts(staged(file))?.is_none() {
            root.write_durably(staged(file), b"", 0o600).context("configure the copy")?;
        }
    }
    turn_archiving_off(root)?;
    recover(tools, root)?;
    step_point("recovered elsewhere");
    let diagnosis = inspect_staged(tools, root, Depth::Structure)?;
    if let Some(worst) = diagnosis.findings.first().filter(|_| diagnosis.has_errors()) {
        let message = format!("what was restored is not sound: {}", worst.summary());
        return Err(Failure::new(Kind::VerificationFailed, message).into());
    }
    root.sync_file_system().context("write the restored cluster to disk")
}

/// Takes out what a server that goes on has written since the WAL was looked at: with no place to stop at, all of it would
/// be replayed.
fn end_wal_at(root: &WriteRoot, way: &Way) -> anyhow::Result<()> {
    let Some(last) = way.segments.last() else { return Ok(()) };
    let place = staged("pg_wal").join(last.to_string());
    let mut bytes =
        root.read_bounded(&place, u64::from(last.segment_size_bytes())).context("read the last segment")?;
    let end = usize::try_from(way.landing.lsn.0.saturating_sub(last.start_lsn().0))?;
    if let Some(later) = bytes.get_mut(end..).filter(|later| later.iter().any(|byte| *byte != 0)) {
        later.fill(0);
        root.write_durably(&place, &bytes, 0o600).context("end the WAL where it ended")?;
    }
    Ok(())
}

fn turn_archiving_off(root: &WriteRoot) -> anyhow::Result<()> {
    let place = staged(AUTO_CONFIGURATION);
    let mut text = match root.facts(&place)? {
        Some(_) => root.read_bounded(&place, MAXIMUM_CONFIGURATION_SIZE_BYTES)?,
        None => Vec::new(),
    };
    if text.last().is_some_and(|byte| *byte != b'\n') {
        text.push(b'\n');
    }
    // The last line about a setting counts.
    text.extend_from_slice(b"archive_mode = 'off'\n");
    root.write_durably(&place, &text, 0o600).context("turn archiving off")
}

fn recover(tools: &Tools, root: &WriteRoot) -> anyhow::Result<()> {
    let staging = root.path().join(STAGING);
    let start = Start::of_replacement(&ReadRoot::open(&staging)?).context("read where recovery is to end")?;
    let mut settings = start.settings();
    settings.extend(isolation());
    let start = PrivateStart { data_directory: staging, log_file: root.path().join(LOG), settings };
    tools.progress.begin("recovering the copy", None);
    let started = PrivateServer::start(tools, root, start);
    let stopped =
        started.map_err(|error| start_failure(error, "recover the copy")).and_then(PrivateServer::stop);
    tools.progress.end();
    stopped?;
    if root.facts(staged(RECOVERY_SIGNAL))?.is_some() {
        return Err(
            Failure::new(Kind::ServerFailed, "the server stopped before it had ended recovery").into()
        );
    }
    Ok(())
}

fn put_in_place(root: &WriteRoot, what: &Elsewhere) -> anyhow::Result<()> {
    let journal = Journal {
        operation: purpose(what),
        aside: None,
        phase: Phase::SettingAside,
        findings: Vec::new(),
        done: Vec::new(),
        restored_from: Some(what.backup.name),
        control: None,
        kept: None,
    };
    takeover::take_over(root, journal)?;
    step_point("moved up elsewhere");
    takeover::accept(root.path())
}
