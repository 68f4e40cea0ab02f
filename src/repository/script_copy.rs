//! Backups that the old shell scripts made: `data_YYYYMMDD_HHMMSS/`, a plain copy of a data directory.
//!
//! They are listed and restored like any other, and never changed; retention may remove one whole. Nothing in them
//! can be verified, and most were copied while the server was running, which is said in their note.
//!
//! Nothing in them proves where they come from either, and who restores one runs what is in it. So one counts only where root
//! or the server's user made it, and no other may write to it; and one whose name is of the future, which would be newer than
//! everything for as long, does not count.

use chrono::Utc;
use std::path::Path;

use super::chunk_list::ChunkList;
use super::error::{RepositoryError, attempting};
use super::table::{EntryContent, Table, TableEntry, TableHeader};
use crate::pg::control_file::{self, ControlFile};
use crate::pg::version;
use crate::plan::order::is_of_the_future;
use crate::plan::{BackupFormat, BackupName, BackupSummary, Condition};
use crate::sys::{
    Entry, EntryKind, FileFacts, Identity, ReadRoot, Trust, effective_identity, find_user, other_writer,
    text_of, user_of,
};

const VERSION_FILE: &str = "PG_VERSION";
/// Deeper than any data directory; a loop of bind mounts would be.
const MAXIMUM_DEPTH: usize = 64;

/// Where in a backup's directory the copied data directory is: the directory itself, or the only one in it, as
/// `cp -r` makes it when the target exists. `None` when there is no copy.
pub(super) fn find_data_directory(
    root: &ReadRoot,
    name: BackupName,
) -> Result<Option<String>, RepositoryError> {
    let directory = name.to_string();
    if has_version(root, &directory)? {
        return Ok(Some(directory));
    }
    let entries = root.entries(&directory).map_err(attempting("list", root.path().join(&directory)))?;
    let [Entry { name: inner, facts }] = entries.as_slice() else { return Ok(None) };
    let inner = format!("{directory}/{inner}");
    Ok((facts.kind == EntryKind::Directory && has_version(root, &inner)?).then_some(inner))
}

fn has_version(root: &ReadRoot, directory: &str) -> Result<bool, RepositoryError> {
    let path = Path::new(directory).join(VERSION_FILE);
    let facts = root.facts(&path).map_err(attempting("read", root.path().join(&path)))?;
    Ok(facts.is_some_and(|facts| facts.kind == EntryKind::File))
}

/// Where the copied data directory is.
///
/// # Errors
/// [`RepositoryError::Damaged`] when there is none.
pub(super) fn data_directory(root: &ReadRoot, name: BackupName) -> Result<String, RepositoryError> {
    let what = || RepositoryError::damaged(format!("{name} holds no copy of a data directory"));
    find_data_directory(root, name)?.ok_or_else(what)
}

/// What can be told of a copy without reading more than its first files.
pub(super) fn summarise(root: &ReadRoot, name: BackupName, directory: &str) -> BackupSummary {
    let mut summary = BackupSummary::unknown(name, BackupFormat::ScriptCopy);
    if let Err(reason) = describe(root, directory, &mut summary) {
        summary.condition = Condition::Unreadable { reason };
    }
    summary
}

