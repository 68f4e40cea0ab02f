//! Packs: files of up to some 64 MiB that hold many chunks, so that a repository has hundreds of files and not
//! millions.
//!
//! A pack is its chunks' frames, an index (an entry a chunk: hash, offset, dictionary, stored and raw length; then the
//! dictionaries, each a list of entries whose chunks it is made of), and a footer (offset and counts of the index, the
//! index's hash, a magic). It is named by the hash of all its bytes, written under a temporary name, synced, and renamed:
//! a pack that has its name is whole. All numbers are little-endian. The chunks of a dictionary have none themselves.
//! In an encrypted repository each frame and the index are sealed, and the hashes are of what is stored, so that a copy
//! of a pack can be checked without the key.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::chunk::{CHUNK_SIZE_BYTES, ChunkId, Digest};
use super::encryption::{Encryption, Place};
use super::error::{RepositoryError, attempting};
use super::frame::DICTIONARY_CHUNKS;
use crate::sys::{StoreRoot, step_point};

/// The directory of the packs, below the repository.
pub(super) const PACKS: &str = "packs";
/// What the name of a pack ends with.
pub(super) const PACK_SUFFIX: &str = ".pack";
/// What the name of an unfinished pack ends with.
pub(super) const TEMPORARY_SUFFIX: &str = ".tmp";

/// A pack is closed once it holds this much.
pub(super) const TARGET_SIZE_BYTES: u64 = 64 * 1024 * 1024;
/// And once it has this many chunks, however little they shrank to, so that an index is never more than 3 MiB.
pub(super) const MOST_CHUNKS: usize = 64 * 1024;
const BUFFER_SIZE_BYTES: usize = 256 * 1024;
/// No pack is larger, with room to spare: it is closed long before. What is larger is a file of holes.
const LARGEST_SIZE_BYTES: u64 = 4 * TARGET_SIZE_BYTES;
/// And no index has more, of chunks and of dictionaries.
const MOST_ENTRIES: usize = 4 * MOST_CHUNKS;
/// A frame is larger than its chunk only where that does not shrink, and then by some bytes in a thousand (zstd.h,
/// `ZSTD_COMPRESSBOUND()`), and by what it is sealed with.
const LARGEST_FRAME_BYTES: usize = CHUNK_SIZE_BYTES + CHUNK_SIZE_BYTES / 64 + 4096;

const MAGIC: &[u8; 8] = b"PGBXPK01";
const ENCRYPTED_MAGIC: &[u8; 8] = b"PGBXPK02";
const ENTRY_SIZE: usize = 48;
const DICTIONARY_SIZE: usize = 4 * DICTIONARY_CHUNKS;
const FOOTER_SIZE: usize = 56;

/// The name of a pack: the hash of all its bytes.
pub(super) type PackId = Digest;

/// Where a pack is, below the repository.
pub(super) fn pack_path(id: &PackId) -> PathBuf {
    let name = id.to_string();
    Path::new(PACKS).join(name.get(..2).unwrap_or_default()).join(format!("{name}{PACK_SUFFIX}"))
}

/// The entries whose chunks, one after the other, are a dictionary.
pub(super) type DictionaryEntries = [u32; DICTIONARY_CHUNKS];

/// Where one chunk is within its pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PackEntry {
    pub(super) chunk: ChunkId,
    pub(super) offset: u32,
    /// The number of the dictionary that it was compressed with.
    pub(super) dictionary: Option<u32>,
    pub(super) stored_size_bytes: u32,
    pub(super) raw_size_bytes: u32,
}

