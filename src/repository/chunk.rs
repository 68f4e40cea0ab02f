//! Chunks: pieces of files, named by the hash of what they hold, stored as zstd frames, sealed if there is a key.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zstd::bulk::{Compressor, Decompressor};

/// The size of every chunk but the last of a file: 16 pages, so that a random read from a mounted backup stays
/// fast, and a page updated in place makes few other bytes new.
pub const CHUNK_SIZE_BYTES: usize = CHUNK_SIZE as usize;
/// The same, as it is written into files.
pub(super) const CHUNK_SIZE: u32 = 128 * 1024;

/// Level 1: PostgreSQL's pages shrink to within a few percent of what level 3 makes of them, at half the work.
const COMPRESSION_LEVEL: i32 = 1;

/// A BLAKE3 hash. Its text is 64 hexadecimal digits in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub(super) [u8; 32]);

/// The name of a chunk: the hash of what it holds, uncompressed; a keyed one in an encrypted repository.
pub type ChunkId = Digest;

impl Digest {
    /// The hash of some bytes. What a chunk is called, [`super::encryption`] knows.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

/// A text that is no hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a hash: expected 64 hexadecimal digits")]
pub struct ParseDigestError;

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hash = blake3::Hash::from_hex(text).map_err(|_| ParseDigestError)?;
        // One text for one hash: a flipped bit that only changes a letter's case is still damage.
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Err(ParseDigestError)
        } else {
            Ok(hash.into())
        }
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

thread_local! {
    // Their tables are larger than a chunk: made anew for each, they would cost more than the compression.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Compresses a chunk into `frame`, which is emptied first.
pub(super) fn compress(raw: &[u8], frame: &mut Vec<u8>) -> io::Result<()> {
    frame.clear();
    frame.reserve(zstd::zstd_safe::compress_bound(raw.len()));
    COMPRESSOR.with_borrow_mut(|slot| {
        let compressor = match slot {
            Some(compressor) => compressor,
            None => slot.insert(Compressor::new(COMPRESSION_LEVEL)?),
        };
        compressor.compress_to_buffer(raw, frame)?;
        Ok(())
    })
}

/// Decompresses a frame of `raw_size_bytes` into `raw`, which is emptied first. A frame that holds more is an error.
pub(super) fn decompress(frame: &[u8], raw_size_bytes: usize, raw: &mut Vec<u8>) -> io::Result<()> {
    raw.clear();
    raw.reserve_exact(raw_size_bytes);
    DECOMPRESSOR.with_borrow_mut(|slot| {
        let decompressor = match slot {
            Some(decompressor) => decompressor,
            None => slot.insert(Decompressor::new()?),
        };
        decompressor.decompress_to_buffer(frame, raw)?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_survives_compression() {
        let raw: Vec<u8> = (0..CHUNK_SIZE_BYTES).map(|index| u8::try_from(index % 251).unwrap()).collect();
        let (mut frame, mut back) = (Vec::new(), vec![9; 10]);

        compress(&raw, &mut frame).unwrap();
        decompress(&frame, raw.len(), &mut back).unwrap();

        assert!(frame.len() < raw.len() / 10);
        assert_eq!(raw, back);
    }

    #[test]
    fn a_frame_that_is_no_frame_is_an_error() {
        assert!(decompress(b"not a frame", 100, &mut Vec::new()).is_err());
    }

    #[test]
    fn a_hash_survives_its_text_and_other_texts_are_refused() {
        let digest = Digest::of(b"");
        assert_eq!(digest.to_string(), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!("af13".parse::<Digest>(), Err(ParseDigestError));
        assert_eq!(digest.to_string().to_uppercase().parse::<Digest>(), Err(ParseDigestError));
    }
}
