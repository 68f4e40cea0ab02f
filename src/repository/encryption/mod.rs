//! Encryption at rest: whoever has the disk and not the key sees names of backups, names of WAL files, sizes and times.
//!
//! Everything with content is sealed with XChaCha20-Poly1305, each piece with a random nonce before it and a tag behind
//! it, and bound to its place: a piece that is moved to another place is found like one that was changed. Chunks and
//! WAL files are named by keyed hashes, since a plain hash tells whoever can guess a content that it is there. Chunks
//! are bound to their name and not to their pack, so that repacking moves them as they are.
//!
//! The key file's key only wraps a random key of the repository's own, so that it can be exchanged without anything
//! being written anew. age was refused: it has no associated data, and a header of its own for each of a million chunks.

mod key;
mod pieces;

use std::fmt;
use std::io;
use std::sync::Arc;

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use super::chunk::{ChunkId, Digest};

pub(super) use key::BackupKey;
pub use key::EncryptionHeader;
pub(super) use pieces::{PieceReader, PieceWriter};

pub(super) const NONCE_SIZE: usize = 24;
const TAG_SIZE: usize = 16;
/// What a sealed piece has more than what is in it.
const OVERHEAD: usize = NONCE_SIZE + TAG_SIZE;

/// What each key that is derived from the repository's own is for. They are part of the format.
const CONTENT_KEY: &str = "pgbox repository 2026-11 content";
const CHUNK_NAME_KEY: &str = "pgbox repository 2026-11 chunk names";
const WAL_NAME_KEY: &str = "pgbox repository 2026-11 WAL names";

/// A key in memory, overwritten when it is dropped.
pub(super) type Key = Zeroizing<[u8; 32]>;

/// How the content of a repository is kept from other eyes.
#[derive(Clone, Debug)]
pub(super) enum Encryption {
    /// It is not.
    None,
    /// By these keys.
    Keys(Arc<Keys>),
}

/// The keys of a repository, for what each is used for.
pub(super) struct Keys {
    content: XChaCha20Poly1305,
    chunk_names: Key,
    wal_names: Key,
}

impl fmt::Debug for Keys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Keys(…)")
    }
}

/// Where a sealed piece belongs. It is no piece of any other place.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    /// A whole file, by its path below the repository.
    File(&'a str),
    /// A chunk, in whatever pack.
    Chunk(&'a ChunkId),
    /// The index of a pack, which has so many entries and begins so far from the pack's beginning.
    PackIndex { offset: u64, entry_count: u32 },
    /// A piece of a large file, by the file's path below the repository and the piece's number in it.
    Piece { path: &'a str, number: u64, is_last: bool },
}

impl Place<'_> {
    /// The place as associated data. No two places have the same.
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::File(path) => [b"file\0", path.as_bytes()].concat(),
            Self::Chunk(id) => [b"chunk\0", id.0.as_slice()].concat(),
            Self::PackIndex { offset, entry_count } => {
                [b"index\0".as_slice(), &offset.to_le_bytes(), &entry_count.to_le_bytes()].concat()
            }
            Self::Piece { path, number, is_last } => {
                let last = [u8::from(*is_last)];
                [b"piece\0", path.as_bytes(), b"\0", &number.to_le_bytes(), &last].concat()
            }
        }
    }
}

/// A piece that is not what was sealed for its place with this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it cannot be decrypted: it was changed, or belongs elsewhere")]
pub(super) struct SealError;