impl PackEntry {
    fn encode(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.chunk.0);
        into.extend_from_slice(&self.offset.to_le_bytes());
        into.extend_from_slice(&self.dictionary.map_or(0, |number| number.saturating_add(1)).to_le_bytes());
        into.extend_from_slice(&self.stored_size_bytes.to_le_bytes());
        into.extend_from_slice(&self.raw_size_bytes.to_le_bytes());
    }

    fn decode(bytes: &[u8; ENTRY_SIZE]) -> Option<Self> {
        let number = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        Some(Self {
            chunk: Digest(*bytes.first_chunk()?),
            offset: number(32)?,
            dictionary: number(36)?.checked_sub(1),
            stored_size_bytes: number(40)?,
            raw_size_bytes: number(44)?,
        })
    }

    /// Whether its frame lies before the index, and it is no larger than a chunk can be.
    fn is_within(&self, index_offset: u64) -> bool {
        let end = u64::from(self.offset) + u64::from(self.stored_size_bytes);
        end <= index_offset
            && self.raw_size_bytes as usize <= CHUNK_SIZE_BYTES
            && self.stored_size_bytes as usize <= LARGEST_FRAME_BYTES
    }
}

/// What a pack says that it holds.
#[derive(Debug, Default)]
pub(super) struct PackIndex {
    pub(super) entries: Vec<PackEntry>,
    pub(super) dictionary_entries: Vec<DictionaryEntries>,
}

impl PackIndex {
    fn encode(&self) -> Vec<u8> {
        let size = self.entries.len() * ENTRY_SIZE + self.dictionary_entries.len() * DICTIONARY_SIZE;
        let mut bytes = Vec::with_capacity(size + FOOTER_SIZE);
        self.entries.iter().for_each(|entry| entry.encode(&mut bytes));
        for number in self.dictionary_entries.as_flattened() {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// `None` if an entry is where none can be, or a dictionary is not of chunks that have none.
    fn decode(bytes: &[u8], footer: &Footer) -> Option<Self> {
        let (entries, dictionaries) = bytes.split_at_checked(footer.entry_count as usize * ENTRY_SIZE)?;
        let decode = |bytes| PackEntry::decode(bytes).filter(|entry| entry.is_within(footer.index_offset));
        let entries = entries.as_chunks::<ENTRY_SIZE>().0.iter().map(decode).collect::<Option<_>>()?;
        let numbers = dictionaries.as_chunks().0.iter().map(|number| u32::from_le_bytes(*number));
        let numbers: Vec<u32> = numbers.collect();
        let index = Self { entries, dictionary_entries: numbers.as_chunks::<DICTIONARY_CHUNKS>().0.to_vec() };
        let is_known = |entry: &PackEntry| {
            entry.dictionary.is_none_or(|number| (number as usize) < index.dictionary_entries.len())
        };
        let is_sound =
            numbers.iter().all(|number| index.is_plain(*number)) && index.entries.iter().all(is_known);
        is_sound.then_some(index)
    }

    /// Whether it has an entry of that number, and that was compressed by itself.
    fn is_plain(&self, number: u32) -> bool {
        self.entries.get(number as usize).is_some_and(|entry| entry.dictionary.is_none())
    }

    /// The chunks that each dictionary is made of.
    pub(super) fn dictionaries(&self) -> impl Iterator<Item = [PackEntry; DICTIONARY_CHUNKS]> {
        self.dictionary_entries.iter().filter_map(|numbers| {
            let entries: Vec<PackEntry> =
                numbers.iter().filter_map(|number| self.entries.get(*number as usize).copied()).collect();
            entries.try_into().ok()
        })
    }
}

fn magic(encryption: &Encryption) -> &'static [u8; 8] {
    if encryption.is_none() { MAGIC } else { ENCRYPTED_MAGIC }
}

struct Footer {
    index_offset: u64,
    entry_count: u32,
    dictionary_count: u32,
    index_hash: Digest,
}

impl Footer {
    /// The length of the index, as it is stored.
    fn index_size(&self, encryption: &Encryption) -> u64 {
        u64::from(self.entry_count) * ENTRY_SIZE as u64
            + u64::from(self.dictionary_count) * DICTIONARY_SIZE as u64
            + encryption.overhead() as u64
    }

    fn encode(&self, encryption: &Encryption, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.index_offset.to_le_bytes());
        into.extend_from_slice(&self.entry_count.to_le_bytes());
        into.extend_from_slice(&self.dictionary_count.to_le_bytes());
        into.extend_from_slice(&self.index_hash.0);
        into.extend_from_slice(magic(encryption));
    }

