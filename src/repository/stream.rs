//! The chunks of one file on their way into packs, and the dictionary that they share.
//!
//! The first chunks of a file that are stored in a pack are compressed by themselves. Once there are
//! [`super::frame::DICTIONARY_CHUNKS`] of them, they are the dictionary of those that follow, until the pack is closed or
//! the file has gone so far that they tell little of what comes. A pack has all that is needed to read what is in it, so
//! that packs are removed one by one; a dictionary is made of chunks that are needed anyway, and takes no room.

use std::sync::{Mutex, MutexGuard};

use super::chunk::CHUNK_SIZE_BYTES;
use super::frame::{Dictionary, MAXIMUM_DICTIONARY_SIZE_BYTES};
use super::pack::{DictionaryEntries, PackBuilder};
use super::shared::locked;

/// How much of a file is compressed with one dictionary. The next costs what its own chunks would have been smaller by:
/// less than one in a hundred bytes.
const DICTIONARY_REACH_BYTES: usize = 64 * 1024 * 1024;

/// The chunks of one file, or of a stretch of one. May be used from many threads.
#[derive(Debug)]
pub struct ChunkStream {
    reach_bytes: usize,
    state: Mutex<State>,
}

impl Default for ChunkStream {
    fn default() -> Self {
        Self::reaching(DICTIONARY_REACH_BYTES)
    }
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Begun,
    /// Some of the chunks for a dictionary are in a pack.
    Gathering { pack_number: u64, entries: Vec<u32>, content: Vec<u8> },
    /// There is one, and so much was compressed with it.
    Ready { dictionary: PackDictionary, used_for_bytes: usize },
}

/// A dictionary, and where it is.
#[derive(Clone, Debug)]
pub(super) struct PackDictionary {
    /// The pack that has it, and where alone it can be used.
    pub(super) pack_number: u64,
    /// Its number there.
    pub(super) number: u32,
    pub(super) content: Dictionary,
}

impl ChunkStream {
    /// A stream that takes a new dictionary after so many bytes.
    pub(super) fn reaching(reach_bytes: usize) -> Self {
        Self { reach_bytes, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// What the next chunk is to be compressed with.
    pub(super) fn dictionary(&self) -> Option<PackDictionary> {
        match &*self.state() {
            State::Ready { dictionary, .. } => Some(dictionary.clone()),
            State::Begun | State::Gathering { .. } => None,
        }
    }

    /// Takes note of a chunk that a pack has now, as its entry of that number, compressed with a dictionary or by itself.
    pub(super) fn note(
        &self,
        pack: &mut PackBuilder,
        entry: u32,
        raw: &[u8],
        dictionary: Option<&PackDictionary>,
    ) {
        let mut state = self.state();
        match &mut *state {
            State::Ready { dictionary, used_for_bytes } if dictionary.pack_number == pack.number() => {
                *used_for_bytes += raw.len();
                if *used_for_bytes >= self.reach_bytes {
                    *state = State::Begun;
                }
            }
            // Another thread was still at work with the dictionary before; and a short chunk is the last of its file.
            _ if dictionary.is_some() || raw.len() < CHUNK_SIZE_BYTES => {}
            State::Gathering { pack_number, entries, content } if *pack_number == pack.number() => {
                entries.push(entry);
                content.extend_from_slice(raw);
                if let Ok(entries) = DictionaryEntries::try_from(entries.as_slice()) {
                    *state = ready(pack, entries, content);
                }
            }
            _ => {
                let mut content = Vec::with_capacity(MAXIMUM_DICTIONARY_SIZE_BYTES);
                content.extend_from_slice(raw);
                *state = State::Gathering { pack_number: pack.number(), entries: vec![entry], content };
            }
        }
    }
}

fn ready(pack: &mut PackBuilder, entries: DictionaryEntries, content: &[u8]) -> State {
    let pack_number = pack.number();
    let added = Dictionary::new(content).and_then(|content| Some((content, pack.add_dictionary(entries)?)));
    added.map_or(State::Begun, |(content, number)| State::Ready {
        dictionary: PackDictionary { pack_number, number, content },
        used_for_bytes: 0,
    })
}
