//! Reading packs whole, to see whether what they hold is what was stored.
//!
//! A pack is read once from its beginning to its end, whatever number of backups refer to it: each chunk is brought
//! out of its frame and checked by its hash, and the pack as a whole by its name. Nothing is changed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::chunk::{CHUNK_SIZE_BYTES, ChunkId};
use super::encryption::Encryption;
use super::error::{RepositoryError, attempting};
use super::frame::{DICTIONARY_CHUNKS, Dictionary};
use super::index::{list_packs, open_pack};
use super::pack::{PackEntry, PackId, read_index};
use super::pack_reader::{Packed, gather_dictionary};
use super::{Repository, SharedLock};
use crate::progress::Progress;

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
    /// Why it is not what was written, if it could be read whole and is not.
    damaged: Option<String>,
    unreadable: Option<String>,
}

impl Repository {
    /// Reads every pack that has one of these chunks, and tells which chunks no pack has sound.
    ///
    /// # Errors
    /// When the packs cannot be listed or opened. Damage, and a pack that cannot be read, are no errors.
    pub fn scan_packs(
        &self,
        _lock: &SharedLock,
        needed: HashSet<ChunkId>,
        progress: &dyn Progress,
    ) -> Result<PackScan, RepositoryError> {
        let mut scan = PackScan::default();
        let tasks = self.tasks(&needed, &mut scan)?;
        scan.pack_count = tasks.len();
        scan.read_bytes = tasks.iter().map(|task| task.size_bytes).sum();
        let outstanding = Mutex::new(needed);
        progress.begin("reading packs", Some(scan.read_bytes));
        let outcomes: Vec<PackOutcome> = tasks
            .par_iter()
            .map(|task| {
                let outcome = scan_pack(task, self.encryption(), &outstanding, progress);
                let mut outstanding = outstanding.lock().unwrap_or_else(PoisonError::into_inner);
                for chunk in &outcome.sound {
                    outstanding.remove(chunk);
                }
                PackOutcome { sound: Vec::new(), ..outcome }
            })
            .collect();
        progress.end();
        let outstanding = outstanding.into_inner().unwrap_or_else(PoisonError::into_inner);
        for (task, outcome) in tasks.iter().zip(outcomes) {
            scan.take(task, outcome);
        }
        scan.settle(&outstanding);
        Ok(scan)
    }

