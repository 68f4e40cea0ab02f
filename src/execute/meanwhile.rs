//! Whether another server ran on the present data while a replacement was being prepared, or was cut short: one that knows
//! nothing of pgbox's lock. What it acknowledged is never thrown away.
//!
//! Every server writes the control file when it starts (xlog.c, `StartupXLOG()`: the state and the time), so a control
//! file that is byte for byte the same proves that none did.

use super::ensure::refuse_server_elsewhere;
use crate::error::{Failure, Kind};
use crate::pg::control_file::CONTROL_FILE;
use crate::plan::Journal;
use crate::sys::{ReadRoot, WriteRoot};

/// The most that is read of a control file, which damage may have made longer.
const LONGEST_BYTES: u64 = 64 * 1024;

/// Returns a hash of the control file as it lies, whatever is in it. `None`: there is none, or it cannot be read.
///
/// No CRC-32C: of bytes that end with their own, as a control file does, that is always the same.
pub(super) fn control_print(root: &ReadRoot) -> Option<String> {
    let bytes = root.read_bounded(CONTROL_FILE, LONGEST_BYTES).ok()?;
    Some(blake3::hash(&bytes).to_hex().to_string())
}

/// Whether another server ran since the journal's phase began, on what is still in place.
pub(super) fn another_server_ran(root: &ReadRoot, journal: &Journal) -> bool {
    match (&journal.control, control_print(root)) {
        (Some(then), Some(now)) => *then != now,
        // Without a control file no server starts. A journal of an older pgbox has none noted.
        _ => false,
    }
}

/// Refuses to replace data that another server uses, or has written to since `before` was taken.
///
/// # Errors
/// [`Kind::Busy`]; nothing was changed.
pub(super) fn refuse_another_server(root: &WriteRoot, before: Option<&str>) -> anyhow::Result<()> {
    refuse_server_elsewhere(root)?;
    if control_print(root).as_deref() == before {
        return Ok(());
    }
    let message =
        format!("another server wrote to '{}' while this was being prepared", root.path().display());
    Err(Failure::new(Kind::Busy, message).hint("run the command again. Nothing was changed.").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_control_files_that_both_have_a_right_checksum_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("global")).unwrap();
        let root = ReadRoot::open(directory.path()).unwrap();
        assert_eq!(control_print(&root), None);
        let print_of = |state: &[u8]| {
            let bytes = [state, crc32c::crc32c(state).to_le_bytes().as_slice(), &[0; 100]].concat();
            std::fs::write(directory.path().join(CONTROL_FILE), bytes).unwrap();
            control_print(&root)
        };

        assert_ne!(print_of(b"shut down"), print_of(b"in production"));
        assert_eq!(print_of(b"shut down"), print_of(b"shut down"));
    }
}
