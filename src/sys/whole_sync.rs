//! Whether one call writes a whole file system to disk.
//!
//! `syncfs(2)` answers with success where the file system has nothing to do for it. Linux's FUSE does not ask its
//! process (fuse/inode.c, `fuse_sync_fs()`; virtiofs alone does), 9p has no such call at all, and before 5.8 no kernel
//! reported a write that had failed. A file system that is not known to do what it says is synced file by file.

use super::directory::Directory;
use super::kernel::kernel_version;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// The first kernel that reports failed writes through `syncfs(2)`.
const FIRST_KERNEL: (u32, u32) = (5, 8);
/// File systems that write everything (linux/magic.h): ext2 to ext4, XFS, Btrfs, F2FS, ZFS, bcachefs, overlayfs by the
/// file system below it, and tmpfs, which has nothing to write.
const SOUND: [u64; 8] =
    [0xEF53, 0x5846_5342, 0x9123_683E, 0xF2F5_2010, 0x2FC1_2FC1, 0xCA45_1A4E, 0x794C_7630, 0x0102_1994];

/// Returns whether one call writes all of the file system that an open file is on.
pub(super) fn is_sound_for(file: impl AsFd) -> io::Result<bool> {
    let file_system = u64::try_from(rustix::fs::fstatfs(file)?.f_type).unwrap_or_default();
    Ok(is_sound(file_system, kernel_version()))
}

/// Writes everything below a directory to disk, of the file system that it is on.
///
/// # Errors
/// When the directory cannot be opened, or what is below it could not be written.
pub fn sync_everything(directory: &Path) -> io::Result<()> {
    Directory::open(directory)?.sync_file_system()
}

fn is_sound(file_system: u64, kernel: Option<(u32, u32)>) -> bool {
    SOUND.contains(&file_system) && kernel.is_some_and(|version| version >= FIRST_KERNEL)
}

/// Returns whether one call for each file system writes all of a cluster: its directory, its WAL and its tablespaces, be
/// they links or not. What cannot be looked at counts as a no.
pub fn syncs_at_once(data_directory: &Path) -> bool {
    let is_sound =
        |path: &Path| std::fs::File::open(path).and_then(|file| is_sound_for(&file)).unwrap_or(false);
    let Ok(tablespaces) = std::fs::read_dir(data_directory.join("pg_tblspc")) else { return false };
    let mut tablespaces = tablespaces.map(|entry| entry.is_ok_and(|entry| is_sound(&entry.path())));
    is_sound(data_directory)
        && is_sound(&data_directory.join("pg_wal"))
        && tablespaces.all(|is_sound| is_sound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const EXT4: u64 = 0xEF53;

    #[rstest]
    #[case::ext4(EXT4, true)]
    #[case::xfs(0x5846_5342, true)]
    #[case::overlayfs(0x794C_7630, true)]
    #[case::fuse(0x6573_5546, false)]
    #[case::plan_9(0x0102_1997, false)]
    #[case::nfs(0x6969, false)]
    #[case::cifs(0xFF53_4D42, false)]
    #[case::unknown(0, false)]
    fn only_file_systems_that_are_known_to_write_everything_are_synced_at_once(
        #[case] file_system: u64,
        #[case] expected: bool,
    ) {
        assert_eq!(is_sound(file_system, Some((6, 1))), expected);
    }

    #[rstest]
    #[case::before_errors_were_reported(Some((5, 7)), false)]
    #[case::since(Some((5, 8)), true)]
    #[case::not_known(None, false)]
    fn a_kernel_that_does_not_report_failed_writes_syncs_file_by_file(
        #[case] kernel: Option<(u32, u32)>,
        #[case] expected: bool,
    ) {
        assert_eq!(is_sound(EXT4, kernel), expected);
    }

    #[test]
    fn a_cluster_with_a_tablespace_that_is_not_there_is_not_synced_at_once() {
        let data = tempfile::tempdir().unwrap();
        for directory in ["pg_wal", "pg_tblspc"] {
            std::fs::create_dir(data.path().join(directory)).unwrap();
        }
        std::os::unix::fs::symlink("/nonexistent", data.path().join("pg_tblspc/16400")).unwrap();

        assert!(!syncs_at_once(data.path()));
    }
}
