//! Putting chunks into packs: each in its frame, sealed if there is a key, many threads into one pack at a time.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::chunk::ChunkId;
use super::encryption::{Encryption, Place};
use super::error::{RepositoryError, attempting};
use super::frame::compress;
use super::pack::{PACKS, PackBuilder, PackId, TEMPORARY_SUFFIX};
use super::shared::locked;
use super::stream::{ChunkStream, PackDictionary};
use crate::sys::{StoreRoot, step_point};

/// Fills packs, one after the other. Dropped before it is closed, it takes the pack that is not full with it; those
/// that were closed stay.
#[derive(Debug)]
pub(super) struct PackWriter<'r> {
    root: &'r StoreRoot,
    encryption: &'r Encryption,
    pack_count: AtomicU64,
    open: Mutex<Option<PackBuilder>>,
    closed: Mutex<Vec<PackId>>,
}

impl<'r> PackWriter<'r> {
    /// Nothing is written yet. Whoever has one has the repository to itself.
    pub(super) fn new(root: &'r StoreRoot, encryption: &'r Encryption) -> Self {
        let (pack_count, open, closed) = (AtomicU64::new(0), Mutex::default(), Mutex::default());
        Self { root, encryption, pack_count, open, closed }
    }

    /// Adds a chunk of a stream, and returns how many bytes it takes. A pack that is full by it is on disk then.
    pub(super) fn append(
        &self,
        stream: &ChunkStream,
        id: ChunkId,
        raw: &[u8],
    ) -> Result<u64, RepositoryError> {
        let mut dictionary = stream.dictionary();
        loop {
            let stored = self.frame(&id, raw, dictionary.as_ref())?;
            let mut slot = locked(&self.open);
            let pack = match slot.as_mut() {
                Some(pack) => pack,
                None => slot.insert(self.begin()?),
            };
            if dictionary.take_if(|dictionary| dictionary.pack_number != pack.number()).is_some() {
                // Its pack was closed meanwhile.
                continue;
            }
            let raw_size_bytes = u32::try_from(raw.len())
                .map_err(|_| RepositoryError::damaged("a chunk is larger than any chunk can be"))?;
            let number = dictionary.as_ref().map(|dictionary| dictionary.number);
            let entry = pack
                .append(id, &stored, raw_size_bytes, number)
                .map_err(attempting("write", self.root.path().join(pack.temporary())))?;
            stream.note(pack, entry, raw, dictionary.as_ref());
            let full_pack = slot.take_if(|pack| pack.is_full());
            drop(slot);
            // Outside the lock: the other threads go on with the next pack while this one is synced.
            full_pack.map_or(Ok(()), |pack| self.close_pack(pack))?;
            return Ok(stored.len() as u64);
        }
    }

    fn frame(
        &self,
        id: &ChunkId,
        raw: &[u8],
        dictionary: Option<&PackDictionary>,
    ) -> Result<Vec<u8>, RepositoryError> {
        let mut frame = Vec::new();
        compress(raw, dictionary.map(|dictionary| &dictionary.content), &mut frame)
            .map_err(attempting("compress for", self.root.path()))?;
        let stored = self.encryption.seal(Place::Chunk(id), frame);
        stored.map_err(attempting("encrypt for", self.root.path()))
    }

    fn begin(&self) -> Result<PackBuilder, RepositoryError> {
        let number = self.pack_count.fetch_add(1, Ordering::Relaxed);
        let temporary: PathBuf = Path::new(PACKS).join(format!("{number}{TEMPORARY_SUFFIX}"));
        PackBuilder::create(self.root, self.encryption, temporary, number)
    }

    /// Puts what was added on disk. More can be added afterwards, into another pack.
    pub(super) fn close(&self) -> Result<(), RepositoryError> {
        let pack = locked(&self.open).take();
        pack.map_or(Ok(()), |pack| self.close_pack(pack))
    }

    fn close_pack(&self, pack: PackBuilder) -> Result<(), RepositoryError> {
        let temporary = pack.temporary().to_path_buf();
        match pack.seal(self.root) {
            Ok(id) => {
                step_point("a pack sealed");
                locked(&self.closed).push(id);
                Ok(())
            }
            Err(error) => {
                // Best effort: a sweep finds what is left.
                let _ = self.root.remove_file(temporary);
                Err(error)
            }
        }
    }

    /// The packs that are on disk.
    pub(super) fn closed(&self) -> Vec<PackId> {
        locked(&self.closed).clone()
    }
}

impl Drop for PackWriter<'_> {
    /// Best effort: an unfinished pack harms nothing, and a sweep removes what this could not.
    fn drop(&mut self) {
        if let Some(pack) = locked(&self.open).take() {
            let temporary = pack.temporary().to_path_buf();
            drop(pack);
            let _ = self.root.remove_file(temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::chunk::CHUNK_SIZE_BYTES;
    use super::super::encryption::tests::keys;
    use super::super::pack_reader::PackReader;
    use super::*;

    /// A chunk that has much in common with others, and something that none has.
    fn content(number: u32) -> Vec<u8> {
        let line = |row: u32| {
            format!("{:>8}|{:>12}|{:x}\n", row, number, (row ^ number).wrapping_mul(2_654_435_761))
        };
        (0..).flat_map(|row| line(row).into_bytes()).take(CHUNK_SIZE_BYTES).collect()
    }

    fn size_of_packs(root: &StoreRoot, packs: &[PackId]) -> u64 {
        let size = |id: &PackId| root.facts(super::super::pack::pack_path(id)).unwrap().unwrap().size_bytes;
        packs.iter().map(size).sum()
    }

    #[test]
    fn what_many_threads_put_into_one_stream_comes_back_and_is_smaller_than_each_by_itself() {
        for encryption in [Encryption::None, keys(1)] {
            let directory = tempfile::tempdir().unwrap();
            let root = StoreRoot::open(directory.path()).unwrap();
            // More than a dictionary reaches, so that threads meet when it is left behind.
            let chunks: Vec<Vec<u8>> = (0..40).map(content).collect();
            let writer = PackWriter::new(&root, &encryption);
            let stream = ChunkStream::reaching(4 * CHUNK_SIZE_BYTES);
            let next = AtomicU64::new(0);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        while let Some(raw) =
                            chunks.get(usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap())
                        {
                            writer.append(&stream, encryption.chunk_id(raw), raw).unwrap();
                        }
                    });
                }
            });
            writer.close().unwrap();

            let reader = PackReader::open(&root, &encryption).unwrap();
            let mut back = Vec::new();
            for raw in &chunks {
                assert!(reader.read(&encryption.chunk_id(raw), &mut back).is_ok());
                assert!(*raw == back);
            }
            let alone = PackWriter::new(&root, &encryption);
            for raw in &chunks {
                alone.append(&ChunkStream::default(), encryption.chunk_id(raw), raw).unwrap();
            }
            alone.close().unwrap();
            let (together, alone) =
                (size_of_packs(&root, &writer.closed()), size_of_packs(&root, &alone.closed()));
            assert!(together < alone * 9 / 10, "{together} bytes, {alone} by themselves");
        }
    }
}
