//! Repacking: of a pack that backups refer to less than half of, what is referred to moves to a new pack, and the rest
//! is given back to the disk.
//!
//! The new pack is on disk, under its own name, before the old one goes, so that a death at any point leaves each chunk
//! at least once: then twice, and the next sweep finds that nothing needs the old pack any more. Each chunk is brought
//! out of its frame, seen to be sound, and compressed anew, since the dictionary of the old frame may stay behind; a pack
//! with one that is not sound stays. Whoever sweeps has the repository to itself, so that nobody reads what moves.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::chunk::ChunkId;
use super::error::{RepositoryError, attempting};
use super::index::{ChunkIndex, ChunkKey, Location, key_of, list_packs, open_pack, reading_index};
use super::pack::{MOST_CHUNKS, PACKS, PackEntry, PackId, TARGET_SIZE_BYTES, pack_path, read_index};
use super::pack_reader::{PackReader, ReadError};
use super::pack_writer::PackWriter;
use super::removal::SweepReport;
use super::stream::ChunkStream;
use super::{ChunkSet, Repository};
use crate::format::bytes;
use crate::sys::{disk_space, step_point};

/// What a new pack needs besides its chunks, and what is left to others.
const MARGIN_BYTES: u64 = 4 * 1024 * 1024;

/// A pack that is to go, and what of it is still needed.
struct Outgoing {
    id: PackId,
    size_bytes: u64,
    needed: Vec<PackEntry>,
}

impl Outgoing {
    fn needed_bytes(&self) -> u64 {
        stored_bytes(&self.needed)
    }
}

fn stored_bytes(entries: &[PackEntry]) -> u64 {
    entries.iter().map(|entry| u64::from(entry.stored_size_bytes)).sum()
}

/// Why a batch did not move.
enum Stopped {
    NoRoom(String),
    Failed(RepositoryError),
}

impl Repository {
    /// Moves what is needed out of packs that are mostly unneeded, and removes these.
    ///
    /// # Errors
    /// [`RepositoryError::Io`]. Want of room is none: it is in the report, and every chunk is where it was.
    pub(super) fn repack(
        &self,
        referenced: &ChunkSet,
        report: &mut SweepReport,
    ) -> Result<(), RepositoryError> {
        let reader = PackReader::open(self.root(), self.encryption())?;
        // A copy in a pack that was found damaged is not counted on, so that it is that pack which goes.
        let (mut gone, mut batch) = (self.damaged_packs()?, Vec::new());
        let (mut batch_bytes, mut batch_chunks) = (0, 0);
        let candidates = candidates(reader.index(), referenced)?;
        for id in list_packs(self.root())?.into_iter().filter(|id| candidates.contains(id)) {
            let Some(outgoing) = self.outgoing(id, referenced, &reader, &gone)? else { continue };
            // From here on, no other pack may count on it.
            gone.insert(id);
            batch_bytes += outgoing.needed_bytes();
            batch_chunks += outgoing.needed.len();
            batch.push(outgoing);
            if batch_bytes >= TARGET_SIZE_BYTES || batch_chunks >= MOST_CHUNKS {
                if !self.move_or_tell(&batch, &reader, report)? {
                    return Ok(());
                }
                batch.clear();
                (batch_bytes, batch_chunks) = (0, 0);
            }
        }
        self.move_or_tell(&batch, &reader, report).map(|_| ())
    }

    /// The pack, if less than half of it is needed.
    fn outgoing(
        &self,
        id: PackId,
        referenced: &ChunkSet,
        reader: &PackReader,
        gone: &HashSet<PackId>,
    ) -> Result<Option<Outgoing>, RepositoryError> {
        let file = open_pack(self.root(), &id)?;
        // What a pack with a damaged index holds is not known.
        let Ok(index) = read_index(&file, self.encryption()) else { return Ok(None) };
        let path = self.root().path().join(pack_path(&id));
        let size_bytes = file.metadata().map_err(attempting("read", &path))?.len();
        let mut needed = Vec::new();
        for entry in &index.entries {
            let is_needed =
                referenced.contains(&entry.chunk)? && !is_sound_elsewhere(&entry.chunk, id, reader, gone)?;
            needed.extend(is_needed.then_some(*entry));
        }
        let is_mostly_unneeded = stored_bytes(&needed) * 2 < stored_bytes(&index.entries);
        Ok(is_mostly_unneeded.then_some(Outgoing { id, size_bytes, needed }))
    }

    /// Moves a batch; returns whether there was room for it.
    fn move_or_tell(
        &self,
        batch: &[Outgoing],
        reader: &PackReader,
        report: &mut SweepReport,
    ) -> Result<bool, RepositoryError> {
        match self.move_batch(batch, reader, report) {
            Ok(()) => Ok(true),
            Err(Stopped::NoRoom(reason)) => {
                report.not_repacked_because = Some(reason);
                Ok(false)
            }
            Err(Stopped::Failed(error)) => Err(error),
        }
    }

