//! The control file of a cluster, read and understood.

use crate::pg::control_file::{CONTROL_FILE, ControlFile, ControlFileError, FILE_SIZE_BYTES};
use crate::sys::ReadRoot;
use std::io;
use std::path::Path;
use std::time::Duration;

/// The most that is read of one that may be anything: the server itself reads its beginning, however long it is.
const LONGEST_BYTES: u64 = 64 * 1024;

/// How often that of a cluster that is served is read until its checksum holds, and the pause in between.
const ATTEMPTS: usize = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// Why a control file is not known.
#[derive(Debug, thiserror::Error)]
pub enum ReadControlFileError {
    /// It could not be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What was read is no control file.
    #[error(transparent)]
    Format(#[from] ControlFileError),
}

/// Reads the control file of a cluster, of the size that a server writes.
///
/// # Errors
/// A server may be writing it at this moment; then its checksum does not fit.
pub fn read(root: &ReadRoot) -> Result<ControlFile, ReadControlFileError> {
    Ok(ControlFile::parse(&root.read_bounded(CONTROL_FILE, FILE_SIZE_BYTES as u64)?)?)
}

/// Reads the control file of a cluster that may be served, with its bytes: a read that meets the server's write is made
/// again.
///
/// # Errors
/// When none of its states has a checksum that fits.
pub fn read_served(root: &ReadRoot) -> Result<(Vec<u8>, ControlFile), ReadControlFileError> {
    let mut attempt = 1;
    loop {
        let bytes = root.read_bounded(CONTROL_FILE, FILE_SIZE_BYTES as u64)?;
        match ControlFile::parse(&bytes) {
            Ok(control) => return Ok((bytes, control)),
            Err(error) if attempt == ATTEMPTS => return Err(error.into()),
            Err(_) => std::thread::sleep(PAUSE),
        }
        attempt += 1;
    }
}

/// Reads a control file that recovery works on, with its bytes.
pub(crate) fn read_at(
    root: &ReadRoot,
    place: impl AsRef<Path>,
) -> Result<(Vec<u8>, ControlFile), ReadControlFileError> {
    let bytes = root.read_bounded(place, LONGEST_BYTES)?;
    let control = ControlFile::parse(&bytes)?;
    Ok((bytes, control))
}
