//! Reading packs whole, to see whether what they hold is what was stored.
//!
//! A pack is read once from its beginning to its end, whatever number of backups refer to it: each chunk is brought
//! out of its frame and checked by its hash, and the pack as a whole by its name. Nothing is changed. What is held in
//! memory grows with the damage, and not with what is read.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use rayon::prelude::*;

use super::chunk::{CHUNK_SIZE_BYTES, ChunkId, Digest};
use super::encryption::Encryption;
use super::error::{RepositoryError, attempting};
use super::frame::{DICTIONARY_CHUNKS, Dictionary};
use super::index::{list_packs, open_pack};
use super::pack::{PackEntry, PackId, PackIndexError, read_index};
use super::pack_reader::{Packed, gather_dictionary};
use super::record_set::RecordSet;
use super::shared::{Kept, locked};
use super::{Repository, SharedLock};
use crate::progress::Progress;

/// A set of chunks that takes a bounded piece of memory, however many there are.
#[derive(Debug)]
pub struct ChunkSet(RecordSet<{ size_of::<ChunkId>() }>);

impl ChunkSet {
    /// Adds all chunks of a list.
    pub fn extend(&mut self, chunks: &[ChunkId]) {
        for chunk in chunks {
            self.0.insert(chunk.0);
        }
    }

    pub(super) fn contains(&self, chunk: &ChunkId) -> Result<bool, RepositoryError> {
        self.0.contains(&chunk.0).map_err(reading_back())
    }

    /// Whether a pack with these entries has any of the chunks.
    pub(super) fn has_any_of(&self, entries: &[PackEntry]) -> Result<bool, RepositoryError> {
        for entry in entries {
            if self.contains(&entry.chunk)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes lookups fast, once all is in it.
    pub(super) fn compact(&mut self) {
        self.0.compact();
    }

    /// Every chunk, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Result<ChunkId, RepositoryError>> {
        self.0.iter().map(|chunk| chunk.map(Digest).map_err(reading_back()))
    }
}

fn reading_back() -> impl FnOnce(io::Error) -> RepositoryError {
    attempting("read back", "the temporary set of chunks")
}

/// What is wrong with a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkFault {
    /// It is not what was stored.
    Damaged,
    /// It is in no pack that can be read.
    Missing,
    /// The disk did not give it, which says nothing about what is on it.
    Unreadable,
}

/// A chunk of which no sound copy was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultyChunk {
    /// What is wrong.
    pub fault: ChunkFault,
    /// The pack that has it.
    pub pack: Option<PackId>,
    /// What is wrong, in words.
    pub reason: String,
}

/// What a scan found.
#[derive(Debug, Default)]
pub struct PackScan {
    /// The chunks that were looked for and of which no sound copy was found.
    pub faulty: HashMap<ChunkId, FaultyChunk>,
    /// The packs that are not what was written, and how that was noticed.
    pub damaged_packs: BTreeMap<String, String>,
    /// The packs that could not be read, and why.
    pub unreadable_packs: BTreeMap<String, String>,
    /// The chunks that were looked for and are in damaged packs, sound or not.
    pub in_damaged_packs: HashMap<ChunkId, PackId>,
    /// How much was read.
    pub read_bytes: u64,
    /// How many packs were read.
    pub pack_count: usize,
}

/// A pack that has chunks that are looked for.
struct Task {
    id: PackId,
    size_bytes: u64,
}

/// A pack that is being read.
struct OpenPack {
    id: PackId,
    file: File,
    size_bytes: u64,
    /// In the order of their place.
    entries: Vec<PackEntry>,
    dictionaries: Vec<[PackEntry; DICTIONARY_CHUNKS]>,
}

/// What reading one pack told.
#[derive(Default)]
struct PackOutcome {
    faulty: Vec<(ChunkId, ChunkFault, String)>,
    sound: Vec<ChunkId>,
    /// What a damaged one holds, sound or not.
    entries: Vec<PackEntry>,
    /// Why it is not what was written, if it could be read whole and is not.
    damaged: Option<String>,
    unreadable: Option<String>,
}

