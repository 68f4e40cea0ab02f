//! Which parts of a file hold data. A hole reads as zeros, takes no room on the disk, and may be terabytes long: what
//! is not stored is not read either.

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::ops::Range;

/// The parts of a file that are no holes, in order. A file system that does not tell has none.
pub fn data_ranges(file: &File) -> io::Result<Vec<Range<u64>>> {
    let size_bytes = file.metadata()?.len();
    let mut ranges = Vec::new();
    let mut offset = 0;
    while offset < size_bytes {
        let begin = match seek(file, SeekFrom::Data(offset)) {
            Ok(begin) => begin,
            // Nothing but a hole follows (lseek(2)).
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::NOTSUP | Errno::NOSYS) => {
                ranges.push(offset..size_bytes);
                break;
            }
            Err(error) => return Err(error.into()),
        };
        let end = seek(file, SeekFrom::Hole(begin))?.min(size_bytes);
        ranges.push(begin..end);
        offset = end.max(begin + 1);
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn what_is_between_holes_is_found_and_a_hole_is_none_of_it() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        file.write_all_at(b"middle", 1 << 30).unwrap();
        file.set_len(1 << 40).unwrap();

        let ranges = data_ranges(&file).unwrap();

        assert!(ranges.iter().any(|range| range.contains(&0)), "{ranges:?}");
        assert!(ranges.iter().any(|range| range.contains(&((1 << 30) + 5))), "{ranges:?}");
        assert!(ranges.iter().map(|range| range.end - range.start).sum::<u64>() < 1 << 24, "{ranges:?}");
        assert_eq!(data_ranges(&tempfile::tempfile().unwrap()).unwrap(), []);
    }
}
