//! What the mount table says of a directory.

use std::io;
use std::path::Path;

/// Whether a directory is the root of a mount, so that it can be neither moved nor removed.
///
/// `st_dev` cannot tell: a bind mount within one file system has the same number on both sides.
pub fn is_mount_root(path: &Path) -> io::Result<bool> {
    let path = path.canonicalize()?;
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table.lines().filter_map(mount_point).any(|point| Path::new(&point) == path))
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
    fn the_root_is_a_mount_root_and_a_new_directory_is_not() {
        assert!(is_mount_root(Path::new("/proc")).unwrap());
        let directory = tempfile::tempdir().unwrap();
        assert!(!is_mount_root(directory.path()).unwrap());
    }
}
