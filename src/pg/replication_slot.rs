//! The state files of replication slots, `pg_replslot/NAME/state`.
//!
//! Source: slot.c, `RestoreSlotFromDisk()`, whose every check ends the server with a PANIC.

use super::MajorVersion;
use super::bytes::u32_at;

/// The directory of the slots.
pub const SLOT_DIRECTORY: &str = "pg_replslot";
/// A state file is far smaller.
pub const LIMIT_BYTES: u64 = 64 * 1024;

/// PostgreSQL: `SLOT_MAGIC`, the same in 13 to 19.
const MAGIC: u32 = 0x0105_1CA1;
/// What the length does not count, and how much of that the CRC does not cover.
const HEADER_BYTES: usize = 16;
const UNCHECKED_BYTES: usize = 8;
/// The first and the last major version, with their `SLOT_VERSION` and the length of what follows the header.
const FORMATS: [(u32, u32, u32, u32); 4] =
    [(13, 13, 2, 168), (14, 15, 2, 184), (16, 16, 3, 184), (17, 19, 5, 184)];

/// Where what follows the header has the database, and the output plugin: 14 put `two_phase_at` and `two_phase` before it.
const DATABASE_OFFSET: usize = 64;
const PLUGIN_OFFSET_13: usize = 104;
const PLUGIN_OFFSET_14: usize = 113;
const NAME_BYTES: usize = 64;

/// Why the server does not take a state file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// It is too short.
    #[error("its state file has {0} bytes")]
    Size(usize),
    /// It does not begin as a state file.
    #[error("its state file has the magic number {0:08X}")]
    Magic(u32),
    /// It is of another version.
    #[error("its state file is of version {found}, and {expected} is expected")]
    Version {
        /// The version that it names.
        found: u32,
        /// The version that the server writes.
        expected: u32,
    },
    /// It names a length that no state has.
    #[error("its state file names a length of {0}")]
    Length(u32),
    /// Its content is not what was written.
    #[error("its state file has a wrong CRC")]
    Crc,
}

/// Checks a state file as the server does. Of a major version whose format is not known, nothing is said but what the
/// file says of itself.
///
/// # Errors
/// [`SlotError`], for what keeps the server from starting.
pub fn check(bytes: &[u8], major: MajorVersion) -> Result<(), SlotError> {
    let size = SlotError::Size(bytes.len());
    let header = |offset: usize| u32_at(bytes, offset).ok_or_else(|| size.clone());
    let (magic, crc, version, length) = (header(0)?, header(4)?, header(8)?, header(12)?);
    if magic != MAGIC {
        return Err(SlotError::Magic(magic));
    }
    let format = FORMATS.iter().find(|(first, last, ..)| (*first..=*last).contains(&major.0));
    if let Some((_, _, expected, expected_length)) = format {
        if version != *expected {
            return Err(SlotError::Version { found: version, expected: *expected });
        }
        if length != *expected_length {
            return Err(SlotError::Length(length));
        }
    }
    let end = usize::try_from(length).ok().and_then(|length| length.checked_add(HEADER_BYTES));
    let covered = end.and_then(|end| bytes.get(UNCHECKED_BYTES..end)).ok_or(size)?;
    if crc32c::crc32c(covered) == crc { Ok(()) } else { Err(SlotError::Crc) }
}

/// What a state file says of its slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotState {
    /// Its name.
    pub name: String,
    /// The number of the database that a logical one is of; `None` for a physical one.
    pub database: Option<u32>,
    /// The output plugin of a logical one; empty where the version has it in a place that is not known.
    pub plugin: String,
}

/// Reads a state file that [`check`] finds sound (slot.h, `ReplicationSlotPersistentData`).
///
/// # Errors
/// Those of [`check`].
pub fn read(bytes: &[u8], major: MajorVersion) -> Result<SlotState, SlotError> {
    check(bytes, major)?;
    let size = || SlotError::Size(bytes.len());
    let database = u32_at(bytes, HEADER_BYTES + DATABASE_OFFSET).ok_or_else(size)?;
    let plugin = match major.0 {
        13 => Some(PLUGIN_OFFSET_13),
        14..=19 => Some(PLUGIN_OFFSET_14),
        _ => None,
    };
    let name = name_at(bytes, HEADER_BYTES).ok_or_else(size)?;
    let plugin = plugin.and_then(|offset| name_at(bytes, HEADER_BYTES + offset)).unwrap_or_default();
    Ok(SlotState { name, database: Some(database).filter(|oid| *oid != 0), plugin })
}

/// A name as the server stores it: `NAMEDATALEN` bytes, the rest of them zeros.
fn name_at(bytes: &[u8], offset: usize) -> Option<String> {
    let field = bytes.get(offset..offset.checked_add(NAME_BYTES)?)?;
    let name = field.split(|byte| *byte == 0).next().unwrap_or_default();
    Some(String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::fixtures::{MAJORS, read};
    use proptest::prelude::*;

    #[test]
    fn the_state_of_a_slot_of_every_version_is_sound() {
        for major in MAJORS {
            assert_eq!(check(&read(major, "replication_slot"), major), Ok(()), "{major}");
        }
    }

    #[test]
    fn a_physical_slot_has_a_name_and_no_database() {
        for major in MAJORS {
            let state = super::read(&read(major, "replication_slot"), major).unwrap();
            assert!(!state.name.is_empty(), "{major}");
            assert_eq!((state.database, state.plugin.as_str()), (None, ""), "{major}");
        }
    }

    #[rstest::rstest]
    #[case(13, PLUGIN_OFFSET_13)]
    #[case(15, PLUGIN_OFFSET_14)]
    #[case(18, PLUGIN_OFFSET_14)]
    fn a_logical_slot_has_a_database_and_a_plugin(#[case] major: u32, #[case] plugin_offset: usize) {
        let major = MajorVersion(major);
        let mut bytes = read(major, "replication_slot");
        bytes[HEADER_BYTES + DATABASE_OFFSET..][..4].copy_from_slice(&16384_u32.to_le_bytes());
        bytes[HEADER_BYTES + plugin_offset..][..9].copy_from_slice(b"pgoutput\0");
        let crc = crc32c::crc32c(&bytes[UNCHECKED_BYTES..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());

        let state = super::read(&bytes, major).unwrap();

        assert_eq!((state.database, state.plugin.as_str()), (Some(16384), "pgoutput"));
    }

    #[test]
    fn every_cut_every_flipped_bit_and_zeros_are_seen() {
        for major in MAJORS {
            let bytes = read(major, "replication_slot");
            for length in 0..bytes.len() {
                assert!(check(&bytes[..length], major).is_err(), "{major} {length}");
            }
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(check(&flipped, major).is_err(), "{major} {bit}");
            }
            assert_eq!(check(&vec![0; bytes.len()], major), Err(SlotError::Magic(0)));
        }
    }

    #[test]
    fn a_sound_file_of_a_version_that_is_not_known_is_not_called_damaged() {
        assert_eq!(check(&read(MajorVersion(18), "replication_slot"), MajorVersion(99)), Ok(()));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_read_without_a_panic(bytes: Vec<u8>, major in 13_u32..=20) {
            let _ = check(&bytes, MajorVersion(major));
        }
    }
}