/// The chunks that are looked for, and those that were found.
struct Chunks {
    needed: ChunkSet,
    sound: Mutex<ChunkSet>,
}

impl Chunks {
    /// Whether a chunk has to be brought out of its frame: one that another pack was seen to have sound is still
    /// covered by the hash of the whole.
    fn is_outstanding(&self, chunk: &ChunkId) -> Result<bool, RepositoryError> {
        let sound = locked(&self.sound);
        Ok(self.needed.contains(chunk)? && !sound.contains(chunk)?)
    }
}

impl Repository {
    /// A set of chunks, with none in it.
    pub fn chunk_set(&self) -> ChunkSet {
        ChunkSet(RecordSet::new(self.path()))
    }

    /// Reads every pack that has one of these chunks, and tells which chunks no pack has sound.
    ///
    /// # Errors
    /// When the packs cannot be listed or opened. Damage, and a pack that cannot be read, are no errors.
    pub fn scan_packs(
        &self,
        _lock: &SharedLock,
        needed: ChunkSet,
        progress: &dyn Progress,
    ) -> Result<PackScan, RepositoryError> {
        self.scan_packs_beside(needed, progress)
    }

    /// [`Self::scan_packs`] beside others who may remove packs: that one is gone is an error.
    ///
    /// # Errors
    /// As [`Self::scan_packs`].
    pub fn scan_packs_beside(
        &self,
        mut needed: ChunkSet,
        progress: &dyn Progress,
    ) -> Result<PackScan, RepositoryError> {
        needed.compact();
        let chunks = Chunks { needed, sound: Mutex::new(self.chunk_set()) };
        let mut scan = PackScan::default();
        let tasks = self.tasks(&chunks, &mut scan)?;
        scan.pack_count = tasks.len();
        scan.read_bytes = tasks.iter().map(|task| task.size_bytes).sum();
        progress.begin("reading packs", Some(scan.read_bytes));
        let outcomes: Result<Vec<PackOutcome>, RepositoryError> = tasks
            .par_iter()
            .map(|task| {
                let outcome = self.scan(task, &chunks, progress)?;
                locked(&chunks.sound).extend(&outcome.sound);
                Ok(PackOutcome { sound: Vec::new(), ..outcome })
            })
            .collect();
        progress.end();
        for (task, outcome) in tasks.iter().zip(outcomes?) {
            scan.take(task.id, outcome);
        }
        scan.settle(&chunks)?;
        Ok(scan)
    }

    /// The packs that have any of the chunks. One that has none is not read.
    fn tasks(&self, chunks: &Chunks, scan: &mut PackScan) -> Result<Vec<Task>, RepositoryError> {
        let mut tasks = Vec::new();
        for id in list_packs(self.root())? {
            match self.open_whole(id)? {
                Ok(pack) => {
                    let is_needed = chunks.needed.has_any_of(&pack.entries)?;
                    tasks.extend(is_needed.then_some(Task { id, size_bytes: pack.size_bytes }));
                }
                Err(error) if error.is_unreadable() => {
                    scan.unreadable_packs.insert(id.to_string(), error.to_string());
                }
                Err(error) => {
                    scan.damaged_packs.insert(id.to_string(), error.to_string());
                }
            }
        }
        Ok(tasks)
    }

    fn open_whole(&self, id: PackId) -> Result<Result<OpenPack, PackIndexError>, RepositoryError> {
        let file = open_pack(self.root(), &id)?;
        let size_bytes = file.metadata().map_err(attempting("read", self.root().path()))?.len();
        Ok(read_index(&file, self.encryption()).map(|index| {
            let dictionaries = index.dictionaries().collect();
            let mut entries = index.entries;
            entries.sort_by_key(|entry| entry.offset);
            OpenPack { id, file, size_bytes, entries, dictionaries }
        }))
    }

