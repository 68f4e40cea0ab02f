//! Owners and modes, which no PostgreSQL tool looks at before the server trips over them.

use super::Inspection;
use super::{Expectations, FileTree};
use crate::cluster::ownership::Ownership;
use crate::pg::{MajorVersion, layout};
use crate::plan::{Finding, Remedy, Severity};
use crate::sys::{EntryKind, OWN_DIRECTORY, ReadRoot, user_of};
use std::io;
use std::path::{Path, PathBuf};

/// As many entries of pgbox's own are listed at the most; one that belongs to somebody else is reason enough.
const MOST_MISOWNED: usize = 1000;

/// Opens a directory below the root, following a symlink to elsewhere (an external `pg_wal`, a tablespace), be it the
/// directory itself or one that it is in.
pub(crate) fn follow(root: &ReadRoot, name: &str) -> io::Result<ReadRoot> {
    if let Some((parent, last)) = name.rsplit_once('/')
        && root.read_link(parent).is_ok()
    {
        return follow(&follow(root, parent)?, last);
    }
    match root.read_link(name) {
        Ok(target) if target.is_absolute() => ReadRoot::open(&target),
        Ok(target) => ReadRoot::open(&root.path().join(target)),
        Err(_) => root.subroot(name),
    }
}

/// Whether a path below the data directory is in one of the directories that initdb makes.
fn is_postgresqls(path: &str) -> bool {
    let top = path.split('/').next().unwrap_or(path);
    layout::required_directories(MajorVersion(u32::MAX)).any(|directory| directory == top)
}

/// Adds the directories and files at and below a path that do not belong to the server's user, as far as it can be listed.
/// Links are not followed, and may be anybody's.
fn add_misowned_below(root: &ReadRoot, path: &str, server_uid: u32, misowned: &mut Vec<PathBuf>) {
    let Ok(Some(facts)) = root.facts(path) else { return };
    let is_directory = facts.kind == EntryKind::Directory;
    if (is_directory || facts.kind == EntryKind::File) && facts.uid != server_uid {
        misowned.push(root.path().join(path));
    }
    if !is_directory || misowned.len() >= MOST_MISOWNED {
        return;
    }
    for entry in root.entries(path).unwrap_or_default() {
        add_misowned_below(root, &format!("{path}/{}", entry.name), server_uid, misowned);
    }
}

impl Inspection<'_> {
    /// Checks who owns the entries, and that nobody else may enter.
    pub(super) fn check_files(&mut self, tree: &FileTree, expectations: &Expectations) {
        self.check_mode();
        self.check_modes(tree, expectations.server_uid);
        let mut misowned = self.misowned(tree, expectations.server_uid);
        let own_owner = self.root.own_facts().map_or(expectations.server_uid, |facts| facts.uid);
        if own_owner != expectations.server_uid {
            misowned.insert(0, self.root.path().to_path_buf());
        }
        let Some(first) = misowned.first() else { return };
        let place = first.strip_prefix(self.root.path()).unwrap_or(first);
        let place = if place == Path::new("") { ".".into() } else { place.display().to_string() };
        let evidence = format!(
            "{} of its entries do not belong to user {}, as whom the server runs",
            misowned.len(),
            expectations.server_uid
        );
        let remedy = Remedy::SetOwner(expectations.server_uid);
        let finding = Finding::new("owner-wrong", Severity::Warning, place, evidence);
        self.report_with(finding.with_remedy(remedy));
    }

    /// The entries of the data directory that must be given to the server's user.
    fn misowned(&self, tree: &FileTree, server_uid: u32) -> Vec<PathBuf> {
        let ownership = Ownership::of(self.root.path(), &user_of(server_uid));
        let mut misowned = Vec::new();
        for directory in tree.directories.iter().filter(|directory| !directory.is_elsewhere) {
            let others = directory.entries.iter().filter(|entry| entry.facts.uid != server_uid);
            let paths = others.map(|entry| (directory.path_of(&entry.name), entry));
            let needed = paths.filter(|(path, entry)| ownership.must_be_given(path, &entry.facts));
            misowned.extend(needed.map(|(path, _)| self.root.path().join(path)));
        }
        add_misowned_below(self.root, OWN_DIRECTORY, server_uid, &mut misowned);
        misowned.sort();
        misowned.dedup();
        misowned
    }

    /// Reports what the server's user owns and has no leave to use, which it may give itself.
    ///
    /// What PostgreSQL does not make may be meant to be read only, as a key is.
    fn check_modes(&mut self, tree: &FileTree, server_uid: u32) {
        for directory in tree.directories.iter().filter(|directory| !directory.is_elsewhere) {
            let is_top = directory.path.is_empty();
            let owned = directory.entries.iter().filter(|entry| entry.facts.uid == server_uid);
            for entry in owned.filter(|entry| !is_top || entry.name != OWN_DIRECTORY) {
                let is_written =
                    if is_top { is_postgresqls(&entry.name) } else { is_postgresqls(&directory.path) };
                let needed = match entry.facts.kind {
                    EntryKind::Directory => 0o700,
                    EntryKind::File if is_written => 0o600,
                    EntryKind::File => 0o400,
                    _ => continue,
                };
                let mode = entry.facts.mode & 0o7777;
                if mode & needed == needed {
                    continue;
                }
                let place = directory.path_of(&entry.name);
                let evidence = format!(
                    "its mode is {mode:04o}, and its owner, as whom the server runs, needs {needed:04o}"
                );
                let finding = Finding::new("mode-wrong", Severity::Warning, place, evidence);
                self.report_with(finding.with_remedy(Remedy::SetMode(mode & 0o777 | needed)));
            }
        }
    }

    /// The server accepts 0700 and 0750 and nothing else (miscinit.c, `checkDataDir()`).
    fn check_mode(&mut self) {
        let Ok(facts) = self.root.own_facts() else { return };
        if facts.mode & 0o027 == 0 && facts.mode & 0o700 == 0o700 {
            return;
        }
        let evidence = format!("its mode is {:04o}, and the server accepts 0700 or 0750", facts.mode);
        let finding = Finding::new("mode-wrong", Severity::Warning, ".", evidence);
        self.report_with(finding.with_remedy(Remedy::SetMode(0o700)));
    }
}
