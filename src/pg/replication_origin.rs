//! `pg_logical/replorigin_checkpoint`: how far each subscription had come.
//!
//! Source: origin.c, `StartupReplicationOrigin()`, whose every check ends the server with a PANIC.

use super::bytes::u32_at;

/// The file.
pub const ORIGIN_FILE: &str = "pg_logical/replorigin_checkpoint";
/// There is an entry for each slot and worker, so that it is far smaller.
pub const LIMIT_BYTES: u64 = 1 << 20;

/// PostgreSQL: `REPLICATION_STATE_MAGIC`, the same in 13 to 18.
const MAGIC: u32 = 0x1257_DADE;
const NUMBER_BYTES: usize = 4;
/// PostgreSQL: `ReplicationStateOnDisk`.
const ENTRY_BYTES: usize = 16;

/// Why the server does not take the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// It does not end where an entry ends.
    #[error("its size of {0} bytes is impossible")]
    Size(usize),
    /// It does not begin as such a file.
    #[error("its magic number is {0:08X}")]
    Magic(u32),
    /// Its content is not what was written.
    #[error("wrong CRC")]
    Crc,
}

/// Returns how many origins the file has, checked as the server does.
///
/// # Errors
/// [`OriginError`], for what keeps the server from starting.
pub fn count(bytes: &[u8]) -> Result<usize, OriginError> {
    let size = OriginError::Size(bytes.len());
    let magic = u32_at(bytes, 0).ok_or_else(|| size.clone())?;
    if magic != MAGIC {
        return Err(OriginError::Magic(magic));
    }
    let entries = bytes.len().checked_sub(2 * NUMBER_BYTES).ok_or_else(|| size.clone())?;
    if !entries.is_multiple_of(ENTRY_BYTES) {
        return Err(size);
    }
    let (content, crc) = bytes.split_at_checked(bytes.len() - NUMBER_BYTES).ok_or(size)?;
    if u32_at(crc, 0) == Some(crc32c::crc32c(content)) {
        Ok(entries / ENTRY_BYTES)
    } else {
        Err(OriginError::Crc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The file without an origin, as a server wrote it.
    const EMPTY: [u8; 8] = [0xDE, 0xDA, 0x57, 0x12, 0x36, 0xB2, 0x00, 0x6A];

    fn with_entries(entries: &[[u8; ENTRY_BYTES]]) -> Vec<u8> {
        let mut bytes = [MAGIC.to_le_bytes().as_slice(), &entries.concat()].concat();
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    #[test]
    fn the_origins_are_counted() {
        assert_eq!(count(&EMPTY), Ok(0));
        assert_eq!(count(&with_entries(&[[1; 16], [2; 16]])), Ok(2));
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_seen() {
        let bytes = with_entries(&[[7; 16]]);
        for length in 0..bytes.len() {
            assert!(count(&bytes[..length]).is_err(), "{length}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(count(&flipped).is_err(), "{bit}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            let _ = count(&bytes);
        }
    }
}