    /// Opens a pack again, since there may be more of them than files can be open, and reads it.
    fn scan(
        &self,
        task: &Task,
        chunks: &Chunks,
        progress: &dyn Progress,
    ) -> Result<PackOutcome, RepositoryError> {
        let outcome = match self.open_whole(task.id)? {
            Ok(pack) => {
                let outcome = scan_pack(&pack, self.encryption(), chunks, progress)?;
                let entries = if outcome.damaged.is_some() { pack.entries } else { Vec::new() };
                PackOutcome { entries, ..outcome }
            }
            Err(error) if error.is_unreadable() => {
                PackOutcome { unreadable: Some(error.to_string()), ..PackOutcome::default() }
            }
            Err(error) => PackOutcome { damaged: Some(error.to_string()), ..PackOutcome::default() },
        };
        Ok(outcome)
    }
}

impl PackScan {
    fn take(&mut self, pack: PackId, outcome: PackOutcome) {
        for (chunk, fault, reason) in outcome.faulty {
            self.faulty.insert(chunk, FaultyChunk { fault, pack: Some(pack), reason });
        }
        if let Some(reason) = outcome.unreadable {
            self.unreadable_packs.insert(pack.to_string(), reason);
        }
        if let Some(reason) = outcome.damaged {
            self.damaged_packs.insert(pack.to_string(), reason);
            self.in_damaged_packs.extend(outcome.entries.iter().map(|entry| (entry.chunk, pack)));
        }
    }

    /// Keeps of the faulty chunks those without a sound copy, and adds those without any.
    fn settle(&mut self, chunks: &Chunks) -> Result<(), RepositoryError> {
        locked(&chunks.sound).compact();
        let mut faulty = std::mem::take(&mut self.faulty);
        let (fault, others) = if self.unreadable_packs.is_empty() {
            (ChunkFault::Missing, &self.damaged_packs)
        } else {
            (ChunkFault::Unreadable, &self.unreadable_packs)
        };
        let mut reason = "it is in no pack".to_owned();
        if let Some((pack, problem)) = others.iter().next() {
            reason = format!("it is in no pack that can be read; of pack {pack}: {problem}");
        }
        for chunk in chunks.needed.iter() {
            let chunk = chunk?;
            if chunks.is_outstanding(&chunk)? {
                let missing = || FaultyChunk { fault, pack: None, reason: reason.clone() };
                self.faulty.insert(chunk, faulty.remove(&chunk).unwrap_or_else(missing));
            }
        }
        Ok(())
    }
}

/// Reads one pack from its beginning to its end.
fn scan_pack(
    pack: &OpenPack,
    encryption: &Encryption,
    chunks: &Chunks,
    progress: &dyn Progress,
) -> Result<PackOutcome, RepositoryError> {
    let wanted = pack.entries.iter().map(|entry| chunks.is_outstanding(&entry.chunk));
    let wanted: Vec<bool> = wanted.collect::<Result<_, _>>()?;
    let mut outcome = PackOutcome::default();
    let mut hasher = blake3::Hasher::new();
    let (mut position, mut bytes, mut raw) = (0, Vec::new(), Vec::new());
    let dictionaries = Dictionaries { pack, encryption, known: Kept::new(KEPT_DICTIONARIES) };
    for (entry, is_wanted) in pack.entries.iter().zip(wanted) {
        let offset = u64::from(entry.offset);
        read_on(pack, position..offset, &mut hasher, &mut outcome);
        position = position.max(offset);
        bytes.resize(entry.stored_size_bytes as usize, 0);
        if let Err(error) = pack.file.read_exact_at(&mut bytes, offset) {
            outcome.note_failure(&error);
            let fault = if is_cut(&error) { ChunkFault::Damaged } else { ChunkFault::Unreadable };
            outcome.faulty.extend(is_wanted.then(|| (entry.chunk, fault, error.to_string())));
            position = position.max(offset + u64::from(entry.stored_size_bytes));
            continue;
        }
        if position == offset {
            hasher.update(&bytes);
            position += u64::from(entry.stored_size_bytes);
        }
        if is_wanted {
            match dictionaries.unpack(entry, &mut bytes, &mut raw) {
                Ok(()) => outcome.sound.push(entry.chunk),
                Err((fault, reason)) => outcome.faulty.push((entry.chunk, fault, reason)),
            }
        }
        progress.advance(u64::from(entry.stored_size_bytes));
    }
    read_on(pack, position..pack.size_bytes, &mut hasher, &mut outcome);
    if outcome.unreadable.is_none() && PackId::from(hasher.finalize()) != pack.id {
        let what = "its content is not what its name says".to_owned();
        outcome.damaged.get_or_insert(what);
    }
    Ok(outcome)
}

