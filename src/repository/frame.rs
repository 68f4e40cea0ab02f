//! Frames: chunks as zstd makes them small, by themselves or with a dictionary.
//!
//! A chunk by itself is too little to show what repeats in a table: 128 KiB hold a few hundred rows. So most chunks of
//! a large file are compressed with others of it as their dictionary (see [`super::stream`]), which makes of them what
//! a window of megabytes would, and still lets each be read without its neighbours.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{CParameter, DictAttachPref};

use super::chunk::CHUNK_SIZE_BYTES;

/// zstd's own default. Below it, dictionaries find half as much in indexes; above, time is lost and nothing gained.
const COMPRESSION_LEVEL: i32 = 3;

/// How many chunks make a dictionary. More gain nothing, fewer do not hold what repeats.
pub(super) const DICTIONARY_CHUNKS: usize = 4;

/// What a dictionary that was trained begins with (zstd: `ZSTD_MAGIC_DICTIONARY`). zstd would take content that begins
/// so for one, and not for what it is.
const TRAINED_DICTIONARY: [u8; 4] = 0xEC30_A437_u32.to_le_bytes();

/// Content that frames refer to: that of [`DICTIONARY_CHUNKS`] chunks, one after the other. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Dictionary(Arc<[u8]>);

impl Dictionary {
    /// The dictionary of such content. `None` if zstd would misunderstand it.
    pub(super) fn new(content: &[u8]) -> Option<Self> {
        (!content.starts_with(&TRAINED_DICTIONARY)).then(|| Self(content.into()))
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// A compressor or decompressor, and the dictionary that it has loaded.
struct Loaded<T> {
    context: T,
    dictionary: Dictionary,
}

thread_local! {
    // Their tables are larger than a chunk: made anew for each, they would cost more than the compression.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
    static DICTIONARY_COMPRESSOR: RefCell<Option<Loaded<Compressor<'static>>>> = const { RefCell::new(None) };
    static DICTIONARY_DECOMPRESSOR: RefCell<Option<Loaded<Decompressor<'static>>>> = const { RefCell::new(None) };
}

/// Compresses a chunk into `frame`, which is emptied first.
pub(super) fn compress(raw: &[u8], dictionary: Option<&Dictionary>, frame: &mut Vec<u8>) -> io::Result<()> {
    frame.clear();
    frame.reserve(zstd::zstd_safe::compress_bound(raw.len()));
    let Some(dictionary) = dictionary else {
        return COMPRESSOR.with_borrow_mut(|slot| {
            let compressor = match slot {
                Some(compressor) => compressor,
                None => slot.insert(Compressor::new(COMPRESSION_LEVEL)?),
            };
            compressor.compress_to_buffer(raw, frame).map(|_| ())
        });
    };
    DICTIONARY_COMPRESSOR.with_borrow_mut(|slot| {
        let loaded = match slot {
            Some(loaded) if loaded.dictionary.is(dictionary) => loaded,
            _ => {
                slot.insert(Loaded { context: compressor_with(dictionary)?, dictionary: dictionary.clone() })
            }
        };
        loaded.context.compress_to_buffer(raw, frame).map(|_| ())
    })
}

fn compressor_with(dictionary: &Dictionary) -> io::Result<Compressor<'static>> {
    let mut compressor = Compressor::with_dictionary(COMPRESSION_LEVEL, &dictionary.0)?;
    // Its tables are looked into where they are. To copy them for every chunk takes longer than to compress it.
    compressor.set_parameter(CParameter::ForceAttachDict(DictAttachPref::ForceAttach))?;
    Ok(compressor)
}

/// Decompresses a frame of `raw_size_bytes` into `raw`, which is emptied first. A frame that holds more is an error.
pub(super) fn decompress(
    frame: &[u8],
    dictionary: Option<&Dictionary>,
    raw_size_bytes: usize,
    raw: &mut Vec<u8>,
) -> io::Result<()> {
    raw.clear();
    raw.reserve_exact(raw_size_bytes);
    let Some(dictionary) = dictionary else {
        return DECOMPRESSOR.with_borrow_mut(|slot| {
            let decompressor = match slot {
                Some(decompressor) => decompressor,
                None => slot.insert(Decompressor::new()?),
            };
            decompressor.decompress_to_buffer(frame, raw).map(|_| ())
        });
    };
    DICTIONARY_DECOMPRESSOR.with_borrow_mut(|slot| {
        let loaded = match slot {
            Some(loaded) if loaded.dictionary.is(dictionary) => loaded,
            _ => {
                let context = Decompressor::with_dictionary(&dictionary.0)?;
                slot.insert(Loaded { context, dictionary: dictionary.clone() })
            }
        };
        loaded.context.decompress_to_buffer(frame, raw).map(|_| ())
    })
}

/// The largest dictionary that there can be.
pub(super) const MAXIMUM_DICTIONARY_SIZE_BYTES: usize = DICTIONARY_CHUNKS * CHUNK_SIZE_BYTES;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_chunk_survives_compression() {
        let raw: Vec<u8> = (0..CHUNK_SIZE_BYTES).map(|index| u8::try_from(index % 251).unwrap()).collect();
        let (mut frame, mut back) = (Vec::new(), vec![9; 10]);

        compress(&raw, None, &mut frame).unwrap();
        decompress(&frame, None, raw.len(), &mut back).unwrap();

        assert!(frame.len() < raw.len() / 10);
        assert_eq!(raw, back);
    }

    #[test]
    fn a_frame_that_is_no_frame_is_an_error() {
        assert!(decompress(b"not a frame", None, 100, &mut Vec::new()).is_err());
    }

    #[test]
    fn content_that_looks_like_a_trained_dictionary_is_none() {
        assert!(Dictionary::new(&[0x37, 0xA4, 0x30, 0xEC, 1, 2, 3, 4]).is_none());
        assert!(Dictionary::new(&[0x37, 0xA4, 0x30]).is_some());
    }

    proptest! {
        #[test]
        fn what_repeats_the_dictionary_takes_next_to_nothing_and_needs_that_dictionary(
            content in prop::collection::vec(any::<u8>(), 2000..4000),
            other in prop::collection::vec(any::<u8>(), 2000..4000),
        ) {
            let dictionary = Dictionary::new(&content).unwrap();
            let other = Dictionary::new(&other).unwrap();
            let raw = &content[100..1900];
            let (mut frame, mut plain, mut back) = (Vec::new(), Vec::new(), Vec::new());

            compress(raw, None, &mut plain).unwrap();
            compress(raw, Some(&dictionary), &mut frame).unwrap();

            prop_assert!(frame.len() < plain.len() / 10);
            decompress(&frame, Some(&dictionary), raw.len(), &mut back).unwrap();
            prop_assert_eq!(&back, raw);
            for wrong in [None, Some(&other)] {
                let result = decompress(&frame, wrong, raw.len(), &mut back);
                prop_assert!(result.is_err() || back != raw);
            }
        }
    }
}
