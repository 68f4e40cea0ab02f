//! Chunks: pieces of files, named by the hash of what they hold, stored as zstd frames, sealed if there is a key.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The size of every chunk but the last of a file: 16 pages, so that a random read from a mounted backup stays
/// fast, and a page updated in place makes few other bytes new.
pub const CHUNK_SIZE_BYTES: usize = CHUNK_SIZE as usize;
/// The same, as it is written into files.
pub(super) const CHUNK_SIZE: u32 = 128 * 1024;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_survives_its_text_and_other_texts_are_refused() {
        let digest = Digest::of(b"");
        assert_eq!(digest.to_string(), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!("af13".parse::<Digest>(), Err(ParseDigestError));
        assert_eq!(digest.to_string().to_uppercase().parse::<Digest>(), Err(ParseDigestError));
    }
}
