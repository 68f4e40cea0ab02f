//! The files of `pg_twophase`: one for each transaction that was prepared before the last checkpoint and has not ended.
//!
//! A file is the data of the WAL record that prepared the transaction, and their CRC (twophase.c, `EndPrepare()`,
//! `CheckPointTwoPhase()`, `RecreateTwoPhaseFile()`). So it can be made again from that record.

use super::MajorVersion;
use super::bytes::{array_at, u16_at, u32_at};

/// The directory of the files.
pub const TWO_PHASE_DIRECTORY: &str = "pg_twophase";
/// No transaction is larger (PostgreSQL: `MaxAllocSize`).
pub const LIMIT_BYTES: u64 = 0x3FFF_FFFF;

/// PostgreSQL: `TWOPHASE_MAGIC`, the same in 13 to 18.
const MAGIC: u32 = 0x57F9_4534;
const CRC_SIZE_BYTES: usize = 4;
/// The major version that counts dropped statistics in the header, which makes it longer.
const FIRST_WITH_STATISTICS: MajorVersion = MajorVersion(15);
/// The major version that names the files by the full transaction number.
const FIRST_WITH_FULL_NUMBERS: MajorVersion = MajorVersion(17);

/// A prepared transaction, by its state data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedTransaction {
    /// Its number.
    pub xid: u32,
    /// The name that its owner gave it.
    pub name: String,
    /// The numbers of its subtransactions.
    pub subtransactions: Vec<u32>,
}

/// Why a file is none that the server takes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TwoPhaseError {
    /// It is too short, or its end is not where a file can end.
    #[error("its size of {0} bytes is impossible")]
    Size(usize),
    /// It does not begin as such a file.
    #[error("its magic number is {0:08X}")]
    Magic(u32),
    /// It names another size.
    #[error("it has {found} bytes and names {named}")]
    Length {
        /// The size that it has.
        found: usize,
        /// The size that it names.
        named: u32,
    },
    /// Its content is not what was written.
    #[error("wrong CRC")]
    Crc,
    /// It is of another transaction than its name says.
    #[error("it is of transaction {0}")]
    OtherTransaction(u32),
}

impl PreparedTransaction {
    /// Reads the file of a transaction by the rules of `ReadTwoPhaseFile()` and `ProcessTwoPhaseBuffer()`.
    ///
    /// # Errors
    /// [`TwoPhaseError`], for what makes the server refuse to start.
    pub fn of_file(bytes: &[u8], xid: u32, major: MajorVersion) -> Result<Self, TwoPhaseError> {
        let size = TwoPhaseError::Size(bytes.len());
        let crc_offset = bytes.len().checked_sub(CRC_SIZE_BYTES).ok_or_else(|| size.clone())?;
        if !crc_offset.is_multiple_of(8) || crc_offset < header_bytes(major) {
            return Err(size);
        }
        let magic = u32_at(bytes, 0).unwrap_or_default();
        if magic != MAGIC {
            return Err(TwoPhaseError::Magic(magic));
        }
        let named = u32_at(bytes, 4).unwrap_or_default();
        if usize::try_from(named) != Ok(bytes.len()) {
            return Err(TwoPhaseError::Length { found: bytes.len(), named });
        }
        let (content, crc) = bytes.split_at_checked(crc_offset).ok_or_else(|| size.clone())?;
        if u32_at(crc, 0) != Some(crc32c::crc32c(content)) {
            return Err(TwoPhaseError::Crc);
        }
        let found = Self::of_state(content, major).ok_or(size)?;
        if found.xid == xid { Ok(found) } else { Err(TwoPhaseError::OtherTransaction(found.xid)) }
    }

    /// Reads the state data, as the WAL record and the file have them; `None` if they make no sense.
    ///
    /// Source: xact.h, `xl_xact_prepare`; twophase.c, `ProcessTwoPhaseBuffer()`.
    pub fn of_state(state: &[u8], major: MajorVersion) -> Option<Self> {
        let header = header_bytes(major);
        if u32_at(state, 0)? != MAGIC {
            return None;
        }
        let name_bytes = usize::from(u16_at(state, header.checked_sub(18)?)?);
        let name = state.get(header..)?.get(..name_bytes)?.split(|byte| *byte == 0).next()?;
        let first = header.checked_add(name_bytes.checked_next_multiple_of(8)?)?;
        let count = usize::try_from(u32_at(state, 28)?).ok()?;
        let numbers = state.get(first..)?.get(..count.checked_mul(4)?)?;
        Some(Self {
            xid: u32_at(state, 8)?,
            name: String::from_utf8_lossy(name).into_owned(),
            subtransactions: numbers.chunks_exact(4).filter_map(|number| u32_at(number, 0)).collect(),
        })
    }
}

