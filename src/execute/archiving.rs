//! The WAL archive from the server's side: the command that a server is given, and what that command does.
//!
//! The command is run for every segment, so it reads nothing that it does not need, and never takes the repository's
//! lock, which a backup holds for as long as it runs.

use super::Tools;
use crate::cluster::control_file;
use crate::cluster::inspect::backed_up_to;
use crate::cluster::own_archiving;
use crate::cluster::own_settings::OwnSettings;
use crate::cluster::wal_gap::{self, WalGap};
use crate::error::{Failure, Kind};
use crate::pg::control_file::CONTROL_FILE;
use crate::pg::wal::{
    LONG_HEADER_SIZE_BYTES, WalFileName, WalPageHeader, is_partial_segment_name, is_segment_name,
    timeline_of_file,
};
use crate::pg::{Lsn, SystemIdentifier};
use crate::plan::archive::{QueueVerdict, queue_verdict};
use crate::repository::{Archiving, Repository, RepositoryError};
use crate::sys::{Links, ReadRoot, StoreRoot, TimedOut, disk_space, is_runnable, open_regular};
use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The most that a crash of the disk can cost: a segment that anything was written to is archived after this time.
const ARCHIVE_TIMEOUT: &str = "60s";
/// How long an archive may take to answer, how fast a file has to get into it, and how long it is waited for once it has
/// not answered.
const PATIENCE: Duration = Duration::from_mins(1);
const SLOWEST_BYTES_PER_SECOND: u64 = 1 << 20;
const PATIENCE_AFTER_A_HANG: Duration = Duration::from_secs(5);

/// The settings by which a server archives its WAL here. None where that is off, or the cluster has its own way; then
/// that is told. `arguments` are those that give the server another configuration than the owner's.
pub(super) fn server_settings(
    tools: &Tools,
    root: &ReadRoot,
    own: &Result<OwnSettings, String>,
    arguments: &[OsString],
) -> Vec<(&'static str, String)> {
    if !tools.settings.wal_archive {
        return Vec::new();
    }
    let decide = |own: &OwnSettings| decide_settings(tools, root, own, arguments);
    let decided = own.as_ref().map_err(String::clone).and_then(decide);
    match decided {
        Ok(settings) => settings,
        Err(reason) => {
            tools.progress.note(&format!("WAL is not archived by pgbox: {reason}"));
            Vec::new()
        }
    }
}

/// Returns the arguments with which a server in single-user mode notes the segments that it fills as waiting for the
/// archive; none where pgbox does not archive this cluster. It has no archiver, so that nothing leaves it.
pub(super) fn single_user_settings(
    tools: &Tools,
    data_directory: &Path,
    arguments: &[OsString],
) -> &'static [&'static str] {
    let is_archived = || -> Result<(), String> {
        let root = ReadRoot::open(data_directory).map_err(|error| error.to_string())?;
        decide_settings(tools, &root, &OwnSettings::read(&root)?, arguments).map(|_| ())
    };
    if tools.settings.wal_archive && is_archived().is_ok() { &["-c", "archive_mode=on"] } else { &[] }
}

fn decide_settings(
    tools: &Tools,
    root: &ReadRoot,
    own: &OwnSettings,
    arguments: &[OsString],
) -> Result<Vec<(&'static str, String)>, String> {
    let own = own_archiving::read(own, root, tools.installation, arguments)?;
    if let Some(parameter) = own.parameter {
        return Err(format!("{parameter} is set in the server's configuration, and stays as it is"));
    }
    if own.is_minimal {
        return Err("wal_level is minimal in the server's configuration".to_owned());
    }
    let program = std::env::current_exe().map_err(|error| format!("could not find this program: {error}"))?;
    if !is_runnable(&program) {
        return Err(format!("'{}' cannot be run by the server's user", program.display()));
    }
    let command = archive_command(&program, tools).ok_or("a path in its command is not valid UTF-8")?;
    let mut settings = vec![("archive_mode", "on".to_owned()), ("archive_command", command)];
    if !own.has_timeout {
        settings.push(("archive_timeout", ARCHIVE_TIMEOUT.to_owned()));
    }
    Ok(settings)
}

