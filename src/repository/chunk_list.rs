//! The chunks of a file, as a table lists them: in memory, or in a file without a name once a table has too many.
//!
//! A table of a terabyte names eight million chunks. Whoever works with one needs those of one file at a time, which are
//! 8,192 for a segment of a relation: these are loaded, and let go again. The first half a million of a table stay in
//! memory, so that for a cluster of up to 64 GB nothing is written and read back.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Deserializer, Serialize, Serializer, ser};

use super::chunk::{ChunkId, Digest};
use super::error::{RepositoryError, attempting};
use super::shared::locked;
use crate::sys::{read_scratch, scratch_file};

/// How many names of one table are kept in memory. In tests some of every table's are not.
const MOST_IN_MEMORY: usize = if cfg!(feature = "test-faults") { 512 } else { 512 * 1024 };
const NAME_SIZE: usize = size_of::<ChunkId>();

/// The names of a file's chunks, in order. A copy of it takes no room of its own.
#[derive(Clone, Debug)]
pub struct ChunkList(Place);

#[derive(Clone, Debug)]
enum Place {
    /// Most files of a cluster have one.
    One(ChunkId),
    Memory(Arc<[ChunkId]>),
    File {
        file: Arc<File>,
        offset: u64,
        count: usize,
        checksum: u32,
    },
}

impl ChunkList {
    /// How many chunks there are.
    pub fn len(&self) -> usize {
        match &self.0 {
            Place::One(_) => 1,
            Place::Memory(chunks) => chunks.len(),
            Place::File { count, .. } => *count,
        }
    }

    /// Whether there is none, as of an empty file.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their names.
    ///
    /// # Errors
    /// [`RepositoryError::Io`] when what was put aside cannot be read back.
    pub fn load(&self) -> Result<Cow<'_, [ChunkId]>, RepositoryError> {
        match &self.0 {
            Place::One(chunk) => Ok(Cow::Borrowed(slice::from_ref(chunk))),
            Place::Memory(chunks) => Ok(Cow::Borrowed(chunks)),
            Place::File { file, offset, count, checksum } => read_back(file, *offset, *count, *checksum)
                .map(Cow::Owned)
                .map_err(attempting("read back", "the temporary list of chunks")),
        }
    }
}

fn read_back(file: &File, offset: u64, count: usize, checksum: u32) -> io::Result<Vec<ChunkId>> {
    let bytes = read_scratch(file, offset, count * NAME_SIZE, checksum)?;
    Ok(bytes.as_chunks().0.iter().copied().map(Digest).collect())
}

impl From<Vec<ChunkId>> for ChunkList {
    fn from(chunks: Vec<ChunkId>) -> Self {
        Self(if let [chunk] = chunks[..] { Place::One(chunk) } else { Place::Memory(chunks.into()) })
    }
}

impl Default for ChunkList {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl Serialize for ChunkList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.load().map_err(ser::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ChunkList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self::from)
    }
}

/// Where the lists of one table are kept. May be used from many threads.
#[derive(Debug)]
pub(super) struct ChunkLists {
    directory: PathBuf,
    most_in_memory: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    in_memory: usize,
    file: Option<Arc<File>>,
    size_bytes: u64,
}

impl ChunkLists {
    /// Keeps what does not fit into memory in `directory`, as far as it can be there.
    pub(super) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_path_buf(), most_in_memory: MOST_IN_MEMORY, kept: Mutex::default() }
    }

    /// Keeps a list: in memory while there is room, or where no disk takes it, or it takes no more than an entry itself.
    pub(super) fn keep(&self, list: ChunkList) -> ChunkList {
        let ChunkList(Place::Memory(chunks)) = &list else { return list };
        let mut kept = locked(&self.kept);
        if kept.in_memory + chunks.len() <= self.most_in_memory {
            kept.in_memory += chunks.len();
            return list;
        }
        self.put_aside(&mut kept, chunks).unwrap_or(list)
    }

    fn put_aside(&self, kept: &mut Kept, chunks: &[ChunkId]) -> io::Result<ChunkList> {
        let file = match &kept.file {
            Some(file) => Arc::clone(file),
            None => Arc::clone(kept.file.insert(Arc::new(scratch_file(&self.directory)?))),
        };
        let bytes: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.0).collect();
        let offset = kept.size_bytes;
        file.write_all_at(&bytes, offset)?;
        kept.size_bytes += bytes.len() as u64;
        let checksum = crc32c::crc32c(&bytes);
        Ok(ChunkList(Place::File { file, offset, count: chunks.len(), checksum }))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Keeps no more than so many names in memory.
    pub(crate) fn lists_of(most_in_memory: usize) -> ChunkLists {
        ChunkLists { most_in_memory, ..ChunkLists::new(&std::env::temp_dir()) }
    }

    fn chunks(file: u32, count: u32) -> Vec<ChunkId> {
        (0..count).map(|number| ChunkId::of(format!("{file} {number}").as_bytes())).collect()
    }

    fn is_in_memory(list: &ChunkList) -> bool {
        matches!(list.0, Place::One(_) | Place::Memory(_))
    }

    #[test]
    fn lists_come_back_and_no_more_names_than_the_limit_are_in_memory() {
        let lists = lists_of(100);
        let kept: Vec<ChunkList> = (0..50).map(|file| lists.keep(chunks(file, file).into())).collect();

        let in_memory = kept.iter().filter(|list| is_in_memory(list)).map(ChunkList::len).sum::<usize>();
        assert!((60..=100).contains(&in_memory), "{in_memory}");
        for (file, list) in (0..).zip(&kept) {
            assert_eq!(*list.load().unwrap(), chunks(file, file));
            assert_eq!(list.len(), file as usize);
        }
    }

    #[test]
    fn a_list_that_was_changed_on_the_disk_is_an_error() {
        // The damage: one bit of what was put aside.
        let list = lists_of(0).keep(chunks(1, 5).into());
        let Place::File { file, offset, .. } = &list.0 else { panic!("{list:?}") };
        file.write_all_at(&[chunks(1, 5)[2].0[0] ^ 1], offset + 64).unwrap();
        assert!(list.load().is_err());
    }
}
