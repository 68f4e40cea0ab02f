//! Packs: files of up to some 64 MiB that hold many chunks, so that a repository has hundreds of files and not
//! millions.
//!
//! A pack is its chunks' frames, an index (an entry a chunk: hash, offset, stored and raw length), and a footer
//! (offset and count of the index, the index's hash, a magic). It is named by the hash of all its bytes, written
//! under a temporary name, synced, and renamed: a pack that has its name is whole. All numbers are little-endian.
//! In an encrypted repository each frame and the index are sealed, and the hashes are of what is stored, so that a copy
//! of a pack can be checked without the key.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::chunk::{CHUNK_SIZE_BYTES, ChunkId, Digest};
use super::encryption::{Encryption, Place};
use super::error::{RepositoryError, attempting};
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

const MAGIC: &[u8; 8] = b"PGBXPK01";
const ENCRYPTED_MAGIC: &[u8; 8] = b"PGBXPK02";
const ENTRY_SIZE: usize = 48;
const FOOTER_SIZE: usize = 56;

/// The name of a pack: the hash of all its bytes.
pub(super) type PackId = Digest;

/// Where a pack is, below the repository.
pub(super) fn pack_path(id: &PackId) -> PathBuf {
    let name = id.to_string();
    Path::new(PACKS).join(name.get(..2).unwrap_or_default()).join(format!("{name}{PACK_SUFFIX}"))
}

/// Where one chunk is within its pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PackEntry {
    pub(super) chunk: ChunkId,
    pub(super) offset: u64,
    pub(super) stored_size_bytes: u32,
    pub(super) raw_size_bytes: u32,
}

impl PackEntry {
    fn encode(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.chunk.0);
        into.extend_from_slice(&self.offset.to_le_bytes());
        into.extend_from_slice(&self.stored_size_bytes.to_le_bytes());
        into.extend_from_slice(&self.raw_size_bytes.to_le_bytes());
    }

    fn decode(bytes: &[u8; ENTRY_SIZE]) -> Option<Self> {
        Some(Self {
            chunk: Digest(*bytes.first_chunk()?),
            offset: u64::from_le_bytes(*bytes.get(32..)?.first_chunk()?),
            stored_size_bytes: u32::from_le_bytes(*bytes.get(40..)?.first_chunk()?),
            raw_size_bytes: u32::from_le_bytes(*bytes.get(44..)?.first_chunk()?),
        })
    }

    /// Whether its frame lies before the index, and it is no larger than a chunk can be.
    fn is_within(&self, index_offset: u64) -> bool {
        let end = self.offset.checked_add(u64::from(self.stored_size_bytes));
        end.is_some_and(|end| end <= index_offset) && self.raw_size_bytes as usize <= CHUNK_SIZE_BYTES
    }
}

fn magic(encryption: &Encryption) -> &'static [u8; 8] {
    if encryption.is_none() { MAGIC } else { ENCRYPTED_MAGIC }
}

struct Footer {
    index_offset: u64,
    entry_count: u32,
    index_hash: Digest,
}