/// How many dictionaries are kept of a pack: those of as many files, or fewer, lie between each other in it.
const KEPT_DICTIONARIES: usize = 8;

/// The last dictionaries of a pack that were needed, or why one could not be had.
struct Dictionaries<'a> {
    pack: &'a OpenPack,
    encryption: &'a Encryption,
    known: Kept<u32, Result<Dictionary, (ChunkFault, String)>>,
}

impl Dictionaries<'_> {
    /// Brings a chunk out of its frame, and checks it by its hash.
    fn unpack(
        &self,
        entry: &PackEntry,
        stored: &mut [u8],
        raw: &mut Vec<u8>,
    ) -> Result<(), (ChunkFault, String)> {
        let dictionary = entry.dictionary.map(|number| self.get(number)).transpose()?;
        let PackEntry { chunk, raw_size_bytes, .. } = entry;
        Packed { chunk, dictionary: dictionary.as_ref(), raw_size_bytes: *raw_size_bytes }
            .unpack(self.encryption, stored, raw)
            .map_err(|reason| (ChunkFault::Damaged, reason))
    }

    fn get(&self, number: u32) -> Result<Dictionary, (ChunkFault, String)> {
        self.known.get(&number).unwrap_or_else(|| {
            let dictionary = read_dictionary(self.pack, self.encryption, number);
            self.known.keep(number, dictionary.clone());
            dictionary
        })
    }
}

fn read_dictionary(
    pack: &OpenPack,
    encryption: &Encryption,
    number: u32,
) -> Result<Dictionary, (ChunkFault, String)> {
    let entries = pack.dictionaries.get(number as usize).into_iter().flatten();
    let dictionary = gather_dictionary(entries, |entry, raw| {
        let mut stored = vec![0; entry.stored_size_bytes as usize];
        pack.file.read_exact_at(&mut stored, u64::from(entry.offset)).map_err(|error| {
            let fault = if is_cut(&error) { ChunkFault::Damaged } else { ChunkFault::Unreadable };
            (fault, error.to_string())
        })?;
        Packed { chunk: &entry.chunk, dictionary: None, raw_size_bytes: entry.raw_size_bytes }
            .unpack(encryption, &mut stored, raw)
            .map_err(|reason| (ChunkFault::Damaged, format!("chunk {}: {reason}", entry.chunk)))
    });
    let damaged = |reason| (ChunkFault::Damaged, format!("what it is compressed with is damaged: {reason}"));
    match dictionary {
        Ok(Some(dictionary)) => Ok(dictionary),
        Ok(None) => Err(damaged("it cannot be a dictionary".to_owned())),
        Err((ChunkFault::Damaged, reason)) => Err(damaged(reason)),
        Err(other) => Err(other),
    }
}

/// Reads what is between two chunks, or behind the last: nothing but the hash of the whole vouches for it.
fn read_on(
    pack: &OpenPack,
    range: std::ops::Range<u64>,
    hasher: &mut blake3::Hasher,
    outcome: &mut PackOutcome,
) {
    let mut piece = Vec::new();
    for offset in range.clone().step_by(CHUNK_SIZE_BYTES) {
        let length = (range.end - offset).min(CHUNK_SIZE_BYTES as u64);
        piece.resize(usize::try_from(length).unwrap_or(CHUNK_SIZE_BYTES), 0);
        match pack.file.read_exact_at(&mut piece, offset) {
            Ok(()) => _ = hasher.update(&piece),
            Err(error) => outcome.note_failure(&error),
        }
    }
}

impl PackOutcome {
    fn note_failure(&mut self, error: &io::Error) {
        if is_cut(error) {
            self.damaged = Some("it is cut short".to_owned());
        } else {
            self.unreadable = Some(format!("it could not be read: {error}"));
        }
    }
}

fn is_cut(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
}
