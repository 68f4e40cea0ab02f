//! Files without a name, for what does not fit into memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Makes a file that has no name, in a directory, or where temporary files go if that cannot be written. It is gone
/// with the process, however that ends.
pub fn scratch_file(directory: &Path) -> io::Result<File> {
    tempfile::tempfile_in(directory).or_else(|_| tempfile::tempfile())
}

/// Makes a file without a name in memory, which needs no directory that can be written.
pub fn file_in_memory() -> io::Result<File> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    Ok(File::from(rustix::fs::memfd_create("pgbox", flags)?))
}

/// Drops what the kernel has of a file in memory, so that reading it asks the disk. A kernel that does not is no error.
pub fn forget_cached(file: &File) {
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
}

/// Reads a piece of one back.
///
/// # Errors
/// When it cannot be read, or is not what was written, by its CRC-32C. None is of a kind that says anything about other
/// files.
pub fn read_scratch(file: &File, offset: u64, length: usize, checksum: u32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset).map_err(io::Error::other)?;
    if crc32c::crc32c(&bytes) == checksum {
        Ok(bytes)
    } else {
        Err(io::Error::other("a temporary file is not what was written"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};

    #[test]
    fn a_scratch_file_leaves_no_name_and_needs_no_directory_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        for place in [directory.path(), &directory.path().join("nowhere")] {
            let mut file = scratch_file(place).unwrap();
            file.write_all(b"much").unwrap();
            file.rewind().unwrap();
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, "much");
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        }
    }
}