/// The line that the server hands to a shell for each file.
fn archive_command(program: &Path, tools: &Tools) -> Option<String> {
    let settings = tools.settings;
    let quoted = |path: &Path| Some(quote_for_server(path.to_str()?));
    let key_file = match &settings.backup_key_file {
        Some(path) => format!(" --backup-key-file={}", quoted(path)?),
        None => String::new(),
    };
    Some(format!(
        "{} archive-wal --data-directory={} --backup-directory={}{key_file} --queue-limit={} %p",
        quoted(program)?,
        quoted(&settings.data_directory)?,
        quoted(&settings.backup_directory)?,
        settings.wal_queue_limit_bytes
    ))
}

/// Quotes a text for the shell, and for the server, which replaces what follows a percent sign before the shell has it
/// (`shell_archive.c`).
fn quote_for_server(text: &str) -> String {
    shell_words::quote(text).replace('%', "%%")
}

/// A file that the server wants archived.
#[derive(Clone, Debug)]
pub struct ArchiveRequest {
    /// The cluster.
    pub data_directory: PathBuf,
    /// Where the backups are kept.
    pub backup_directory: PathBuf,
    /// Where the key of encrypted backups is.
    pub backup_key_file: Option<PathBuf>,
    /// How much WAL may wait before it is given up.
    pub queue_limit_bytes: u64,
    /// The file, below the data directory or absolute.
    pub file: PathBuf,
    /// The time.
    pub now: DateTime<Utc>,
}

/// What became of a file, where the server need not keep it any longer.
#[derive(Debug)]
pub enum Archived {
    /// It is in the archive.
    Done(Archiving),
    /// It is not, and was given up so that the server's disk does not fill, or later WAL is not kept from the archive.
    GivenUp {
        /// Why it could not be archived.
        error: anyhow::Error,
        /// How much WAL was waiting; `None` where it can never be archived, since another history of the cluster has its
        /// name.
        waiting_bytes: Option<u64>,
        /// Why the gap could not be noted, if it could not.
        unnoted: Option<std::io::Error>,
    },
}

/// Archives a file, or gives it up where waiting for the archive would fill the server's disk.
///
/// # Errors
/// When it is not archived, and the server is to keep it and try again.
pub fn archive(request: &ArchiveRequest) -> anyhow::Result<Archived> {
    let name = request.name()?;
    let data = request.open_data()?;
    match store(request, &data, name) {
        Ok(done) => Ok(Archived::Done(done)),
        Err(error) => keep_or_give_up(request, &data, error),
    }
}

/// Decides what becomes of a file that the archive gave no answer for, as on a mount whose server is gone.
///
/// # Errors
/// When the server is to keep it and try again.
pub fn unanswered(request: &ArchiveRequest, error: TimedOut) -> anyhow::Result<Archived> {
    let error = anyhow::Error::new(error)
        .context(format!("wait for the archive in '{}'", request.backup_directory.display()));
    keep_or_give_up(request, &request.open_data()?, error)
}

fn keep_or_give_up(
    request: &ArchiveRequest,
    data: &ReadRoot,
    error: anyhow::Error,
) -> anyhow::Result<Archived> {
    let name = request.name()?;
    let waiting_bytes = match examine_queue(request, data) {
        Ok((waiting_bytes, QueueVerdict::GiveUp)) => Some(waiting_bytes),
        _ if is_of_a_branch_left(&error, data, name) => None,
        _ => return Err(error),
    };
    let unnoted = note_gap(request, data, name, &error).err();
    Ok(Archived::GivenUp { error, waiting_bytes, unnoted })
}

/// How long archiving a file may take: as long as a slow network needs for it, with time for what else there is to do.
///
/// Once a file was given up because nothing answered, each further one is tried for a moment only, so that a server that
/// writes much is not held up by an archive that hangs; the next backup ends that.
pub fn patience(request: &ArchiveRequest) -> Duration {
    if matches!(wal_gap::read(&request.data_directory), Ok(Some(gap)) if gap.is_unanswered) {
        return PATIENCE_AFTER_A_HANG;
    }
    let path = request.data_directory.join(&request.file);
    let size_bytes = path.symlink_metadata().map_or(0, |facts| facts.len());
    PATIENCE.saturating_add(Duration::from_secs(size_bytes.div_ceil(SLOWEST_BYTES_PER_SECOND)))
}

