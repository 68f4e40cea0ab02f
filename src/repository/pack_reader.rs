//! Reading chunks out of packs, each checked by its hash, any copy of it that is sound.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::chunk::ChunkId;
use super::encryption::{Encryption, Place};
use super::error::{RepositoryError, attempting};
use super::frame::{Dictionary, MAXIMUM_DICTIONARY_SIZE_BYTES, decompress};
use super::index::{ChunkIndex, DictionaryId, Location, open_pack, reading_index};
use super::pack::{PackId, pack_path};
use super::shared::Kept;
use crate::sys::ReadRoot;

/// How many packs are kept open, well below the usual limit of 1,024 descriptors.
const OPEN_PACKS: usize = 128;
/// How many dictionaries are kept: 16 MiB of them.
const KEPT_DICTIONARIES: usize = 32;

/// Why a chunk could not be read.
pub(super) enum ReadError {
    /// What is there is not what was stored; in words.
    Damaged(String),
    /// The disk did not give it.
    Repository(RepositoryError),
}

/// Reads chunks from packs. May be used from many threads.
#[derive(Debug)]
pub(super) struct PackReader {
    root: ReadRoot,
    encryption: Encryption,
    index: ChunkIndex,
    open: Kept<PackId, Arc<File>>,
    dictionaries: Kept<DictionaryId, Dictionary>,
}

impl PackReader {
    /// Reads from the packs that are there now.
    pub(super) fn open(root: &ReadRoot, encryption: &Encryption) -> Result<Self, RepositoryError> {
        Ok(Self {
            root: root.subroot(".").map_err(attempting("open directory", root.path()))?,
            encryption: encryption.clone(),
            index: ChunkIndex::load(root, encryption)?,
            open: Kept::new(OPEN_PACKS),
            dictionaries: Kept::new(KEPT_DICTIONARIES),
        })
    }

    pub(super) fn encryption(&self) -> &Encryption {
        &self.encryption
    }

    pub(super) fn index(&self) -> &ChunkIndex {
        &self.index
    }

    /// Reads a chunk into `raw`, which is emptied first.
    pub(super) fn read(&self, chunk: &ChunkId, raw: &mut Vec<u8>) -> Result<(), ReadError> {
        self.read_any(chunk, self.copies(chunk)?, raw)
    }

    /// Every copy of a chunk.
    pub(super) fn copies(&self, chunk: &ChunkId) -> Result<Vec<Location>, ReadError> {
        self.index.find_all(chunk).map_err(reading_index()).map_err(ReadError::Repository)
    }

    /// Reads the first of these copies that is sound.
    pub(super) fn read_any(
        &self,
        chunk: &ChunkId,
        copies: impl IntoIterator<Item = Location>,
        raw: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        let mut answer = None;
        for location in copies {
            match self.read_copy(chunk, &location, raw) {
                Ok(()) => return Ok(()),
                Err(error) => answer = answer.or(Some(error)),
            }
        }
        Err(answer.unwrap_or_else(|| self.missing(chunk)))
    }

    /// Reads one copy of a chunk into `raw`, which is emptied first.
    pub(super) fn read_copy(
        &self,
        chunk: &ChunkId,
        location: &Location,
        raw: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        let dictionary = location.dictionary.map(|id| self.dictionary(id, location)).transpose()?;
        let damaged =
            |what: &str| ReadError::Damaged(format!("chunk {chunk} in pack {}: {what}", location.pack));
        let pack = self.pack(&location.pack).map_err(ReadError::Repository)?;
        let mut frame = vec![0; location.stored_size_bytes as usize];
        pack.read_exact_at(&mut frame, u64::from(location.offset)).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                return damaged("the pack is cut short");
            }
            let path = self.root.path().join(pack_path(&location.pack));
            ReadError::Repository(attempting("read", path)(error))
        })?;
        let packed =
            Packed { chunk, dictionary: dictionary.as_ref(), raw_size_bytes: location.raw_size_bytes };
        packed.unpack(&self.encryption, &mut frame, raw).map_err(|what| damaged(&what))
    }

    /// A dictionary. Its chunks may be read from anywhere, but not with a dictionary: that could be this one.
    fn dictionary(&self, id: DictionaryId, location: &Location) -> Result<Dictionary, ReadError> {
        if let Some(dictionary) = self.dictionaries.get(&id) {
            return Ok(dictionary);
        }
        let chunks = self.index.dictionary(id).into_iter().flatten();
        let dictionary = gather_dictionary(chunks, |chunk, raw| {
            let copies = self.copies(chunk)?.into_iter().filter(|copy| copy.dictionary.is_none());
            self.read_any(chunk, copies, raw)
        })?;
        let dictionary = dictionary.ok_or_else(|| {
            ReadError::Damaged(format!("a dictionary in pack {} cannot be one", location.pack))
        })?;
        self.dictionaries.keep(id, dictionary.clone());
        Ok(dictionary)
    }

    fn missing(&self, chunk: &ChunkId) -> ReadError {
        // It may be in one that could not be read, which is no damage.
        if let Some(pack) = self.index.damaged().iter().find(|pack| pack.is_unreadable) {
            let path = self.root.path().join(pack_path(&pack.id));
            let reason = io::Error::other(pack.reason.clone());
            return ReadError::Repository(attempting("read", path)(reason));
        }
        let mut what = format!("chunk {chunk} is in no pack");
        for pack in self.index.damaged() {
            what = format!("{what}; pack {} cannot be read: {}", pack.id, pack.reason);
        }
        ReadError::Damaged(what)
    }

    fn pack(&self, id: &PackId) -> Result<Arc<File>, RepositoryError> {
        if let Some(file) = self.open.get(id) {
            return Ok(file);
        }
        let file = Arc::new(open_pack(&self.root, id)?);
        self.open.keep(*id, Arc::clone(&file));
        Ok(file)
    }
}

/// What is known of a chunk that is still packed.
pub(super) struct Packed<'a> {
    pub(super) chunk: &'a ChunkId,
    pub(super) dictionary: Option<&'a Dictionary>,
    pub(super) raw_size_bytes: u32,
}

impl Packed<'_> {
    /// Brings the chunk out of its frame, which is opened where it lies, and checks it by its hash; says in words what
    /// is wrong with it.
    pub(super) fn unpack(
        &self,
        encryption: &Encryption,
        stored: &mut [u8],
        raw: &mut Vec<u8>,
    ) -> Result<(), String> {
        let frame = encryption.open(Place::Chunk(self.chunk), stored).map_err(|error| error.to_string())?;
        decompress(frame, self.dictionary, self.raw_size_bytes as usize, raw)
            .map_err(|error| error.to_string())?;
        if encryption.chunk_id(raw) == *self.chunk {
            Ok(())
        } else {
            Err("its content is not what was stored".to_owned())
        }
    }
}

/// Puts a dictionary together out of its chunks. `None` when they make none.
pub(super) fn gather_dictionary<C, E>(
    chunks: impl IntoIterator<Item = C>,
    mut read: impl FnMut(C, &mut Vec<u8>) -> Result<(), E>,
) -> Result<Option<Dictionary>, E> {
    let (mut content, mut raw) = (Vec::with_capacity(MAXIMUM_DICTIONARY_SIZE_BYTES), Vec::new());
    for chunk in chunks {
        read(chunk, &mut raw)?;
        content.extend_from_slice(&raw);
    }
    Ok(Dictionary::new(&content).filter(|_| !content.is_empty()))
}