    fn decode(bytes: &[u8; FOOTER_SIZE], encryption: &Encryption) -> Option<Self> {
        if bytes.get(48..)? != magic(encryption) {
            return None;
        }
        Some(Self {
            index_offset: u64::from_le_bytes(*bytes.first_chunk()?),
            entry_count: u32::from_le_bytes(*bytes.get(8..)?.first_chunk()?),
            dictionary_count: u32::from_le_bytes(*bytes.get(12..)?.first_chunk()?),
            index_hash: Digest(*bytes.get(16..)?.first_chunk()?),
        })
    }
}

/// Why the index of a pack cannot be believed.
#[derive(Debug, thiserror::Error)]
pub(super) enum PackIndexError {
    #[error("it could not be read: {0}")]
    Io(#[from] io::Error),
    #[error("it is too short to be a pack")]
    TooShort,
    #[error("its footer is damaged, or it is cut short")]
    BadFooter,
    #[error("its index is damaged")]
    BadIndex,
}

impl PackIndexError {
    /// Whether the disk did not give it, which says nothing about what is on it.
    pub(super) fn is_unreadable(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() != io::ErrorKind::UnexpectedEof)
    }
}

/// Reads the index of a pack from its end.
pub(super) fn read_index(file: &File, encryption: &Encryption) -> Result<PackIndex, PackIndexError> {
    let size = file.metadata()?.len();
    let footer_offset = size.checked_sub(FOOTER_SIZE as u64).ok_or(PackIndexError::TooShort)?;
    let mut footer = [0; FOOTER_SIZE];
    file.read_exact_at(&mut footer, footer_offset)?;
    let footer = Footer::decode(&footer, encryption).ok_or(PackIndexError::BadFooter)?;
    // A file of holes may have any size, so that to agree with it is not enough.
    let is_possible = size <= LARGEST_SIZE_BYTES
        && footer.entry_count as usize <= MOST_ENTRIES
        && footer.dictionary_count <= footer.entry_count;
    if !is_possible {
        return Err(PackIndexError::BadFooter);
    }
    let index_size = footer.index_size(encryption);
    if footer.index_offset.checked_add(index_size) != Some(footer_offset) {
        return Err(PackIndexError::BadFooter);
    }
    let mut index = vec![0; usize::try_from(index_size).map_err(|_| PackIndexError::BadFooter)?];
    file.read_exact_at(&mut index, footer.index_offset)?;
    if Digest::of(&index) != footer.index_hash {
        return Err(PackIndexError::BadIndex);
    }
    let place = Place::PackIndex { offset: footer.index_offset, entry_count: footer.entry_count };
    let index = encryption.open(place, &mut index).map_err(|_| PackIndexError::BadIndex)?;
    PackIndex::decode(index, &footer).ok_or(PackIndexError::BadIndex)
}

/// A pack that is being written. Dropped without [`PackBuilder::seal`], it leaves its temporary file to whoever
/// made it.
#[derive(Debug)]
pub(super) struct PackBuilder {
    encryption: Encryption,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    temporary: PathBuf,
    number: u64,
    offset: u64,
    index: PackIndex,
}

impl PackBuilder {
    /// Begins a pack under a temporary name below the repository. Its number tells it from others of its writer.
    pub(super) fn create(
        root: &StoreRoot,
        encryption: &Encryption,
        temporary: PathBuf,
        number: u64,
    ) -> Result<Self, RepositoryError> {
        root.create_directories(PACKS).map_err(attempting("create directory", root.path().join(PACKS)))?;
        // Whoever was killed may have left one of this name; the lock is ours, so nobody is writing it.
        let file = root
            .remove_file(&temporary)
            .and_then(|()| root.create_file(&temporary))
            .map_err(attempting("create", root.path().join(&temporary)))?;
        Ok(Self {
            encryption: encryption.clone(),
            file: BufWriter::with_capacity(BUFFER_SIZE_BYTES, file),
            hasher: blake3::Hasher::new(),
            temporary,
            number,
            offset: 0,
            index: PackIndex::default(),
        })
    }