    fn move_batch(
        &self,
        batch: &[Outgoing],
        reader: &PackReader,
        report: &mut SweepReport,
    ) -> Result<(), Stopped> {
        let needed_bytes: u64 = batch.iter().map(Outgoing::needed_bytes).sum();
        if needed_bytes > 0 {
            self.ensure_room_for(needed_bytes)?;
        }
        let copied = self.copy_needed(batch, reader).map_err(|error| {
            if error.is_full() { Stopped::NoRoom(error.to_string()) } else { Stopped::Failed(error) }
        })?;
        for outgoing in batch.iter().filter(|outgoing| copied.contains(&outgoing.id)) {
            self.remove_pack(&outgoing.id).map_err(Stopped::Failed)?;
            step_point("removed a repacked pack");
            report.repacked_packs += 1;
            report.freed_bytes += outgoing.size_bytes.saturating_sub(outgoing.needed_bytes());
        }
        Ok(())
    }

    fn ensure_room_for(&self, needed_bytes: u64) -> Result<(), Stopped> {
        let path = self.root().path();
        let space = disk_space(path).map_err(attempting("ask for free space in", path));
        let available_bytes = space.map_err(Stopped::Failed)?.available_bytes;
        if available_bytes >= needed_bytes.saturating_add(MARGIN_BYTES) {
            return Ok(());
        }
        Err(Stopped::NoRoom(format!(
            "it takes {} for a while, and {} are free",
            bytes(needed_bytes.saturating_add(MARGIN_BYTES)),
            bytes(available_bytes)
        )))
    }

    /// Writes what is needed of a batch into new packs, and returns the packs of which all of it could be read. When
    /// this returns, the new packs are on disk.
    fn copy_needed(
        &self,
        batch: &[Outgoing],
        reader: &PackReader,
    ) -> Result<HashSet<PackId>, RepositoryError> {
        let mut copied = HashSet::new();
        let writer = PackWriter::new(self.root(), self.encryption());
        let mut raw = Vec::new();
        for outgoing in batch {
            let stream = ChunkStream::default();
            let mut is_whole = true;
            for PackEntry { chunk, .. } in &outgoing.needed {
                // What is damaged stays where it is, for a verification to name it and for whoever can mend it.
                if read_from(outgoing.id, chunk, reader, &mut raw).is_ok() {
                    writer.append(&stream, *chunk, &raw)?;
                } else {
                    is_whole = false;
                }
            }
            copied.extend(is_whole.then_some(outgoing.id));
        }
        if batch.iter().any(|outgoing| !outgoing.needed.is_empty()) {
            step_point("wrote a repacked pack");
            writer.close()?;
            // A pack is named by its content: a repacking that was cut short may have written this very one.
            for id in writer.closed() {
                copied.remove(&id);
            }
            step_point("sealed a repacked pack");
        }
        Ok(copied)
    }

    fn remove_pack(&self, id: &PackId) -> Result<(), RepositoryError> {
        let path = pack_path(id);
        let directory = path.parent().unwrap_or(Path::new(PACKS));
        self.root()
            .remove_file(&path)
            .and_then(|()| self.root().sync_directory(directory))
            .map_err(attempting("remove", self.root().path().join(&path)))
    }
}

/// What a pack is made of.
#[derive(Clone, Copy, Default)]
struct Tally {
    stored_bytes: u64,
    referenced_bytes: u64,
    has_copies: bool,
}

/// The packs that may be mostly unneeded: those that are mostly not referred to, and those of which a chunk is in another
/// pack, too. Both sets are gone through in order, once, since to look up every chunk of every pack would take long.
fn candidates(index: &ChunkIndex, referenced: &ChunkSet) -> Result<HashSet<PackId>, RepositoryError> {
    let mut tallies: HashMap<PackId, Tally> = HashMap::new();
    let mut referenced = referenced.iter().map(|chunk| chunk.map(|chunk| key_of(&chunk)));
    let mut next = referenced.next().transpose()?;
    let mut last: Option<(ChunkKey, PackId)> = None;
    for place in index.iter() {
        let (key, location) = place.map_err(reading_index())?;
        while next.is_some_and(|next| next < key) {
            next = referenced.next().transpose()?;
        }
        let copy = last.replace((key, location.pack)).filter(|(last, _)| *last == key);
        if let Some((_, pack)) = copy {
            tallies.entry(pack).or_default().has_copies = true;
        }
        let tally = tallies.entry(location.pack).or_default();
        let stored_bytes = u64::from(location.stored_size_bytes);
        tally.stored_bytes += stored_bytes;
        tally.referenced_bytes += if next == Some(key) { stored_bytes } else { 0 };
        tally.has_copies |= copy.is_some();
    }
    let is_candidate = |tally: &Tally| tally.has_copies || tally.referenced_bytes * 2 < tally.stored_bytes;
    Ok(tallies.into_iter().filter(|(_, tally)| is_candidate(tally)).map(|(id, _)| id).collect())
}

/// Whether a pack that stays has a copy of the chunk that was seen to be sound.
fn is_sound_elsewhere(
    chunk: &ChunkId,
    here: PackId,
    reader: &PackReader,
    gone: &HashSet<PackId>,
) -> Result<bool, RepositoryError> {
    let stays = |location: &&Location| location.pack != here && !gone.contains(&location.pack);
    let found = reader.index().find_all(chunk).map_err(reading_index())?;
    let mut raw = Vec::new();
    Ok(found.iter().filter(stays).any(|location| reader.read_copy(chunk, location, &mut raw).is_ok()))
}

/// Reads a chunk from one pack.
fn read_from(pack: PackId, chunk: &ChunkId, reader: &PackReader, raw: &mut Vec<u8>) -> Result<(), ReadError> {
    let copies = reader.copies(chunk)?.into_iter().filter(|location| location.pack == pack);
    reader.read_any(chunk, copies, raw)
}