impl From<SealError> for io::Error {
    fn from(error: SealError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

impl Encryption {
    /// The keys that are derived from a repository's own.
    fn with(repository_key: &Key) -> Self {
        let derived = |purpose| Zeroizing::new(blake3::derive_key(purpose, repository_key.as_slice()));
        Self::Keys(Arc::new(Keys {
            content: cipher(&derived(CONTENT_KEY)),
            chunk_names: derived(CHUNK_NAME_KEY),
            wal_names: derived(WAL_NAME_KEY),
        }))
    }

    /// Whether what is stored can be read without a key.
    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// What a sealed piece has more than what is in it.
    pub(super) fn overhead(&self) -> usize {
        if self.is_none() { 0 } else { OVERHEAD }
    }

    /// The name of a chunk.
    pub(super) fn chunk_id(&self, raw: &[u8]) -> ChunkId {
        match self {
            Self::None => Digest::of(raw),
            Self::Keys(keys) => blake3::keyed_hash(&keys.chunk_names, raw).into(),
        }
    }

    /// What makes the hash in the name of a WAL file.
    pub(super) fn wal_hasher(&self) -> blake3::Hasher {
        match self {
            Self::None => blake3::Hasher::new(),
            Self::Keys(keys) => blake3::Hasher::new_keyed(&keys.wal_names),
        }
    }

    /// Seals a piece for a place; without a key, it stays as it is.
    pub(super) fn seal(&self, place: Place<'_>, plain: Vec<u8>) -> io::Result<Vec<u8>> {
        match self {
            Self::None => Ok(plain),
            Self::Keys(keys) => seal_with(&keys.content, &place.bytes(), &plain),
        }
    }

    /// Opens what was sealed for a place, where it lies.
    pub(super) fn open<'b>(&self, place: Place<'_>, sealed: &'b mut [u8]) -> Result<&'b [u8], SealError> {
        match self {
            Self::None => Ok(sealed),
            Self::Keys(keys) => open_with(&keys.content, &place.bytes(), sealed),
        }
    }
}

fn cipher(key: &Key) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new((&**key).into())
}

/// Random bytes that nobody can foretell.
pub(super) fn random_bytes<const COUNT: usize>() -> io::Result<[u8; COUNT]> {
    let mut bytes = [0; COUNT];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// The nonce, the piece encrypted, the tag. Nonces are random: with 24 bytes no two are ever the same.
fn seal_with(cipher: &XChaCha20Poly1305, place: &[u8], plain: &[u8]) -> io::Result<Vec<u8>> {
    let nonce: [u8; NONCE_SIZE] = random_bytes()?;
    let mut sealed = Vec::with_capacity(plain.len() + OVERHEAD);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(plain);
    let (_, piece) = sealed.split_at_mut(NONCE_SIZE);
    let tag = cipher
        .encrypt_inout_detached(&XNonce::from(nonce), place, piece.into())
        .map_err(|_| io::Error::other("it is too large to be encrypted"))?;
    sealed.extend_from_slice(&tag);
    Ok(sealed)
}

fn open_with<'b>(
    cipher: &XChaCha20Poly1305,
    place: &[u8],
    sealed: &'b mut [u8],
) -> Result<&'b [u8], SealError> {
    let (nonce, rest) = sealed.split_first_chunk_mut::<NONCE_SIZE>().ok_or(SealError)?;
    let (piece, tag) = rest.split_last_chunk_mut::<TAG_SIZE>().ok_or(SealError)?;
    cipher
        .decrypt_inout_detached(&XNonce::from(*nonce), place, (&mut *piece).into(), &Tag::from(*tag))
        .map_err(|_| SealError)?;
    Ok(piece)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Keys for tests, the same for the same number.
    pub(crate) fn keys(number: u8) -> Encryption {
        Encryption::with(&Zeroizing::new([number; 32]))
    }

    fn sealed() -> Vec<u8> {
        keys(1).seal(Place::File("data_20261120_114010/backup.json"), b"content".to_vec()).unwrap()
    }

    fn open(encryption: &Encryption, place: Place, mut sealed: Vec<u8>) -> Result<Vec<u8>, SealError> {
        encryption.open(place, &mut sealed).map(<[u8]>::to_vec)
    }

    #[test]
    fn what_was_sealed_opens_at_its_place_with_its_key_and_nowhere_else() {
        let here = Place::File("data_20261120_114010/backup.json");
        assert_eq!(open(&keys(1), here, sealed()), Ok(b"content".to_vec()));

        assert_eq!(open(&keys(2), here, sealed()), Err(SealError));
        let id = Digest::of(b"");
        let elsewhere = [
            Place::File("data_20261120_114011/backup.json"),
            Place::Chunk(&id),
            Place::PackIndex { offset: 0, entry_count: 1 },
            Place::Piece { path: "data_20261120_114010/backup.json", number: 0, is_last: true },
        ];
        for place in elsewhere {
            assert_eq!(open(&keys(1), place, sealed()), Err(SealError), "{place:?}");
        }
    }

    #[test]
    fn the_same_content_is_never_sealed_into_the_same_bytes() {
        assert_ne!(sealed(), sealed());
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_found() {
        let (sealed, here) = (sealed(), Place::File("data_20261120_114010/backup.json"));
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&keys(1), here, flipped), Err(SealError), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert_eq!(open(&keys(1), here, sealed[..length].to_vec()), Err(SealError), "length {length}");
        }
    }

    #[test]
    fn names_tell_nothing_to_whoever_has_another_key() {
        let names = [keys(1).chunk_id(b"x"), keys(2).chunk_id(b"x"), Encryption::None.chunk_id(b"x")];
        let wal_name = Digest::from(keys(1).wal_hasher().update(b"x").finalize());
        assert_eq!(std::collections::HashSet::from([names[0], names[1], names[2], wal_name]).len(), 4);
        assert_eq!(names[2], Digest::of(b"x"));
    }

    #[test]
    fn keys_are_not_shown() {
        assert_eq!(format!("{:?}", keys(1)), "Keys(Keys(…))");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_open_nowhere(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(open(&keys(1), Place::File("lock"), bytes), Err(SealError));
        }

        #[test]
        fn any_content_comes_back(content in proptest::collection::vec(any::<u8>(), 0..5000)) {
            let place = Place::PackIndex { offset: 7, entry_count: 9 };
            let sealed = keys(3).seal(place, content.clone()).unwrap();
            prop_assert_eq!(sealed.len(), content.len() + keys(3).overhead());
            prop_assert_eq!(open(&keys(3), place, sealed), Ok(content));
        }
    }
}
