//! What is done before any command works on a cluster: directories to work in, and an end to being root.
//!
//! Everything that touches a cluster runs as `postgres`, looked up by name, or as whoever started us if that is
//! not root. This must happen before a second thread runs. Root changes the owner of directories that are
//! pgbox's to use and of what pgbox wrote in them; never of a whole tree that somebody else filled, and never of what a
//! third user owns: that is an error, and a person decides.

use super::BINARY;
use super::own::ANSWERS;
use anyhow::Context;
use clap::ArgMatches;
use pgbox::error::{Failure, Kind};
use pgbox::plan::BackupName;
use pgbox::settings::Settings;
use pgbox::sys::{self, EntryKind, Giving, HeldDirectory, Identity, OwnershipReport, Refusal};
use pgbox::ui::Ui;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::Duration;

/// Where the server puts its socket, as Debian builds it.
const SOCKET_DIRECTORY: &str = "/var/run/postgresql";

/// Names that may stand in a directory that nobody has used yet.
const UNUSED_NAMES: [&str; 5] = ["lost+found", ".gitkeep", ".keep", ".gitignore", sys::OWN_DIRECTORY];

/// How long a directory on a network mount may take to answer; a disk that sleeps needs some seconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// The server's log, and what the server's own collector and `logrotate` name theirs like.
const LOG_FILE: &str = "postgresql.log";
const LOG_PREFIX: &str = "postgresql";
/// What makes a directory a repository.
const IDENTITY_FILE: &str = "repository.json";
/// What makes a directory in it a backup, and no plain copy of a data directory.
const BACKUP_FILE: &str = "backup.json";

/// Whether directories may be made and given away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Directories {
    /// Make those that are missing.
    Prepare,
    /// Change nothing: a dry run, or a command that only reports.
    LeaveAlone,
}

impl Directories {
    /// Prepares them for a command that changes something: one of those that can be asked for a dry run, and was
    /// not. Those that only report have no such flag.
    pub(crate) fn unless_dry_run(matches: &ArgMatches) -> Self {
        let innermost = matches.subcommand().map_or(matches, |(_, matches)| matches);
        match innermost.try_get_one::<bool>("dry-run") {
            Ok(Some(false)) => Self::Prepare,
            _ => Self::LeaveAlone,
        }
    }
}

/// Prepares the directories, and as root becomes the user `postgres`.
///
/// What the file system refuses (root squash, a read-only mount) is told and not fatal: it may be usable all
/// the same, and the command that needs it says so if it is not.
///
/// # Errors
/// [`Kind::ProgramMissing`] for root where there is no user `postgres`: the server's package makes it.
pub(crate) fn drop_privileges(settings: &Settings, ui: &Ui, directories: Directories) -> anyhow::Result<()> {
    if !sys::effective_identity().is_root() {
        if directories == Directories::Prepare {
            make_missing(settings, ui);
        }
        return Ok(());
    }
    let owner = find_postgres()?;
    if directories == Directories::Prepare {
        prepare(settings, ui, &owner);
    }
    owner.assume().context("give up root's privileges")
}

fn find_postgres() -> Result<Identity, Failure> {
    sys::find_user("postgres").map_err(|error| {
        Failure::new(Kind::ProgramMissing, format!("cannot run as root: {error}"))
            .hint("install PostgreSQL (Debian: apt-get install postgresql), or run as another user than root")
    })
}

/// Makes this process run as the server's user, if it is root. It prepares nothing.
///
/// # Errors
/// As [`drop_privileges`].
pub(crate) fn become_server_user() -> anyhow::Result<()> {
    if sys::effective_identity().is_root() {
        find_postgres()?.assume().context("give up root's privileges")?;
    }
    Ok(())
}

/// Makes a directory that a cluster is to go into, or gives an empty one to the server's user.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn prepare_place(directory: &Path) -> anyhow::Result<()> {
    let owner = if sys::effective_identity().is_root() { Some(find_postgres()?) } else { None };
    let prepared = match &owner {
        Some(owner) => prepare_data_directory(directory, owner).map(drop),
        None => sys::ensure_directory(directory, 0o700, None).map(drop),
    };
    prepared.with_context(|| format!("make '{}'", directory.display()))
}

/// Makes the directories that are missing, as the user that we are.
fn make_missing(settings: &Settings, ui: &Ui) {
    let Settings { data_directory, backup_directory, log_directory, .. } = settings;
    let wal = settings.initdb_waldir.iter().map(|directory| (directory, 0o700));
    let others = [(data_directory, 0o700), (log_directory, 0o750), (backup_directory, 0o700)];
    for (directory, mode) in others.into_iter().chain(wal) {
        if let Err(error) = sys::ensure_directory(directory, mode, None) {
            ui.warn(&format!("could not make '{}': {error}", directory.display()));
        }
    }
}

