//! Which chunks the repository has, and where: put together from the ends of all packs, in a bounded piece of memory
//! (`record_set`).

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::Path;

use super::chunk::ChunkId;
use super::encryption::Encryption;
use super::error::{RepositoryError, attempting};
use super::frame::DICTIONARY_CHUNKS;
use super::pack::{PACK_SUFFIX, PACKS, PackEntry, PackId, PackIndex, pack_path, read_index};
use super::record_set::RecordSet;
use crate::sys::{EntryKind, ReadRoot};

/// A pack whose index cannot be read, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DamagedPack {
    pub(super) id: PackId,
    pub(super) reason: String,
    /// Whether the disk did not give it, which says nothing about what is on it.
    pub(super) is_unreadable: bool,
}

/// Where a chunk is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Location {
    pub(super) pack: PackId,
    pub(super) offset: u32,
    pub(super) dictionary: Option<DictionaryId>,
    pub(super) stored_size_bytes: u32,
    pub(super) raw_size_bytes: u32,
}

/// A dictionary of a pack, as a [`ChunkIndex`] knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct DictionaryId {
    pack_number: u32,
    number: u32,
}

/// A pack, and the chunks that its dictionaries are made of.
#[derive(Debug)]
struct Pack {
    id: PackId,
    dictionaries: Vec<[ChunkId; DICTIONARY_CHUNKS]>,
}

/// So many bytes of a chunk's name find it: no two names agree in them, and whoever reads a chunk checks all of it.
const KEY_SIZE_BYTES: usize = 16;
pub(super) type ChunkKey = [u8; KEY_SIZE_BYTES];

/// A chunk in a pack: the key, then the number of the pack, the offset, the number of its dictionary in the pack, from 1
/// on, or 0 if it has none, the stored size and the raw size.
type Place = [u8; PLACE_SIZE_BYTES];
const PLACE_SIZE_BYTES: usize = KEY_SIZE_BYTES + 5 * size_of::<u32>();

/// All chunks of the packs that can be read.
#[derive(Debug)]
pub(super) struct ChunkIndex {
    packs: Vec<Pack>,
    /// In order, so that copies of a chunk are next to each other: it was stored anew since a pack that has it was found
    /// damaged.
    places: RecordSet<PLACE_SIZE_BYTES>,
    damaged: Vec<DamagedPack>,
}

impl ChunkIndex {
    /// Reads the index of every pack. A pack that is damaged is set down as such, and is no error: its chunks count
    /// as missing, so that a backup stores them anew.
    pub(super) fn load(root: &ReadRoot, encryption: &Encryption) -> Result<Self, RepositoryError> {
        let mut index = Self::empty(root.path());
        for id in list_packs(root)? {
            let path = pack_path(&id);
            let file = root.open_file(&path).map_err(attempting("open", root.path().join(&path)))?;
            match read_index(&file, encryption) {
                Ok(pack) => index.add(id, &pack),
                Err(error) => index.damaged.push(DamagedPack {
                    id,
                    is_unreadable: error.is_unreadable(),
                    reason: error.to_string(),
                }),
            }
        }
        index.places.compact();
        Ok(index)
    }

    fn empty(directory: &Path) -> Self {
        Self { packs: Vec::new(), places: RecordSet::new(directory), damaged: Vec::new() }
    }

    fn add(&mut self, id: PackId, pack: &PackIndex) {
        let Ok(pack_number) = u32::try_from(self.packs.len()) else { return };
        let dictionaries = pack.dictionaries().map(|entries| entries.map(|entry| entry.chunk)).collect();
        self.packs.push(Pack { id, dictionaries });
        for entry in &pack.entries {
            self.places.insert(place_of(pack_number, entry));
        }
    }

    /// Whether a pack other than the `distrusted` ones has a chunk.
    ///
    /// # Errors
    /// When the index, as far as it is not in memory, cannot be read.
    pub(super) fn contains_outside(&self, chunk: &ChunkId, distrusted: &HashSet<PackId>) -> io::Result<bool> {
        Ok(self.find_all(chunk)?.iter().any(|location| !distrusted.contains(&location.pack)))
    }

    /// Every copy of a chunk.
    ///
    /// # Errors
    /// As [`Self::contains_outside`].
    pub(super) fn find_all(&self, chunk: &ChunkId) -> io::Result<Vec<Location>> {
        let places = self.places.find_all(&key_of(chunk))?;
        Ok(places.iter().filter_map(|place| self.location(place)).collect())
    }

    /// Every copy of every chunk, with what finds it, in the order of that.
    ///
    /// # Errors
    /// As [`Self::contains_outside`].
    pub(super) fn iter(&self) -> impl Iterator<Item = io::Result<(ChunkKey, Location)>> {
        self.places.iter().filter_map(|place| match place {
            Ok(place) => Some(Ok((*place.first_chunk()?, self.location(&place)?))),
            Err(error) => Some(Err(error)),
        })
    }