impl ArchiveRequest {
    fn name(&self) -> anyhow::Result<&str> {
        self.file.file_name().and_then(|name| name.to_str()).context("read the file's name")
    }

    fn open_data(&self) -> anyhow::Result<ReadRoot> {
        ReadRoot::open(&self.data_directory).context("open the data directory")
    }
}

/// Whether a file that is archived with another content is of a timeline that the cluster has left: then it branched off
/// from another history of the same cluster, which has that name.
fn is_of_a_branch_left(error: &anyhow::Error, data: &ReadRoot, name: &str) -> bool {
    let is_other = |cause: &(dyn std::error::Error + 'static)| {
        matches!(cause.downcast_ref(), Some(RepositoryError::OtherContent { .. }))
    };
    let present = control_file::read_served(data).map(|(_, control)| control.timeline);
    let of_file = timeline_of_file(name.strip_suffix(".partial").unwrap_or(name));
    error.chain().any(is_other)
        && present.is_ok_and(|present| of_file.is_some_and(|of_file| of_file < present))
}

fn store(request: &ArchiveRequest, data: &ReadRoot, name: &str) -> anyhow::Result<Archiving> {
    let system_identifier = read_system_identifier(data)?;
    let path = data.path().join(&request.file);
    let mut file =
        open_regular(&path, Links::Follow).with_context(|| format!("open '{}'", path.display()))?;
    ensure_belongs(&mut file, name, system_identifier)?;
    let repository = open_repository(request, data)?;
    Ok(repository.wal_archive(system_identifier).store(name, &mut file)?)
}

/// The first eight bytes of the control file, which never change: the rest may be being written just now.
fn read_system_identifier(data: &ReadRoot) -> anyhow::Result<SystemIdentifier> {
    let mut bytes = [0; 8];
    let opened = data.open_file(CONTROL_FILE);
    opened.and_then(|mut file| file.read_exact(&mut bytes)).context("read the control file")?;
    Ok(SystemIdentifier(u64::from_le_bytes(bytes)))
}

/// A repository that is not the one of this cluster's backups, such as an empty directory where a disk is not mounted,
/// would take WAL that nobody finds again.
fn open_repository(request: &ArchiveRequest, data: &ReadRoot) -> anyhow::Result<Repository> {
    let path = &request.backup_directory;
    let key_file = request.backup_key_file.as_deref();
    let Some(expected) = backed_up_to(data) else {
        return Repository::open_or_create(path, key_file).context("open the repository");
    };
    let repository = Repository::open(path, key_file).context("open the repository")?;
    let found =
        repository.as_ref().and_then(|repository| repository.identity()).map(|found| found.id.clone());
    match repository {
        Some(repository) if found.as_ref() == Some(&expected) => Ok(repository),
        _ => {
            let message = format!(
                "the repository of this cluster's backups ({expected}) is not in '{}'",
                path.display()
            );
            let hint = "mount it there; if it is gone for good, `backup-postgresql create` begins another";
            Err(Failure::new(Kind::Failed, message).hint(hint).into())
        }
    }
}

/// Checks by a segment's first page that it is what its name says, of the cluster that it comes from: the server
/// makes segments by renaming old ones.
fn ensure_belongs(file: &mut File, name: &str, cluster: SystemIdentifier) -> anyhow::Result<()> {
    if !is_segment_name(name) && !is_partial_segment_name(name) {
        return Ok(());
    }
    let mut page = [0; LONG_HEADER_SIZE_BYTES];
    file.read_exact(&mut page).and_then(|()| file.rewind()).with_context(|| format!("read '{name}'"))?;
    let header = WalPageHeader::parse(&page).with_context(|| format!("read '{name}'"))?;
    let segment = WalFileName::parse(name.get(..24).unwrap_or_default(), header.segment_size_bytes)?;
    let size_bytes = file.metadata().with_context(|| format!("read '{name}'"))?.len();
    segment.check_file(&page, size_bytes, cluster).with_context(|| format!("check '{name}'"))
}

