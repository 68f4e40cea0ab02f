//! Files of the system that pgbox itself is installed with: links to the binary, manual pages.

use super::directory::Directory;
use std::io;
use std::path::Path;

/// What stands where a link to pgbox should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Nothing.
    Absent,
    /// The binary itself, or a link to it.
    Ours,
    /// A link to where a pgbox of the same name was, or to another pgbox.
    Outdated,
    /// Anything else.
    Foreign,
}

/// Looks at what stands where a link to `binary` should be.
pub fn link_state(path: &Path, binary: &Path) -> io::Result<LinkState> {
    let facts = match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(LinkState::Absent),
        facts => facts?,
    };
    if path.canonicalize().is_ok_and(|found| binary.canonicalize().is_ok_and(|binary| found == binary)) {
        return Ok(LinkState::Ours);
    }
    if !facts.is_symlink() {
        return Ok(LinkState::Foreign);
    }
    let is_pgbox = std::fs::read_link(path)?.file_name() == binary.file_name();
    Ok(if is_pgbox { LinkState::Outdated } else { LinkState::Foreign })
}

/// Makes a link, in place of an outdated one if there is one.
pub fn install_link(directory: &Path, name: &str, target: &Path) -> io::Result<()> {
    let directory = Directory::open(directory)?;
    let temporary = format!(".{name}.pgbox-{}.tmp", std::process::id());
    directory.remove_file_if_there(Path::new(&temporary))?;
    directory.create_symlink(target, Path::new(&temporary))?;
    directory.rename(Path::new(&temporary), Path::new(name))
}

/// Writes a file that everybody may read, whole or not at all.
pub fn install_file(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    Directory::open(directory)?.write_durably(Path::new(name), bytes, 0o644)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_made_replaced_when_outdated_and_told_from_a_foreign_file() {
        let directory = tempfile::tempdir().unwrap();
        let (path, binary) = (directory.path().join("maintenance"), directory.path().join("pgbox"));
        std::fs::write(&binary, "").unwrap();
        let state = || link_state(&path, &binary).unwrap();
        assert_eq!(state(), LinkState::Absent);

        install_link(directory.path(), "maintenance", Path::new("/nowhere/pgbox")).unwrap();
        assert_eq!(state(), LinkState::Outdated);

        install_link(directory.path(), "maintenance", Path::new("pgbox")).unwrap();
        assert_eq!(state(), LinkState::Ours);

        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "theirs").unwrap();
        assert_eq!(state(), LinkState::Foreign);
    }
}
