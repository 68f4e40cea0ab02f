//! Copying a file of which not all may be readable.

use super::holes::data_ranges;
use rustix::fs::ioctl_ficlone;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

const PIECE_BYTES: usize = 1 << 20;
/// What is given up at once where a disk fails: a page of the database, and of most disks.
const GIVEN_UP_BYTES: usize = 8192;

/// What became of a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Whether the copy shares the blocks of the original, so that it takes no room.
    pub is_shared: bool,
    /// What could not be read, and is zeros in the copy.
    pub unreadable: Vec<Unreadable>,
}

/// A part of a file that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Where it begins.
    pub offset: u64,
    /// How long it is.
    pub size_bytes: u64,
    /// What the file system said.
    pub reason: String,
}

/// Copies the content of `from` to the empty file `to`. Holes stay holes: a file of kilobytes may claim terabytes.
pub(super) fn copy_content(from: &File, to: &File) -> io::Result<Copied> {
    if ioctl_ficlone(to, from).is_ok() {
        return Ok(Copied { is_shared: true, unreadable: Vec::new() });
    }
    let size_bytes = from.metadata()?.len();
    let mut copied = Copied::default();
    let mut piece = vec![0; PIECE_BYTES];
    // A disk that fails may not tell where the data are, either.
    let whole = || std::iter::once(0..size_bytes).collect();
    for range in data_ranges(from).unwrap_or_else(|_| whole()) {
        copy_range(from, to, range, &mut piece, &mut copied)?;
    }
    to.set_len(size_bytes)?;
    Ok(copied)
}

fn copy_range(
    from: &File,
    to: &File,
    range: Range<u64>,
    piece: &mut [u8],
    copied: &mut Copied,
) -> io::Result<()> {
    let mut offset = range.start;
    while offset < range.end {
        let length = usize::try_from(range.end - offset).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        match from.read_at(piece.get_mut(..length).unwrap_or_default(), offset) {
            Ok(0) => break,
            Ok(count) => {
                to.write_all_at(piece.get(..count).unwrap_or_default(), offset)?;
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => offset = copy_what_reads(from, to, offset, copied)?,
        }
    }
    Ok(())
}

/// Copies one piece that cannot be read whole, part by part; returns where the next piece begins.
fn copy_what_reads(from: &File, to: &File, start: u64, copied: &mut Copied) -> io::Result<u64> {
    let end = start + PIECE_BYTES as u64;
    let mut part = [0; GIVEN_UP_BYTES];
    for offset in (start..end).step_by(GIVEN_UP_BYTES) {
        match from.read_at(&mut part, offset) {
            Ok(0) => break,
            Ok(count) => to.write_all_at(part.get(..count).unwrap_or_default(), offset)?,
            Err(error) => copied.unreadable.push(Unreadable {
                offset,
                size_bytes: GIVEN_UP_BYTES as u64,
                reason: error.to_string(),
            }),
        }
    }
    Ok(end)
}