    fn tasks(&self, needed: &HashSet<ChunkId>, scan: &mut PackScan) -> Result<Vec<Task>, RepositoryError> {
        let mut tasks = Vec::new();
        for id in list_packs(self.root())? {
            let file = open_pack(self.root(), &id)?;
            let size_bytes = file.metadata().map_err(attempting("read", self.root().path()))?.len();
            match read_index(&file, self.encryption()) {
                Ok(index) if index.entries.iter().any(|entry| needed.contains(&entry.chunk)) => {
                    let dictionaries = index.dictionaries().collect();
                    let mut entries = index.entries;
                    entries.sort_by_key(|entry| entry.offset);
                    tasks.push(Task { id, file, size_bytes, entries, dictionaries });
                }
                Ok(_) => {}
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
}

impl PackScan {
    fn take(&mut self, task: &Task, outcome: PackOutcome) {
        for (chunk, fault, reason) in outcome.faulty {
            self.faulty.insert(chunk, FaultyChunk { fault, pack: Some(task.id), reason });
        }
        if let Some(reason) = outcome.unreadable {
            self.unreadable_packs.insert(task.id.to_string(), reason);
        }
        if let Some(reason) = outcome.damaged {
            self.damaged_packs.insert(task.id.to_string(), reason);
            self.in_damaged_packs.extend(task.entries.iter().map(|entry| (entry.chunk, task.id)));
        }
    }

    /// Keeps of the faulty chunks those without a sound copy, and adds those without any.
    fn settle(&mut self, outstanding: &HashSet<ChunkId>) {
        self.faulty.retain(|chunk, _| outstanding.contains(chunk));
        let (fault, others) = if self.unreadable_packs.is_empty() {
            (ChunkFault::Missing, &self.damaged_packs)
        } else {
            (ChunkFault::Unreadable, &self.unreadable_packs)
        };
        let mut reason = "it is in no pack".to_owned();
        if let Some((pack, problem)) = others.iter().next() {
            reason = format!("it is in no pack that can be read; of pack {pack}: {problem}");
        }
        for chunk in outstanding {
            let faulty = || FaultyChunk { fault, pack: None, reason: reason.clone() };
            self.faulty.entry(*chunk).or_insert_with(faulty);
        }
    }
}

/// Reads one pack from its beginning to its end.
fn scan_pack(
    task: &Task,
    encryption: &Encryption,
    needed: &Mutex<HashSet<ChunkId>>,
    progress: &dyn Progress,
) -> PackOutcome {
    let wanted: Vec<bool> = {
        // A chunk that another pack was seen to have sound is still covered by the hash of the whole.
        let needed = needed.lock().unwrap_or_else(PoisonError::into_inner);
        task.entries.iter().map(|entry| needed.contains(&entry.chunk)).collect()
    };
    let mut outcome = PackOutcome::default();
    let mut hasher = blake3::Hasher::new();
    let (mut position, mut bytes, mut raw) = (0, Vec::new(), Vec::new());
    let mut dictionaries = Dictionaries { task, encryption, known: HashMap::new() };
    for (entry, is_wanted) in task.entries.iter().zip(wanted) {
        let offset = u64::from(entry.offset);
        read_on(task, position..offset, &mut hasher, &mut outcome);
        position = position.max(offset);
        bytes.resize(entry.stored_size_bytes as usize, 0);
        if let Err(error) = task.file.read_exact_at(&mut bytes, offset) {
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
    read_on(task, position..task.size_bytes, &mut hasher, &mut outcome);
    if outcome.unreadable.is_none() && PackId::from(hasher.finalize()) != task.id {
        let what = "its content is not what its name says".to_owned();
        outcome.damaged.get_or_insert(what);
    }
    outcome
}

/// How many dictionaries are kept of a pack: those of as many files, or fewer, lie between each other in it.
const KEPT_DICTIONARIES: usize = 8;

/// The last dictionaries of a pack that were needed, or why one could not be had.
struct Dictionaries<'a> {
    task: &'a Task,
    encryption: &'a Encryption,
    known: HashMap<u32, Result<Dictionary, (ChunkFault, String)>>,
}

impl Dictionaries<'_> {
    /// Brings a chunk out of its frame, and checks it by its hash.
    fn unpack(
        &mut self,
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

    fn get(&mut self, number: u32) -> Result<Dictionary, (ChunkFault, String)> {
        let (task, encryption) = (self.task, self.encryption);
        if self.known.len() >= KEPT_DICTIONARIES && !self.known.contains_key(&number) {
            self.known.clear();
        }
        self.known.entry(number).or_insert_with(|| read_dictionary(task, encryption, number)).clone()
    }
}

fn read_dictionary(
    task: &Task,
    encryption: &Encryption,
    number: u32,
) -> Result<Dictionary, (ChunkFault, String)> {
    let entries = task.dictionaries.get(number as usize).into_iter().flatten();
    let dictionary = gather_dictionary(entries, |entry, raw| {
        let mut stored = vec![0; entry.stored_size_bytes as usize];
        task.file.read_exact_at(&mut stored, u64::from(entry.offset)).map_err(|error| {
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
fn read_on(task: &Task, range: std::ops::Range<u64>, hasher: &mut blake3::Hasher, outcome: &mut PackOutcome) {
    let mut piece = Vec::new();
    for offset in range.clone().step_by(CHUNK_SIZE_BYTES) {
        let length = (range.end - offset).min(CHUNK_SIZE_BYTES as u64);
        piece.resize(usize::try_from(length).unwrap_or(CHUNK_SIZE_BYTES), 0);
        match task.file.read_exact_at(&mut piece, offset) {
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