fn prepare(settings: &Settings, ui: &Ui, owner: &Identity) {
    let Settings { data_directory, backup_directory, log_directory, .. } = settings;
    let told = |directory: &Path, result: io::Result<OwnershipReport>| match result {
        Ok(report) => report_refused(&report, owner, ui),
        Err(error) => {
            ui.warn(&format!("could not prepare '{}' for {owner}: {error}", directory.display()));
        }
    };
    told(data_directory, prepare_data_directory(data_directory, owner));
    told(log_directory, answering(log_directory).and_then(|()| prepare_log_directory(log_directory, owner)));
    let backups = answering(backup_directory);
    told(backup_directory, backups.and_then(|()| prepare_backup_directory(backup_directory, owner)));
    if let Some(directory) = &settings.initdb_waldir {
        told(directory, prepare_data_directory(directory, owner));
    }
    let socket_directory = Path::new(SOCKET_DIRECTORY);
    told(socket_directory, prepare_socket_directory(socket_directory, owner));
}

/// Makes sure that a directory on a network mount or the like answers: one whose server is gone must not keep PostgreSQL
/// from being started or stopped.
///
/// Another process asks. A thread that hangs would keep this one from ever giving up root's privileges.
fn answering(directory: &Path) -> io::Result<()> {
    if !sys::may_hang(directory)? {
        return Ok(());
    }
    let question = [OsStr::new(ANSWERS), directory.as_os_str()];
    Ok(sys::run_myself_within(ANSWER_LIMIT, BINARY, question)?.map(drop)?)
}

/// Reports what was not given, and what a person may do about it.
pub(super) fn report_refused(report: &OwnershipReport, owner: &Identity, ui: &Ui) {
    let Some((path, refusal)) = report.refused.first() else { return };
    let more = match report.refused.len() - 1 {
        0 => String::new(),
        more => format!(", and {more} more like it"),
    };
    ui.error(&format!("did not give '{}' to user {owner}: {refusal}{more}", path.display()));
    let user = owner.name.clone().unwrap_or_else(|| owner.uid.to_string());
    let path = path.to_string_lossy();
    let quoted = shell_words::quote(&path);
    ui.hint(&match refusal {
        Refusal::NotOnlyOurs => format!(
            "name a directory that holds nothing else, or let a person run `chown {user}: {quoted}`; its owner was not changed"
        ),
        _ => format!("if it is this cluster's, `chown -Rh {user}: {quoted}` gives it; its owner was not changed"),
    });
}

/// Holds a directory that was there before; `None`: it was made just now, and is the owner's.
fn hold(directory: &Path, mode: u32, owner: &Identity) -> io::Result<Option<HeldDirectory>> {
    let was_made = sys::ensure_directory(directory, mode, Some(owner))?;
    if was_made { Ok(None) } else { HeldDirectory::open(directory).map(Some) }
}

/// Makes the directory of the sockets, or gives it to `owner`, and nothing in it.
fn prepare_socket_directory(directory: &Path, owner: &Identity) -> io::Result<OwnershipReport> {
    if let Some(held) = hold(directory, 0o3775, owner)? {
        held.give(owner)?;
        held.close_to_others(0o3775, owner)?;
    }
    Ok(OwnershipReport::default())
}

/// A data directory that is in use keeps its owner: what is wrong with it is for the inspection to say.
fn prepare_data_directory(directory: &Path, owner: &Identity) -> io::Result<OwnershipReport> {
    let Some(held) = hold(directory, 0o700, owner)? else { return Ok(OwnershipReport::default()) };
    if !held.names()?.iter().all(|name| is_unused(name)) {
        return Ok(OwnershipReport::default());
    }
    let facts = held.facts()?;
    let former = Some(facts.uid);
    held.give(owner)?;
    // Whoever made it for us may have left it open to others; the server would not have it so (miscinit.c,
    // `checkDataDir()`).
    if facts.mode & 0o027 != 0 {
        held.set_mode(0o700)?;
    }
    let own = |path: &str| Path::new(path).starts_with(sys::OWN_DIRECTORY);
    held.give_below(Giving { owner, former }, &|path, _| own(path))
}

/// A log directory is given only if nothing but the server's logs is in it: a mistyped `LOG_DIR` must not give
/// `/var/log` away. In any other the log alone is given.
fn prepare_log_directory(directory: &Path, owner: &Identity) -> io::Result<OwnershipReport> {
    let Some(held) = hold(directory, 0o750, owner)? else { return Ok(OwnershipReport::default()) };
    let former = former_owner(&held, LOG_FILE)?;
    if held.names()?.iter().all(|name| is_unused(name) || name.starts_with(LOG_PREFIX)) {
        held.give(owner)?;
    } else {
        held.make_file(LOG_FILE, 0o640, owner)?;
    }
    held.close_to_others(0o750, owner)?;
    held.give_below(Giving { owner, former }, &|path, _| path == LOG_FILE)
}