    /// Its number among those of its writer.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Whether it is to be closed.
    pub(super) fn is_full(&self) -> bool {
        self.offset >= TARGET_SIZE_BYTES || self.index.entries.len() >= MOST_CHUNKS
    }

    /// Where it is being written, below the repository.
    pub(super) fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Adds the frame of one chunk, as it is to be stored, and returns the number of its entry.
    pub(super) fn append(
        &mut self,
        chunk: ChunkId,
        frame: &[u8],
        raw_size_bytes: u32,
        dictionary: Option<u32>,
    ) -> io::Result<u32> {
        let stored_size_bytes = u32::try_from(frame.len()).map_err(io::Error::other)?;
        let offset = u32::try_from(self.offset).map_err(io::Error::other)?;
        let number = u32::try_from(self.index.entries.len()).map_err(io::Error::other)?;
        self.write(frame)?;
        self.index.entries.push(PackEntry { chunk, offset, dictionary, stored_size_bytes, raw_size_bytes });
        Ok(number)
    }

    /// Makes a dictionary of chunks that it has, and returns its number. `None` when one of them has a dictionary itself:
    /// nobody could read such a pack.
    pub(super) fn add_dictionary(&mut self, entries: DictionaryEntries) -> Option<u32> {
        let number = u32::try_from(self.index.dictionary_entries.len()).ok()?;
        if !entries.iter().all(|entry| self.index.is_plain(*entry)) {
            return None;
        }
        self.index.dictionary_entries.push(entries);
        Some(number)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Adds index and footer, and gives the pack its name. When this returns, it is on disk.
    pub(super) fn seal(mut self, root: &StoreRoot) -> Result<PackId, RepositoryError> {
        let temporary = root.path().join(&self.temporary);
        self.finish_file().map_err(attempting("write", &temporary))?;
        step_point("a pack on disk, without its name");
        let id = PackId::from(self.hasher.finalize());
        let path = pack_path(&id);
        let directory = path.parent().unwrap_or(Path::new(PACKS));
        root.create_directories(directory)
            .and_then(|()| root.rename(&self.temporary, &path))
            .and_then(|()| root.sync_directory(directory))
            .and_then(|()| root.sync_directory(PACKS))
            .map_err(attempting("rename", &temporary))?;
        Ok(id)
    }

    fn finish_file(&mut self) -> io::Result<()> {
        let index_offset = self.offset;
        let entry_count = u32::try_from(self.index.entries.len()).map_err(io::Error::other)?;
        let dictionary_count =
            u32::try_from(self.index.dictionary_entries.len()).map_err(io::Error::other)?;
        let place = Place::PackIndex { offset: index_offset, entry_count };
        let mut tail = self.encryption.seal(place, self.index.encode())?;
        Footer { index_offset, entry_count, dictionary_count, index_hash: Digest::of(&tail) }
            .encode(&self.encryption, &mut tail);
        self.write(&tail)?;
        self.file.flush()?;
        self.file.get_ref().sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::super::encryption::tests::keys;
    use super::*;

    fn sealed_pack(root: &StoreRoot, encryption: &Encryption) -> PackId {
        let mut pack = PackBuilder::create(root, encryption, Path::new(PACKS).join("1.tmp"), 0).unwrap();
        pack.append(Digest::of(b"one"), b"frame one", 3, None).unwrap();
        pack.append(Digest::of(b"two"), b"frame two!", 3, None).unwrap();
        assert_eq!(pack.add_dictionary([0, 1, 1, 0]), Some(0));
        pack.append(Digest::of(b"three"), b"frame three", 5, Some(0)).unwrap();
        assert_eq!(pack.add_dictionary([0, 1, 2, 0]), None);
        pack.seal(root).unwrap()
    }

    fn pack_bytes(encryption: &Encryption) -> (tempfile::TempDir, Vec<u8>) {
        let directory = tempfile::tempdir().unwrap();
        let root = StoreRoot::open(directory.path()).unwrap();
        let bytes = root.read_bounded(pack_path(&sealed_pack(&root, encryption)), 4096).unwrap();
        (directory, bytes)
    }

    #[test]
    fn a_sealed_pack_is_named_by_its_content_and_tells_what_it_holds() {
        for encryption in [Encryption::None, keys(1)] {
            let directory = tempfile::tempdir().unwrap();
            let root = StoreRoot::open(directory.path()).unwrap();

            let id = sealed_pack(&root, &encryption);

            let bytes = root.read_bounded(pack_path(&id), 4096).unwrap();
            assert_eq!(Digest::of(&bytes), id);
            let index = read_index(&root.open_file(pack_path(&id)).unwrap(), &encryption).unwrap();
            let [one, two, three] = index.entries[..] else { panic!("{:?}", index.entries) };
            assert_eq!((one.dictionary, two.dictionary, three.dictionary), (None, None, Some(0)));
            assert_eq!(index.dictionaries().collect::<Vec<_>>(), [[one, two, two, one]]);
            assert_eq!(two.chunk, Digest::of(b"two"));
            assert_eq!(&bytes[usize::try_from(two.offset).unwrap()..][..10], b"frame two!");
            assert!(root.facts("packs/1.tmp").unwrap().is_none());
        }
    }

    #[test]
    fn any_flipped_bit_in_index_or_footer_is_found() {
        // The damage: each bit after the frames, one at a time.
        for encryption in [Encryption::None, keys(1)] {
            let (directory, bytes) = pack_bytes(&encryption);
            let root = StoreRoot::open(directory.path()).unwrap();
            for bit in 30 * 8..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                root.write_durably("flipped", &flipped).unwrap();
                assert!(read_index(&root.open_file("flipped").unwrap(), &encryption).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn a_dictionary_that_cannot_be_is_found() {
        let [plain, with] = [None, Some(0)].map(|dictionary| PackEntry {
            chunk: Digest::of(b""),
            offset: 0,
            dictionary,
            stored_size_bytes: 0,
            raw_size_bytes: 0,
        });
        let is_read = |entries: &[PackEntry], dictionaries: &[DictionaryEntries]| {
            let index = PackIndex { entries: entries.to_vec(), dictionary_entries: dictionaries.to_vec() };
            let entry_count = u32::try_from(entries.len()).unwrap();
            let footer =
                Footer { index_offset: 0, entry_count, dictionary_count: 0, index_hash: Digest::of(b"") };
            PackIndex::decode(&index.encode(), &footer).is_some()
        };
        assert!(is_read(&[plain, with], &[[0; 4]]));
        assert!(!is_read(&[plain, with], &[]));
        assert!(!is_read(&[plain, with], &[[0, 0, 1, 0]]));
        assert!(!is_read(&[plain, with], &[[0, 0, 0, 2]]));
    }

    #[test]
    fn a_pack_cut_anywhere_is_found() {
        for encryption in [Encryption::None, keys(1)] {
            let (directory, bytes) = pack_bytes(&encryption);
            let root = StoreRoot::open(directory.path()).unwrap();
            for length in 0..bytes.len() {
                root.write_durably("cut", &bytes[..length]).unwrap();
                assert!(read_index(&root.open_file("cut").unwrap(), &encryption).is_err(), "length {length}");
            }
        }
    }

    #[test]
    fn an_index_is_read_with_the_key_that_it_was_written_with_and_no_other() {
        let all = [Encryption::None, keys(1), keys(2)];
        for (written, writing) in all.iter().enumerate() {
            let (directory, bytes) = pack_bytes(writing);
            let root = StoreRoot::open(directory.path()).unwrap();
            root.write_durably("pack", &bytes).unwrap();
            for (read, reading) in all.iter().enumerate() {
                let index = read_index(&root.open_file("pack").unwrap(), reading);
                assert_eq!(index.is_ok(), read == written, "{writing:?} {written}, {reading:?} {read}");
            }
        }
    }
}