/// How much WAL waits for the archive, and what to do about it.
fn examine_queue(request: &ArchiveRequest, data: &ReadRoot) -> anyhow::Result<(u64, QueueVerdict)> {
    let waiting_bytes = waiting_bytes(data)?;
    let available = disk_space(&data.path().join("pg_wal"))?.available_bytes;
    Ok((waiting_bytes, queue_verdict(waiting_bytes, request.queue_limit_bytes, available)))
}

/// How much WAL waits to be archived.
///
/// # Errors
/// When the queue or the control file cannot be read.
pub fn waiting_bytes(data: &ReadRoot) -> anyhow::Result<u64> {
    let status = crate::cluster::inspect::follow(data, "pg_wal").and_then(|wal| wal.names("archive_status"));
    let names = status.context("list the segments that wait")?;
    let waiting =
        names.iter().filter(|name| name.strip_suffix(".ready").is_some_and(is_segment_name)).count();
    let size = control_file::read(data).context("read the control file")?.wal_segment_size;
    Ok(u64::try_from(waiting)?.saturating_mul(size.into()))
}

fn note_gap(
    request: &ArchiveRequest,
    data: &ReadRoot,
    name: &str,
    error: &anyhow::Error,
) -> std::io::Result<()> {
    let size = control_file::read(data).map(|control| control.wal_segment_size).unwrap_or_default();
    let segment = WalFileName::parse(name.get(..24).unwrap_or_default(), size).ok();
    let end = segment.and_then(WalFileName::next).map_or(Lsn::INVALID, WalFileName::start_lsn);
    // A note that makes no sense is written anew: that there is a gap is what counts.
    let former = wal_gap::read(data.path()).unwrap_or_default();
    let is_hang = |cause: &(dyn std::error::Error + 'static)| cause.downcast_ref::<TimedOut>().is_some();
    let is_unanswered = error.chain().any(is_hang);
    let gap = WalGap::with(former, name, end, &format!("{error:#}"), request.now);
    wal_gap::note(data.path(), &WalGap { is_unanswered, ..gap })
}

/// Writes an archived file to a place of the server's choosing: whole and proven, or not at all. `false`: it was never
/// archived.
///
/// # Errors
/// When the repository cannot be read, or what it holds is damaged.
pub fn fetch(
    backup_directory: &Path,
    key_file: Option<&Path>,
    cluster: SystemIdentifier,
    name: &str,
    target: &Path,
) -> anyhow::Result<bool> {
    let opened = Repository::open(backup_directory, key_file).context("open the repository")?;
    let Some(repository) = opened else {
        bail!("there is no repository in '{}'", backup_directory.display())
    };
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let last = target.file_name().and_then(|name| name.to_str()).context("read the target's name")?;
    let directory = StoreRoot::open(parent).with_context(|| format!("open '{}'", parent.display()))?;
    let temporary = format!("{last}.pgbox-{}.tmp", std::process::id());
    directory.remove_file(&temporary).context("make room for the file")?;
    let mut file = directory.create_file(&temporary).with_context(|| format!("create '{temporary}'"))?;
    let fetched = repository.wal_archive(cluster).fetch(name, &mut file).map_err(anyhow::Error::from);
    let placed = fetched.and_then(|is_there| {
        if is_there {
            file.sync_all().context("write the file to disk")?;
            directory.rename(&temporary, last).context("put the file in place")?;
            directory.sync_directory(".").context("put the file in place")?;
        }
        Ok(is_there)
    });
    if !matches!(placed, Ok(true)) {
        directory.remove_file(&temporary).context("remove what was not needed")?;
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_reach_the_command_whole_through_the_server_and_the_shell() {
        let path = "/data/50% 'of' \"it\" $HOME %p";
        let quoted = quote_for_server(path);
        assert_eq!(quoted.matches('%').count(), 4);
        assert_eq!(shell_words::split(&quoted.replace("%%", "%")).unwrap(), [path]);
    }
}
