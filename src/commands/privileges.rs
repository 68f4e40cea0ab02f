//! What is done before any command works on a cluster: directories to work in, and an end to being root.
//!
//! Everything that touches a cluster runs as `postgres`, looked up by name, or as whoever started us if that is
//! not root. This must happen before a second thread runs. Root changes the owner of directories that are
//! pgbox's to use and of what pgbox wrote in them; never of a whole tree that somebody else filled.

use anyhow::Context;
use clap::ArgMatches;
use pgbox::error::{Failure, Kind};
use pgbox::execute::LOOKING_PATIENCE;
use pgbox::plan::BackupName;
use pgbox::settings::Settings;
use pgbox::sys::{self, Identity};
use pgbox::ui::Ui;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Where the server puts its socket, as Debian builds it.
const SOCKET_DIRECTORY: &str = "/var/run/postgresql";

/// Names that may stand in a directory that nobody has used yet.
const UNUSED_NAMES: [&str; 3] = ["lost+found", ".gitkeep", ".pgbox"];

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
        Some(owner) => prepare_data_directory(directory, owner),
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
    let told = |directory: &Path, result: io::Result<()>| {
        if let Err(error) = result {
            ui.warn(&format!("could not prepare '{}' for {owner}: {error}", directory.display()));
        }
    };
    told(data_directory, prepare_data_directory(data_directory, owner));
    told(log_directory, prepare_log_directory(log_directory, owner));
    if sys::answers(backup_directory, LOOKING_PATIENCE) {
        told(backup_directory, prepare_backup_directory(backup_directory, owner));
    } else {
        let seconds = LOOKING_PATIENCE.as_secs();
        ui.warn(&format!(
            "'{}' did not answer within {seconds} s, and is left as it is",
            backup_directory.display()
        ));
    }
    if let Some(directory) = &settings.initdb_waldir {
        told(directory, prepare_data_directory(directory, owner));
    }
    let socket_directory = Path::new(SOCKET_DIRECTORY);
    told(socket_directory, prepare_directory(socket_directory, 0o3775, owner));
    // In the image every user may write to them, for the sake of `docker run --user`, and a volume copies that.
    for (directory, mode) in
        [(log_directory.as_path(), 0o750), (backup_directory, 0o700), (socket_directory, 0o3775)]
    {
        told(directory, sys::close_directory(directory, mode, owner).map(drop));
    }
}

/// Makes a directory, or gives one that is there to `owner`, and nothing in it.
fn prepare_directory(directory: &Path, mode: u32, owner: &Identity) -> io::Result<()> {
    if !sys::ensure_directory(directory, mode, Some(owner))? {
        give(directory, owner)?;
    }
    Ok(())
}

/// A data directory that is in use keeps its owner: what is wrong with it is for the inspection to say.
fn prepare_data_directory(directory: &Path, owner: &Identity) -> io::Result<()> {
    let was_made = sys::ensure_directory(directory, 0o700, Some(owner))?;
    if !was_made && is_unused(directory)? {
        give(directory, owner)?;
        give_if_there(&directory.join(sys::OWN_DIRECTORY), owner)?;
    }
    Ok(())
}

fn prepare_log_directory(directory: &Path, owner: &Identity) -> io::Result<()> {
    prepare_directory(directory, 0o750, owner)?;
    give_if_there(&directory.join("postgresql.log"), owner)
}

/// A backup directory is given only if it is a mount of its own, unused, or a repository already: a mistyped
/// `BACKUP_DIR` must not take somebody's home away.
fn prepare_backup_directory(directory: &Path, owner: &Identity) -> io::Result<()> {
    if sys::ensure_directory(directory, 0o700, Some(owner))? {
        return Ok(());
    }
    let former_owner = directory.metadata()?.uid();
    let is_ours = directory.join("repository.json").exists() || sys::is_mount_root(directory)?;
    if is_ours || is_unused(directory)? {
        give(directory, owner)?;
    }
    if is_ours {
        for entry in directory.read_dir()? {
            let entry = entry?;
            let is_written_by_pgbox = is_written_by_pgbox(&entry.file_name().to_string_lossy());
            if is_written_by_pgbox && !is_of_another(&entry.path(), owner, former_owner)? {
                sys::fix_ownership(&entry.path(), owner)?;
            }
        }
    }
    Ok(())
}

/// Whether a name in a repository is one that pgbox, or the scripts before it, gave.
fn is_written_by_pgbox(name: &str) -> bool {
    let prefixes = ["data_", "damaged_", "replaced_", "repository."];
    matches!(name, "packs" | "wal" | "dumps" | "lock")
        || prefixes.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether an entry of a repository was made by another user than root, the server's, or, but for a plain copy, the one whose
/// repository it was: whoever put it there must not have it taken for ours because we gave it to ourselves.
fn is_of_another(path: &Path, owner: &Identity, former_owner: u32) -> io::Result<bool> {
    let facts = path.symlink_metadata()?;
    let is_of = |uid: u32| facts.uid() == uid;
    if is_of(0) || is_of(owner.uid) {
        return Ok(false);
    }
    let is_plain_copy = facts.is_dir() && is_backup(path) && !path.join("backup.json").exists();
    Ok(!is_of(former_owner) || is_plain_copy)
}

fn is_backup(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.parse::<BackupName>().is_ok()
}

fn is_unused(directory: &Path) -> io::Result<bool> {
    for entry in directory.read_dir()? {
        if !UNUSED_NAMES.iter().any(|name| entry.as_ref().is_ok_and(|entry| entry.file_name() == *name)) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn give(path: &Path, owner: &Identity) -> io::Result<()> {
    if path.symlink_metadata()?.uid() == owner.uid {
        return Ok(());
    }
    sys::set_owner(path, owner)
}

fn give_if_there(path: &Path, owner: &Identity) -> io::Result<()> {
    match give(path, owner) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_somebodys_file_is_in_use() {
        let directory = tempfile::tempdir().unwrap();
        assert!(is_unused(directory.path()).unwrap());
        std::fs::write(directory.path().join(".gitkeep"), "").unwrap();
        assert!(is_unused(directory.path()).unwrap());
        std::fs::write(directory.path().join("letter.txt"), "").unwrap();
        assert!(!is_unused(directory.path()).unwrap());
    }

    #[test]
    fn only_names_of_a_repository_are_ours() {
        for name in ["data_20261120_114010", "damaged_20261120_114010", "repository.json", "packs"] {
            assert!(is_written_by_pgbox(name), "{name}");
        }
        for name in ["home", "lost+found", "database", ".ssh"] {
            assert!(!is_written_by_pgbox(name), "{name}");
        }
    }
}
