//! What the mount table says of a directory.

use std::io;
use std::path::{Path, PathBuf};

/// Whether a directory is the root of a mount, so that it can be neither moved nor removed.
///
/// `st_dev` cannot tell: a bind mount within one file system has the same number on both sides.
pub fn is_mount_root(path: &Path) -> io::Result<bool> {
    let path = path.canonicalize()?;
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table.lines().filter_map(mount_point).any(|point| Path::new(&point) == path))
}

/// The first mount that lies below a directory, if there is any: what is on it cannot be renamed to elsewhere.
pub fn mount_below(path: &Path) -> io::Result<Option<PathBuf>> {
    let path = path.canonicalize()?;
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let points = table.lines().filter_map(mount_point).map(PathBuf::from);
    Ok(points.filter(|point| *point != path && point.starts_with(&path)).min())
}

/// The mount that a path is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// What sort of file system it is, such as `ext4` or `fuse.sshfs`.
    pub kind: String,
    /// Whether nothing can be written to it.
    pub is_read_only: bool,
}

/// Tells which mount an existing path is on.
pub fn mount_of(path: &Path) -> io::Result<Mount> {
    let path = path.canonicalize()?;
    let flags = rustix::fs::statvfs(&path)?.f_flag;
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let is_read_only = flags.contains(rustix::fs::StatVfsMountFlags::RDONLY);
    Ok(Mount { kind: kind_of_mount(&table, &path).unwrap_or_default().to_owned(), is_read_only })
}

/// File systems whose every call the kernel answers by itself, from a disk of this machine or from memory.
const ANSWERING: [&str; 12] = [
    "bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "rootfs", "tmpfs", "xfs", "zfs",
];

/// Says whether a call for a path may wait for another machine or process, by the mount table alone: the path itself is
/// not touched. Links in it are not followed.
pub fn may_hang(path: &Path) -> io::Result<bool> {
    let path = std::path::absolute(path)?;
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(kind_of_mount(&table, &path).is_some_and(|kind| !ANSWERING.contains(&kind)))
}

/// The file system of the innermost mount; of two on one point, the later hides the other.
fn kind_of_mount<'a>(table: &'a str, path: &Path) -> Option<&'a str> {
    let mounts = table.lines().filter_map(|line| {
        let point = mount_point(line).filter(|point| path.starts_with(point))?;
        let kind = line.split_once(" - ")?.1.split(' ').next()?;
        Some((Path::new(&point).components().count(), kind))
    });
    mounts.max_by_key(|(depth, _)| *depth).map(|(_, kind)| kind)
}

/// Field 5 of a line of `/proc/self/mountinfo`, its octal escapes decoded.
fn mount_point(line: &str) -> Option<String> {
    let field = line.split(' ').nth(4)?;
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        if let (b'\\', Some(byte)) = (first, octal.and_then(|digits| u8::from_str_radix(digits, 8).ok())) {
            bytes.push(byte);
            rest = tail.get(3..).unwrap_or_default();
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_with_a_space_is_decoded() {
        let line = r"36 35 98:0 /mnt1 /mnt/my\040data rw,noatime master:1 - ext3 /dev/root rw";
        assert_eq!(mount_point(line).as_deref(), Some("/mnt/my data"));
    }

    #[test]
    fn the_innermost_and_latest_mount_counts() {
        let table = "1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:5 / /data rw - xfs /dev/sdb rw\n\
            3 1 0:6 / /data rw shared:1 - fuse.osxfs osxfs rw\n4 1 0:7 / /database rw - tmpfs tmpfs rw";
        assert_eq!(kind_of_mount(table, Path::new("/data/pg")), Some("fuse.osxfs"));
        assert_eq!(kind_of_mount(table, Path::new("/dataset")), Some("ext4"));
        assert!(!mount_of(Path::new("/proc/self")).unwrap().kind.is_empty());
        // It is none of a disk's.
        assert!(may_hang(Path::new("/proc/self")).unwrap());
    }

    #[test]
    fn a_mount_below_a_directory_is_found() {
        assert!(mount_below(Path::new("/")).unwrap().is_some());
        assert_eq!(mount_below(tempfile::tempdir().unwrap().path()).unwrap(), None);
    }

    #[test]
    fn the_root_is_a_mount_root_and_a_new_directory_is_not() {
        assert!(is_mount_root(Path::new("/proc")).unwrap());
        let directory = tempfile::tempdir().unwrap();
        assert!(!is_mount_root(directory.path()).unwrap());
    }
}