/// A backup directory is given only if it is unused, a repository already, or a mount of its own with nothing else in it:
/// a mistyped `BACKUP_DIR` must not take somebody's home away. In what is a repository, or a mount, the entries are given
/// that pgbox made.
fn prepare_backup_directory(directory: &Path, owner: &Identity) -> io::Result<OwnershipReport> {
    let Some(held) = hold(directory, 0o700, owner)? else { return Ok(OwnershipReport::default()) };
    let names = held.names()?;
    let former = former_owner(&held, IDENTITY_FILE)?;
    let is_known = |uid: u32| uid == 0 || uid == owner.uid || Some(uid) == former;
    let identity = held.facts_of(IDENTITY_FILE)?;
    let is_repository = identity.is_some_and(|facts| facts.kind == EntryKind::File && is_known(facts.uid));
    let is_empty = names.iter().all(|name| is_unused(name));
    let is_only_ours = names.iter().all(|name| is_unused(name) || is_written_by_pgbox(name));
    let is_mount = sys::is_mount_root(directory)?;
    // Whoever may write there may have planted what makes it look like a repository.
    let is_closed = held.facts()?.mode & 0o002 == 0;
    if is_empty || is_mount && is_only_ours || is_repository && (is_closed || is_only_ours) {
        held.give(owner)?;
    }
    let mut report = OwnershipReport::default();
    if is_repository || is_mount {
        // Among files of others, only the names of backups are telling; anybody may have a `lock`.
        let is_given = if is_repository || is_only_ours { is_written_by_pgbox } else { is_backup };
        let copies = plain_copies(&held, &names)?;
        report = held.give_below(Giving { owner, former }, &|path, facts| {
            let top = path.split('/').next().unwrap_or(path);
            is_given(top) && !(Some(facts.uid) == former && copies.contains(top))
        })?;
    }
    // In the image every user may write to it, for the sake of `docker run --user`, and a volume copies that.
    held.close_to_others(0o700, owner)?;
    if !held.is_writable_by(owner)? {
        report.refused.push((directory.to_path_buf(), Refusal::NotOnlyOurs));
    }
    Ok(report)
}

/// The plain copies of data directories in a repository. They count by their owners, and somebody who put one into the
/// repository of a former server user must not have it taken for ours because we gave it to ourselves.
fn plain_copies(held: &HeldDirectory, names: &[String]) -> io::Result<HashSet<String>> {
    let mut copies = HashSet::new();
    for name in names.iter().filter(|name| name.parse::<BackupName>().is_ok()) {
        let is_directory = held.facts_of(name)?.is_some_and(|facts| facts.kind == EntryKind::Directory);
        if is_directory && held.facts_of(&format!("{name}/{BACKUP_FILE}"))?.is_none() {
            copies.insert(name.clone());
        }
    }
    Ok(copies)
}

/// The server's user of an earlier image, who has another number than that of this one: the owner of a file that only the
/// server's user makes, in a directory where nobody else may have planted it.
fn former_owner(held: &HeldDirectory, name: &str) -> io::Result<Option<u32>> {
    let Some(file) = held.facts_of(name)?.filter(|facts| facts.kind == EntryKind::File) else {
        return Ok(None);
    };
    let directory = held.facts()?;
    let is_closed = directory.mode & 0o022 == 0;
    Ok((is_closed || file.uid == directory.uid).then_some(file.uid))
}

/// Whether a name in a repository is one that pgbox, or the scripts before it, gave.
fn is_written_by_pgbox(name: &str) -> bool {
    const NAMES: [&str; 8] =
        ["packs", "wal", "dumps", "lock", "scrub.json", "scrub.lock", IDENTITY_FILE, "repository.json.copy"];
    // What is being written has the name of what it will be, and an ending.
    let name = name.split_once(".pgbox-").map_or(name, |(begin, _)| begin);
    NAMES.contains(&name) || is_backup(name)
}

/// Whether a name is that of a backup, of its pin, or of one that is being removed.
fn is_backup(name: &str) -> bool {
    let name = name.strip_prefix("removed_").unwrap_or(name);
    name.strip_suffix(".pin").unwrap_or(name).parse::<BackupName>().is_ok()
}

fn is_unused(name: &str) -> bool {
    UNUSED_NAMES.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_somebodys_file_is_in_use() {
        let directory = tempfile::tempdir().unwrap();
        let is_free = || {
            HeldDirectory::open(directory.path()).unwrap().names().unwrap().iter().all(|name| is_unused(name))
        };
        assert!(is_free());
        std::fs::write(directory.path().join(".gitkeep"), "").unwrap();
        assert!(is_free());
        std::fs::write(directory.path().join("letter.txt"), "").unwrap();
        assert!(!is_free());
    }

    #[test]
    fn only_names_of_a_repository_are_ours() {
        for name in [
            "data_20261120_114010",
            "damaged_20261120_114010_2",
            "data_20261120_114010.pin",
            "removed_data_20261120_114010",
            "repository.json",
            "repository.json.pgbox-7.tmp",
            "packs",
        ] {
            assert!(is_written_by_pgbox(name), "{name}");
        }
        for name in ["home", "lost+found", "database", ".ssh", "data_science", "repository.txt", "locksmith"]
        {
            assert!(!is_written_by_pgbox(name), "{name}");
        }
    }
}
