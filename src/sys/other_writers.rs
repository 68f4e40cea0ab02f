//! Whether anybody but root and ourselves may change a file: what we run, or believe, must be nobody else's to write.

use super::directory::{FileFacts, facts_of_stat};
use super::identity::{Identity, effective_identity, user_of};
use rustix::fs::{StatVfsMountFlags, stat, statvfs};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const GROUP_MAY_WRITE: u32 = 0o020;
const ALL_MAY_WRITE: u32 = 0o002;
/// In such a directory nobody takes away or renames what is another's.
const STICKY: u32 = 0o1000;

/// Who is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Root and ourselves.
    Ourselves,
    /// These, and a number that no user of this system has, as the owner of what a container's host mounted into it.
    OrNobodyHere,
}

/// What somebody else may change, and who.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherWriter {
    /// The file, or a directory on the way to it.
    pub path: PathBuf,
    /// Who, as a sentence about it.
    pub reason: String,
}

impl std::fmt::Display for OtherWriter {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "'{}' {}", self.path.display(), self.reason)
    }
}

/// Finds somebody who is not believed and may change a file or directory, or exchange it by a directory on the way to it.
/// What a symlink leads to counts. Nobody changes what is on a mount that is only read.
pub fn find_other_writer(path: &Path, trust: Trust) -> io::Result<Option<OtherWriter>> {
    let ourselves = effective_identity();
    let resolved = fs::canonicalize(path)?;
    for place in resolved.ancestors() {
        let mut facts = facts_of_stat(&stat(place)?);
        if place != resolved && facts.mode & STICKY != 0 {
            facts.mode &= !(GROUP_MAY_WRITE | ALL_MAY_WRITE);
        }
        if let Some(reason) = other_writer(&facts, &ourselves, trust)
            && !statvfs(place)?.f_flag.contains(StatVfsMountFlags::RDONLY)
        {
            return Ok(Some(OtherWriter { path: place.to_path_buf(), reason }));
        }
    }
    Ok(None)
}

/// Who else than root, a user and who else is believed may change an entry with these facts.
pub fn other_writer(facts: &FileFacts, user: &Identity, trust: Trust) -> Option<String> {
    let owner = user_of(facts.uid);
    let is_believed =
        owner.is_root() || owner.uid == user.uid || (trust == Trust::OrNobodyHere && owner.name.is_none());
    if !is_believed {
        return Some(format!("belongs to user {owner}"));
    }
    if facts.mode & ALL_MAY_WRITE != 0 {
        return Some("may be written to by everybody".to_owned());
    }
    // The group of a user is most often that user's own.
    let is_own_group = facts.gid == 0 || facts.gid == user.gid || facts.gid == owner.gid;
    (facts.mode & GROUP_MAY_WRITE != 0 && !is_own_group)
        .then(|| format!("may be written to by group {}", facts.gid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::EntryKind;
    use rstest::rstest;

    const NOBODY: u32 = 65_534;
    /// A number that no system gives to a user.
    const NAMELESS: u32 = 3_999_999_999;

    fn facts(uid: u32, gid: u32, mode: u32) -> FileFacts {
        FileFacts { kind: EntryKind::File, size_bytes: 0, mode, uid, gid, modified_ns: 0, changed_ns: 0 }
    }

    #[rstest]
    #[case::of_root(0, 0, 0o755, true)]
    #[case::of_root_and_its_group(0, 0, 0o775, true)]
    #[case::of_ourselves(4242, 4242, 0o775, true)]
    #[case::for_everybody(0, 0, 0o757, false)]
    #[case::for_everybody_who_may_not_remove(0, 0, 0o1777, false)]
    #[case::for_another_group(0, 12, 0o775, false)]
    #[case::of_another_user(NOBODY, NOBODY, 0o700, false)]
    #[case::of_nobody_here(NAMELESS, NAMELESS, 0o755, false)]
    fn only_root_and_ourselves_are_believed(
        #[case] uid: u32,
        #[case] gid: u32,
        #[case] mode: u32,
        #[case] ours: bool,
    ) {
        let user = Identity { uid: 4242, gid: 4242, name: None };
        assert_eq!(other_writer(&facts(uid, gid, mode), &user, Trust::Ourselves).is_none(), ours);
    }

    #[test]
    fn what_the_host_mounted_into_a_container_is_believed_where_that_is_asked_for() {
        let user = Identity { uid: 4242, gid: 4242, name: None };
        let writer = |mode| other_writer(&facts(NAMELESS, NAMELESS, mode), &user, Trust::OrNobodyHere);
        assert_eq!((writer(0o775), writer(0o777).is_some()), (None, true));
    }

    #[test]
    fn a_directory_on_the_way_that_others_may_write_to_is_found() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("open/inner");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("program"), "").unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(inner.join("program"), &link).unwrap();
        assert_eq!(find_other_writer(&link, Trust::Ourselves).unwrap(), None);

        let open = directory.path().join("open");
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();

        let found = find_other_writer(&link, Trust::Ourselves).unwrap().unwrap();
        assert_eq!(found.path, fs::canonicalize(&open).unwrap());
        fs::set_permissions(&open, fs::Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(find_other_writer(&link, Trust::Ourselves).unwrap(), None);
    }
}