fn describe(root: &ReadRoot, directory: &str, summary: &mut BackupSummary) -> Result<(), String> {
    if is_of_the_future(summary, Utc::now()) {
        return Err("its name is of a time that is still to come; give the directory the name of the time when it was made, if \
                    it is yours"
            .to_owned());
    }
    let copy = root.subroot(directory).map_err(|error| format!("it could not be opened: {error}"))?;
    let text =
        copy.read_text(VERSION_FILE, 64).map_err(|error| format!("PG_VERSION could not be read: {error}"))?;
    let major = version::parse(&text.unwrap_or_default()).map_err(|error| error.to_string())?;
    summary.major_version = Some(major);
    let bytes = copy
        .read_bounded("global/pg_control", control_file::FILE_SIZE_BYTES as u64)
        .map_err(|error| format!("its control file could not be read: {error}"))?;
    let control = ControlFile::parse(&bytes).map_err(|error| error.to_string())?;
    summary.system_identifier = Some(control.system_identifier);
    summary.timeline = Some(control.timeline);
    summary.checkpoint_lsn = Some(control.checkpoint);
    summary.wal_segment_size_bytes = Some(control.wal_segment_size);
    if !control.state.is_clean() {
        let note = "a script copied it while the server was running, so that it may not be consistent";
        summary.note = Some(note.to_owned());
    }
    let makers = Makers::of(root);
    let around = summary.name.to_string();
    if let Some(facts) = root.facts(&around).map_err(|error| format!("it could not be looked at: {error}"))? {
        makers.refuse_another(&root.path().join(&around), &facts).map_err(|error| chain(&error))?;
    }
    let listed = list(&copy, &makers);
    let entries = listed.map_err(|error| format!("it could not be listed: {}", chain(&error)))?;
    summary.size_bytes = entries.iter().map(TableEntry::size_bytes).sum();
    summary.file_count = entries.iter().filter(|entry| entry.is_file()).count() as u64;
    match entries.iter().find(|entry| lacks_content(entry)) {
        Some(entry) => Err(format!("'{}' is a symbolic link, and what it led to was not copied", entry.path)),
        None => Ok(()),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Whether an entry leads to data that the copy does not have: it would be the live cluster's.
fn lacks_content(entry: &TableEntry) -> bool {
    let is_data = entry.path.parent().is_some() || entry.path.as_str() == "pg_wal";
    matches!(entry.content, EntryContent::Symlink { .. }) && is_data
}

/// Lists a copy as if it had a file table.
pub(super) fn read_table(copy: &ReadRoot, makers: &Makers) -> Result<Table, RepositoryError> {
    let header = TableHeader::new(0o700, None);
    let mut entries = list(copy, makers)?;
    // Sorted like every table; its files have no chunks, so it is not checked like one.
    entries.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(Table { header, entries })
}

fn list(copy: &ReadRoot, makers: &Makers) -> Result<Vec<TableEntry>, RepositoryError> {
    let facts = copy.own_facts().map_err(attempting("look at", copy.path()))?;
    makers.refuse_another(copy.path(), &facts)?;
    let mut entries = Vec::new();
    list_directory(copy, makers, "", &mut entries)?;
    Ok(entries)
}

/// Who may have made a copy that is to be believed.
pub(super) struct Makers {
    server_user: Identity,
}

impl Makers {
    /// Root, and the user that the server runs as: ourselves, or, as root, the user of that name. Without one, as where pgbox
    /// is a library, the owner of the repository.
    pub(super) fn of(root: &ReadRoot) -> Self {
        let ourselves = effective_identity();
        if !ourselves.is_root() {
            return Self { server_user: ourselves };
        }
        let owner = || root.own_facts().map_or(ourselves.clone(), |facts| user_of(facts.uid));
        Self { server_user: find_user("postgres").unwrap_or_else(|_| owner()) }
    }

    /// Says to whom an entry belongs that neither of them made.
    pub(super) fn owner_not_believed(&self, facts: &FileFacts) -> Option<String> {
        let closed = FileFacts { mode: 0o700, ..*facts };
        let writer = other_writer(&closed, &self.server_user, Trust::Ourselves)?;
        Some(format!("it {writer}, and only what root or the server's user made is restored"))
    }

    fn refuse_another(&self, path: &Path, facts: &FileFacts) -> Result<(), RepositoryError> {
        // The mode of a symlink says nothing.
        let is_link = facts.kind == EntryKind::Symlink;
        let facts = if is_link { FileFacts { mode: 0o777 & !0o022, ..*facts } } else { *facts };
        let Some(writer) = other_writer(&facts, &self.server_user, Trust::Ourselves) else { return Ok(()) };
        let (path, user) = (path.display(), &self.server_user);
        let user = user.name.clone().unwrap_or_else(|| user.uid.to_string());
        Err(RepositoryError::damaged(format!(
            "'{path}' {writer}, and only a copy that root or the server's user made is restored; if it is yours: `chown -hR \
             {user}: {path} && chmod -R go-w {path}`"
        )))
    }
}

fn list_directory(
    copy: &ReadRoot,
    makers: &Makers,
    directory: &str,
    entries: &mut Vec<TableEntry>,
) -> Result<(), RepositoryError> {
    let path = if directory.is_empty() { "." } else { directory };
    let listed = copy.entries(path).map_err(attempting("list", copy.path().join(path)))?;
    if directory.split('/').count() > MAXIMUM_DEPTH {
        return Err(RepositoryError::damaged(format!("'{path}' is nested too deeply")));
    }
    for entry in listed {
        let path = if directory.is_empty() { entry.name } else { format!("{directory}/{}", entry.name) };
        makers.refuse_another(&copy.path().join(&path), &entry.facts)?;
        let content = match entry.facts.kind {
            EntryKind::File => {
                EntryContent::File { size_bytes: entry.facts.size_bytes, chunks: ChunkList::default() }
            }
            EntryKind::Directory => EntryContent::Directory,
            EntryKind::Symlink => {
                let target =
                    copy.read_link(&path).map_err(attempting("read link", copy.path().join(&path)))?;
                EntryContent::Symlink { target: text_of(target.as_os_str().as_encoded_bytes()) }
            }
            EntryKind::Special => continue,
        };
        let is_directory = entry.facts.kind == EntryKind::Directory;
        let table_path =
            path.clone().try_into().map_err(|error| RepositoryError::damaged(format!("{error}")))?;
        let (mode, modified_ns) = (entry.facts.mode, entry.facts.modified_ns);
        entries.push(TableEntry { path: table_path, mode, modified_ns, content });
        if is_directory {
            list_directory(copy, makers, &path, entries)?;
        }
    }
    Ok(())
}