/// Makes the file of a transaction from the data of the record that prepared it. `None` if the data are not those of a
/// whole record.
pub fn file_of_state(state: &[u8]) -> Option<Vec<u8>> {
    let size = state.len().checked_add(CRC_SIZE_BYTES)?;
    if u32_at(state, 0)? != MAGIC || usize::try_from(u32_at(state, 4)?) != Ok(size) {
        return None;
    }
    Some([state, &crc32c::crc32c(state).to_le_bytes()].concat())
}

/// The name of a transaction's file. `next_xid` is the next number with its epoch, which every prepared one precedes.
pub fn file_name(xid: u32, next_xid: u64, major: MajorVersion) -> String {
    if major < FIRST_WITH_FULL_NUMBERS {
        return format!("{xid:08X}");
    }
    let [a, b, c, d, ..] = next_xid.to_le_bytes();
    let behind = u32::from_le_bytes([a, b, c, d]).wrapping_sub(xid);
    format!("{:016X}", next_xid.saturating_sub(u64::from(behind)))
}

/// The transaction of a file by its name; `None` for a name that the server passes over (twophase.c,
/// `restoreTwoPhaseData()`).
pub fn transaction_of(name: &str, major: MajorVersion) -> Option<u32> {
    let digits = if major < FIRST_WITH_FULL_NUMBERS { 8 } else { 16 };
    let is_number =
        name.len() == digits && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    let number = u64::from_str_radix(name, 16).ok().filter(|_| is_number)?;
    array_at(&number.to_le_bytes(), 0).map(u32::from_le_bytes)
}

/// The size of the header: 64 bytes, and since 15 another 8 of which the name's length has its place 18 bytes before
/// the end in each.
fn header_bytes(major: MajorVersion) -> usize {
    if major < FIRST_WITH_STATISTICS { 64 } else { 72 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::fixtures::{MAJORS, read};
    use proptest::prelude::*;

    /// A transaction named `pay` with two subtransactions, as each version wrote it.
    fn fixture(major: MajorVersion) -> (u32, Vec<u8>) {
        let bytes = read(major, "two_phase_state");
        (u32_at(&bytes, 8).unwrap(), bytes)
    }

    #[test]
    fn the_file_of_every_version_is_read() {
        for major in MAJORS {
            let (xid, bytes) = fixture(major);

            let found = PreparedTransaction::of_file(&bytes, xid, major).unwrap();

            assert_eq!((found.xid, found.name.as_str()), (xid, "pay"), "{major}");
            assert_eq!(found.subtransactions, [xid + 1], "{major}");
        }
    }

    #[test]
    fn a_file_is_made_again_from_the_data_of_its_record() {
        for major in MAJORS {
            let (_, bytes) = fixture(major);
            let state = &bytes[..bytes.len() - CRC_SIZE_BYTES];
            assert_eq!(file_of_state(state).as_deref(), Some(bytes.as_slice()), "{major}");
            assert_eq!(file_of_state(&state[..state.len() - 8]), None, "{major}");
        }
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_seen() {
        for major in MAJORS {
            let (xid, bytes) = fixture(major);
            for length in 0..bytes.len() {
                assert!(
                    PreparedTransaction::of_file(&bytes[..length], xid, major).is_err(),
                    "{major} {length}"
                );
            }
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(PreparedTransaction::of_file(&flipped, xid, major).is_err(), "{major} {bit}");
            }
            let other = PreparedTransaction::of_file(&bytes, xid + 1, major);
            assert_eq!(other, Err(TwoPhaseError::OtherTransaction(xid)), "{major}");
        }
    }

    #[test]
    fn names_have_the_epoch_since_17() {
        let epoch = 3_u64 << 32;
        assert_eq!(file_name(0x2D5, epoch + 0x2DA, MajorVersion(16)), "000002D5");
        assert_eq!(file_name(0x2D5, epoch + 0x2DA, MajorVersion(17)), "00000003000002D5");
        assert_eq!(file_name(0xFFFF_FFF0, epoch + 4, MajorVersion(18)), "00000002FFFFFFF0");
        assert_eq!(transaction_of("000002D5", MajorVersion(16)), Some(0x2D5));
        assert_eq!(transaction_of("00000002FFFFFFF0", MajorVersion(18)), Some(0xFFFF_FFF0));
        for name in ["000002d5", "2D5", "00000003000002D5", "000002D5.tmp", ".gitkeep"] {
            assert_eq!(transaction_of(name, MajorVersion(16)), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_read_without_a_panic(bytes: Vec<u8>, xid: u32) {
            for major in MAJORS {
                let _ = PreparedTransaction::of_file(&bytes, xid, major);
                let _ = PreparedTransaction::of_state(&bytes, major);
            }
            let _ = file_of_state(&bytes);
        }
    }
}
