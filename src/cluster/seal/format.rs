//! The seal as bytes: about ten bytes a file, 32 more where its content is sealed, and no way to be misread.
//!
//! ```text
//! magic "pgboxsel", version u8, system identifier u64, checkpoint u64, control file's CRC u32 (little-endian)
//! number of directories
//!   each: length of its path, path, number of files
//!     each: bytes shared with the name before it, length of the rest, the rest, size, time less the one before it,
//!           from version 2 on: 0, or 1 and the BLAKE3 hash of what it holds
//! CRC-32C of all that, u32
//! ```
//! Numbers without a width are varints (LEB128), the time's zigzag. JSON was refused: it takes ten times as long. A
//! seal of version 1, which an older pgbox wrote, is read as one that sealed no content.

use super::content::ContentHash;
use super::{Seal, SealedDirectory, SealedFile, Stop};
use crate::pg::{Lsn, SystemIdentifier};

const MAGIC: &[u8; 8] = b"pgboxsel";
const VERSION: u8 = 2;
/// The version that had no hashes of contents.
const VERSION_WITHOUT_CONTENTS: u8 = 1;
/// No file system of Linux takes longer names (linux/limits.h, `NAME_MAX`).
const LONGEST_NAME_BYTES: usize = 3 * 255;
const CRC_SIZE_BYTES: usize = 4;
const NO_CONTENT: u8 = 0;
const HAS_CONTENT: u8 = 1;

pub(super) fn encode(seal: &Seal) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64 + 24 * seal.file_count());
    bytes.extend_from_slice(MAGIC);
    bytes.push(VERSION);
    bytes.extend_from_slice(&seal.stop.system_identifier.0.to_le_bytes());
    bytes.extend_from_slice(&seal.stop.checkpoint.0.to_le_bytes());
    bytes.extend_from_slice(&seal.stop.control_crc.to_le_bytes());
    put_length(&mut bytes, seal.directories.len());
    for directory in &seal.directories {
        put_length(&mut bytes, directory.path.len());
        bytes.extend_from_slice(directory.path.as_bytes());
        put_files(&mut bytes, &directory.files);
    }
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn put_files(bytes: &mut Vec<u8>, files: &[SealedFile]) {
    put_length(bytes, files.len());
    let (mut name_before, mut time_before) = (&[][..], 0_i64);
    for file in files {
        let name = file.name.as_bytes();
        let shared = name.iter().zip(name_before).take_while(|(left, right)| left == right).count();
        let rest = name.get(shared..).unwrap_or_default();
        put_length(bytes, shared);
        put_length(bytes, rest.len());
        bytes.extend_from_slice(rest);
        put_number(bytes, file.size_bytes);
        put_number(bytes, zigzag(file.modified_ns.wrapping_sub(time_before)));
        match file.content {
            Some(ContentHash(hash)) => {
                bytes.push(HAS_CONTENT);
                bytes.extend_from_slice(&hash);
            }
            None => bytes.push(NO_CONTENT),
        }
        (name_before, time_before) = (name, file.modified_ns);
    }
}

fn put_length(bytes: &mut Vec<u8>, length: usize) {
    put_number(bytes, length as u64);
}

fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(0x80 | low_bits(number));
        number >>= 7;
    }
    bytes.push(low_bits(number));
}

fn low_bits(number: u64) -> u8 {
    let [lowest, ..] = number.to_le_bytes();
    lowest & 0x7F
}

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -((number & 1).cast_signed())
}

/// Reads a seal; `None` for anything that [`encode`] did not write.
pub(super) fn decode(bytes: &[u8]) -> Option<Seal> {
    let (content, crc) = bytes.split_at_checked(bytes.len().checked_sub(CRC_SIZE_BYTES)?)?;
    if crc32c::crc32c(content) != u32::from_le_bytes(crc.try_into().ok()?) {
        return None;
    }
    let mut reader = Reader { rest: content, version: VERSION };
    if reader.take(MAGIC.len())? != MAGIC {
        return None;
    }
    [reader.version] = reader.array()?;
    if ![VERSION, VERSION_WITHOUT_CONTENTS].contains(&reader.version) {
        return None;
    }
    let stop = Stop {
        system_identifier: SystemIdentifier(u64::from_le_bytes(reader.array()?)),
        checkpoint: Lsn(u64::from_le_bytes(reader.array()?)),
        control_crc: u32::from_le_bytes(reader.array()?),
    };
    let mut directories = Vec::new();
    for _ in 0..reader.number()? {
        let length = reader.length()?;
        let path = std::str::from_utf8(reader.take(length)?).ok()?.to_owned();
        directories.push(SealedDirectory { path, files: reader.files()? });
    }
    reader.rest.is_empty().then_some(Seal { stop, directories })
}

