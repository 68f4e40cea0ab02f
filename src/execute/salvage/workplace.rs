//! Where a salvage works: a directory of its own below `.pgbox`, which is gone when it is over.

use crate::execute::Tools;
use crate::pg::control_file::{self, ControlFile};
use crate::sys::{OWN_DIRECTORY, WriteRoot};
use std::io;
use std::path::{Path, PathBuf};

/// Where the copy of a damaged cluster is, and all else that a salvage needs, below the data directory.
pub(in crate::execute) const SALVAGE: &str = ".pgbox/salvage";
/// The copy itself, which a server runs on.
pub(in crate::execute) const COPY: &str = ".pgbox/salvage/copy";
/// Where the tablespaces of the copy are.
const TABLESPACES: &str = ".pgbox/salvage/tablespaces";

/// What every part of a salvage needs.
#[derive(Clone, Copy)]
pub(super) struct Workplace<'a> {
    pub(super) tools: &'a Tools<'a>,
    pub(super) root: &'a WriteRoot,
}

impl Workplace<'_> {
    /// A path of the copy, below the data directory.
    #[expect(clippy::unused_self, reason = "only who has a workplace has a copy")]
    pub(super) fn copied(&self, path: impl AsRef<Path>) -> PathBuf {
        match path.as_ref().to_str() {
            Some(".") => PathBuf::from(COPY),
            _ => Path::new(COPY).join(path),
        }
    }

    /// The copy's directory.
    pub(super) fn copy_directory(&self) -> PathBuf {
        self.root.path().join(COPY)
    }

    /// A file of the salvage itself.
    pub(super) fn scratch(&self, name: &str) -> PathBuf {
        self.root.path().join(SALVAGE).join(name)
    }

    /// Removes a file of the workplace, if it is there.
    pub(super) fn discard(&self, place: impl AsRef<Path>) -> io::Result<()> {
        debug_assert!(place.as_ref().starts_with(OWN_DIRECTORY));
        self.root.discard(place)
    }

    /// The control file of the copy, where it can be read.
    pub(super) fn control_file(&self) -> Option<ControlFile> {
        let limit = u64::try_from(control_file::FILE_SIZE_BYTES).ok()?;
        let bytes = self.root.read_bounded(self.copied("global/pg_control"), limit).ok()?;
        ControlFile::parse(&bytes).ok()
    }

    /// How long a file of the copy is; `None` where there is none.
    pub(super) fn size_bytes(&self, place: impl AsRef<Path>) -> Option<u64> {
        self.root.facts(place).ok().flatten().map(|facts| facts.size_bytes)
    }
}

/// Where the copy has what the present cluster has at `path`.
pub(super) fn copied_place(path: &str) -> PathBuf {
    match path.strip_prefix("pg_tblspc/") {
        Some(below) => Path::new(TABLESPACES).join(below),
        None => Path::new(COPY).join(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tablespaces_are_copied_beside_the_copy() {
        assert_eq!(copied_place("base/5/1259"), Path::new(".pgbox/salvage/copy/base/5/1259"));
        assert_eq!(copied_place("pg_tblspc/16400/x"), Path::new(".pgbox/salvage/tablespaces/16400/x"));
    }
}