    fn location(&self, place: &Place) -> Option<Location> {
        let (_, numbers) = place.split_first_chunk::<KEY_SIZE_BYTES>()?;
        let numbers: &[[u8; 4]; 5] = numbers.as_chunks().0.try_into().ok()?;
        let [pack_number, offset, dictionary, stored_size_bytes, raw_size_bytes] =
            numbers.map(u32::from_be_bytes);
        Some(Location {
            pack: self.packs.get(pack_number as usize)?.id,
            offset,
            dictionary: dictionary.checked_sub(1).map(|number| DictionaryId { pack_number, number }),
            stored_size_bytes,
            raw_size_bytes,
        })
    }

    /// The chunks that a dictionary is made of.
    pub(super) fn dictionary(&self, id: DictionaryId) -> Option<&[ChunkId; DICTIONARY_CHUNKS]> {
        self.packs.get(id.pack_number as usize)?.dictionaries.get(id.number as usize)
    }

    pub(super) fn damaged(&self) -> &[DamagedPack] {
        &self.damaged
    }
}

fn place_of(pack_number: u32, entry: &PackEntry) -> Place {
    let mut place = [0; PLACE_SIZE_BYTES];
    let dictionary = entry.dictionary.map_or(0, |number| number.saturating_add(1));
    let numbers = [pack_number, entry.offset, dictionary, entry.stored_size_bytes, entry.raw_size_bytes];
    let numbers = numbers.into_iter().flat_map(u32::to_be_bytes);
    place.iter_mut().zip(key_of(&entry.chunk).into_iter().chain(numbers)).for_each(|(to, from)| *to = from);
    place
}

/// What finds a chunk.
pub(super) fn key_of(chunk: &ChunkId) -> ChunkKey {
    chunk.0.first_chunk().copied().unwrap_or_default()
}

/// Says that the index, as far as it is not in memory, could not be read.
pub(super) fn reading_index() -> impl FnOnce(io::Error) -> RepositoryError {
    attempting("read back", "the temporary index of chunks")
}

/// The packs that are there, by name.
pub(super) fn list_packs(root: &ReadRoot) -> Result<Vec<PackId>, RepositoryError> {
    let is_there = root.facts(PACKS).map_err(attempting("read", root.path().join(PACKS)))?.is_some();
    if !is_there {
        return Ok(Vec::new());
    }
    let list = |path: &str| root.entries(path).map_err(attempting("list", root.path().join(path)));
    let mut packs = Vec::new();
    for directory in list(PACKS)?.iter().filter(|entry| entry.facts.kind == EntryKind::Directory) {
        let entries = list(&format!("{PACKS}/{}", directory.name))?;
        let name_of = |name: &str| name.strip_suffix(PACK_SUFFIX)?.parse::<PackId>().ok();
        // A pack in a directory that is not its own is nobody's: its path could not be found again.
        let in_place = entries.iter().filter_map(|entry| name_of(&entry.name));
        packs.extend(in_place.filter(|id| id.to_string().starts_with(&directory.name)));
    }
    Ok(packs)
}

/// Opens a pack for reading.
pub(super) fn open_pack(root: &ReadRoot, id: &PackId) -> Result<File, RepositoryError> {
    let path = pack_path(id);
    root.open_file(&path).map_err(attempting("open", root.path().join(&path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunk(number: u8) -> ChunkId {
        ChunkId::of(&[number])
    }

    proptest! {
        #[test]
        fn every_copy_of_a_chunk_is_found_and_no_other(packs in prop::collection::vec(prop::collection::vec(0_u8..40, 0..30), 0..6)) {
            let mut index = ChunkIndex::empty(&std::env::temp_dir());
            for (pack, chunks) in packs.iter().enumerate() {
                let entry = |(place, number): (usize, &u8)| PackEntry {
                    chunk: chunk(*number),
                    offset: u32::try_from(place).unwrap(),
                    dictionary: None,
                    stored_size_bytes: u32::from(*number),
                    raw_size_bytes: 1,
                };
                let entries = chunks.iter().enumerate().map(entry).collect();
                index.add(PackId::of(&[u8::try_from(pack).unwrap()]), &PackIndex { entries, ..PackIndex::default() });
            }
            index.places.compact();
            for number in 0..45 {
                let found = index.find_all(&chunk(number)).unwrap();
                let found = found.iter().map(|found| (found.pack, found.offset, found.stored_size_bytes, found.raw_size_bytes));
                let in_pack = |(pack, chunks): (usize, &Vec<u8>)| {
                    let pack = PackId::of(&[u8::try_from(pack).unwrap()]);
                    let places = chunks.iter().enumerate().filter(|(_, stored)| **stored == number);
                    places.map(|(place, _)| (pack, u32::try_from(place).unwrap(), u32::from(number), 1)).collect::<Vec<_>>()
                };
                let expected: Vec<_> = packs.iter().enumerate().flat_map(in_pack).collect();
                prop_assert_eq!(found.collect::<Vec<_>>(), expected.clone());
                let all: HashSet<PackId> = index.packs.iter().map(|pack| pack.id).collect();
                prop_assert!(!index.contains_outside(&chunk(number), &all).unwrap());
                prop_assert_eq!(index.contains_outside(&chunk(number), &HashSet::new()).unwrap(), !expected.is_empty());
            }
        }
    }
}