struct Reader<'a> {
    rest: &'a [u8],
    version: u8,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7F);
            number |= bits.checked_shl(shift).filter(|shifted| shifted >> shift == bits)?;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn length(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok()
    }

    fn files(&mut self) -> Option<Vec<SealedFile>> {
        let count = self.length()?;
        // Each takes four bytes at least, so that a count out of nowhere asks for no memory.
        let mut files = Vec::with_capacity(count.min(self.rest.len() / 4));
        let (mut name, mut modified_ns) = (Vec::new(), 0_i64);
        for _ in 0..count {
            let (shared, length) = (self.length()?, self.length()?);
            if shared > name.len() {
                return None;
            }
            name.truncate(shared);
            name.extend_from_slice(self.take(length)?);
            if name.len() > LONGEST_NAME_BYTES {
                return None;
            }
            let size_bytes = self.number()?;
            modified_ns = modified_ns.wrapping_add(unzigzag(self.number()?));
            let name = std::str::from_utf8(&name).ok()?.to_owned();
            files.push(SealedFile { name, size_bytes, modified_ns, content: self.content()? });
        }
        Some(files)
    }

    /// Reads the hash of a file's content, if it has one. The outer `None` is a byte that no seal has there.
    #[expect(clippy::option_option, reason = "a seal that is none is not a file without a hash")]
    fn content(&mut self) -> Option<Option<ContentHash>> {
        if self.version == VERSION_WITHOUT_CONTENTS {
            return Some(None);
        }
        match self.array()? {
            [NO_CONTENT] => Some(None),
            [HAS_CONTENT] => Some(Some(ContentHash(self.array()?))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seal() -> impl Strategy<Value = Seal> {
        let content = prop::option::of(any::<[u8; 32]>().prop_map(ContentHash));
        let file = (".{0,8}", any::<u64>(), any::<i64>(), content).prop_map(
            |(name, size_bytes, modified_ns, content)| SealedFile { name, size_bytes, modified_ns, content },
        );
        let directory = (".{0,12}", prop::collection::vec(file, 0..6))
            .prop_map(|(path, files)| SealedDirectory { path, files });
        let stop =
            (any::<u64>(), any::<u64>(), any::<u32>()).prop_map(|(identifier, checkpoint, crc)| Stop {
                system_identifier: SystemIdentifier(identifier),
                checkpoint: Lsn(checkpoint),
                control_crc: crc,
            });
        (stop, prop::collection::vec(directory, 0..5))
            .prop_map(|(stop, directories)| Seal { stop, directories })
    }

    #[test]
    fn a_seal_of_the_first_version_is_read_as_one_without_contents() {
        let file = [0, 4, b'0', b'0', b'0', b'0', 8, 10];
        let stop = [[7, 0, 0, 0, 0, 0, 0, 0], [8, 0, 0, 0, 0, 0, 0, 0]].concat();
        let directory = [&[1, 7][..], b"pg_xact", &[1], &file].concat();
        let mut bytes = [MAGIC.as_slice(), &[1], &stop, &[9, 0, 0, 0], &directory].concat();
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());

        let file = SealedFile { name: "0000".to_owned(), size_bytes: 8, modified_ns: 5, content: None };
        let stop = Stop { system_identifier: SystemIdentifier(7), checkpoint: Lsn(8), control_crc: 9 };
        let directories = vec![SealedDirectory { path: "pg_xact".to_owned(), files: vec![file] }];
        assert_eq!(decode(&bytes), Some(Seal { stop, directories }));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(seal in seal()) {
            prop_assert_eq!(decode(&encode(&seal)), Some(seal));
        }

        #[test]
        fn arbitrary_bytes_are_no_seal_and_no_panic(bytes: Vec<u8>) {
            prop_assert_eq!(decode(&bytes), None);
        }

        #[test]
        fn arbitrary_content_with_a_good_checksum_does_not_panic(content: Vec<u8>) {
            let mut bytes = [MAGIC.as_slice(), &[VERSION], &[0; 20], &content].concat();
            bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
            let _ = decode(&bytes);
        }

        #[test]
        fn one_flipped_bit_makes_it_no_seal(seal in seal(), place: prop::sample::Index, bit in 0_u8..8) {
            let mut bytes = encode(&seal);
            let place = place.index(bytes.len());
            bytes[place] ^= 1 << bit;
            prop_assert_eq!(decode(&bytes), None);
        }
    }
}