impl Footer {
    fn encode(&self, encryption: &Encryption, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.index_offset.to_le_bytes());
        into.extend_from_slice(&self.entry_count.to_le_bytes());
        into.extend_from_slice(&[0; 4]);
        into.extend_from_slice(&self.index_hash.0);
        into.extend_from_slice(magic(encryption));
    }

    fn decode(bytes: &[u8; FOOTER_SIZE], encryption: &Encryption) -> Option<Self> {
        if bytes.get(12..16)? != [0; 4] || bytes.get(48..)? != magic(encryption) {
            return None;
        }
        Some(Self {
            index_offset: u64::from_le_bytes(*bytes.first_chunk()?),
            entry_count: u32::from_le_bytes(*bytes.get(8..)?.first_chunk()?),
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
pub(super) fn read_index(file: &File, encryption: &Encryption) -> Result<Vec<PackEntry>, PackIndexError> {
    let size = file.metadata()?.len();
    let footer_offset = size.checked_sub(FOOTER_SIZE as u64).ok_or(PackIndexError::TooShort)?;
    let mut footer = [0; FOOTER_SIZE];
    file.read_exact_at(&mut footer, footer_offset)?;
    let footer = Footer::decode(&footer, encryption).ok_or(PackIndexError::BadFooter)?;
    // The three numbers must agree with the size of the file: this bounds the read below.
    let index_size = u64::from(footer.entry_count) * ENTRY_SIZE as u64 + encryption.overhead() as u64;
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
    let (entries, _) = index.as_chunks::<ENTRY_SIZE>();
    let decode = |bytes| PackEntry::decode(bytes).filter(|entry| entry.is_within(footer.index_offset));
    entries.iter().map(decode).collect::<Option<_>>().ok_or(PackIndexError::BadIndex)
}

/// A pack that is being written. Dropped without [`PackBuilder::seal`], it leaves its temporary file to whoever
/// made it.
#[derive(Debug)]
pub(super) struct PackBuilder {
    encryption: Encryption,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    temporary: PathBuf,
    offset: u64,
    entries: Vec<PackEntry>,
}

impl PackBuilder {
    /// Begins a pack under a temporary name below the repository.
    pub(super) fn create(
        root: &StoreRoot,
        encryption: &Encryption,
        temporary: PathBuf,
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
            offset: 0,
            entries: Vec::new(),
        })
    }

    /// Whether it is to be closed.
    pub(super) fn is_full(&self) -> bool {
        self.offset >= TARGET_SIZE_BYTES || self.entries.len() >= MOST_CHUNKS
    }

    /// Where it is being written, below the repository.
    pub(super) fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Adds the frame of one chunk, as it is to be stored.
    pub(super) fn append(&mut self, chunk: ChunkId, frame: &[u8], raw_size_bytes: u32) -> io::Result<()> {
        let stored_size_bytes = u32::try_from(frame.len()).map_err(io::Error::other)?;
        self.entries.push(PackEntry { chunk, offset: self.offset, stored_size_bytes, raw_size_bytes });
        self.write(frame)
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
        let mut tail = Vec::with_capacity(self.entries.len() * ENTRY_SIZE + FOOTER_SIZE);
        self.entries.iter().for_each(|entry| entry.encode(&mut tail));
        let entry_count = u32::try_from(self.entries.len()).map_err(io::Error::other)?;
        let place = Place::PackIndex { offset: index_offset, entry_count };
        let mut tail = self.encryption.seal(place, tail)?;
        Footer { index_offset, entry_count, index_hash: Digest::of(&tail) }
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
        let mut pack = PackBuilder::create(root, encryption, Path::new(PACKS).join("1.tmp")).unwrap();
        pack.append(Digest::of(b"one"), b"frame one", 3).unwrap();
        pack.append(Digest::of(b"two"), b"frame two!", 3).unwrap();
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
            let entries = read_index(&root.open_file(pack_path(&id)).unwrap(), &encryption).unwrap();
            assert_eq!(entries.len(), 2);
            assert_eq!(entries[1].chunk, Digest::of(b"two"));
            assert_eq!(&bytes[usize::try_from(entries[1].offset).unwrap()..][..10], b"frame two!");
            assert!(root.facts("packs/1.tmp").unwrap().is_none());
        }
    }

    #[test]
    fn any_flipped_bit_in_index_or_footer_is_found() {
        // The damage: each bit after the frames, one at a time.
        for encryption in [Encryption::None, keys(1)] {
            let (directory, bytes) = pack_bytes(&encryption);
            let root = StoreRoot::open(directory.path()).unwrap();
            for bit in 19 * 8..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                root.write_durably("flipped", &flipped).unwrap();
                assert!(read_index(&root.open_file("flipped").unwrap(), &encryption).is_err(), "bit {bit}");
            }
        }
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
