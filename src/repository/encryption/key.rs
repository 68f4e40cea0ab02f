//! The key file, and the repository's own key, which it wraps.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Encryption, Key, SealError, cipher, open_with, random_bytes, seal_with};
use crate::repository::error::RepositoryError;
use crate::sys::{Links, keep_memory_private, open_regular};

/// What the key file's key is used for; a part of the format.
const WRAPPING_KEY: &str = "pgbox repository 2026-11 wrapping";
const CIPHER: &str = "XChaCha20-Poly1305";
/// The nonce, 32 bytes, the tag.
const WRAPPED_SIZE: usize = 72;
/// A key file has one line; what is larger is something else.
const LIMIT_BYTES: usize = 4096;

/// How a repository is encrypted, as `repository.json` says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncryptionHeader {
    /// The cipher of everything.
    pub cipher: String,
    /// The repository's own key, sealed with the key file's, in hexadecimal.
    pub wrapped_key: String,
}

/// The key of a key file.
pub(in crate::repository) struct BackupKey {
    key: Key,
    path: PathBuf,
}

impl fmt::Debug for BackupKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "BackupKey({})", self.path.display())
    }
}

impl BackupKey {
    /// Reads a key file: 64 hexadecimal digits, and white space around them.
    ///
    /// # Errors
    /// [`RepositoryError::UnreadableKeyFile`], and [`RepositoryError::NoKeyInFile`] when it holds anything else.
    pub(in crate::repository) fn read(path: &Path) -> Result<Self, RepositoryError> {
        let path = path.to_path_buf();
        let text = match keep_memory_private().and_then(|()| read_text(&path)) {
            Ok(text) => text,
            Err(source) => return Err(RepositoryError::UnreadableKeyFile { path, source }),
        };
        match parse(&text) {
            Some(key) => Ok(Self { key, path }),
            None => Err(RepositoryError::NoKeyInFile { path }),
        }
    }

    /// Where it is.
    pub(in crate::repository) fn path(&self) -> &Path {
        &self.path
    }

    fn wrapping_key(&self) -> Key {
        Zeroizing::new(blake3::derive_key(WRAPPING_KEY, self.key.as_slice()))
    }
}

fn read_text(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    // To open a pipe could take for ever, and the next to read it would find nothing.
    let file = open_regular(path, Links::Follow)?;
    let mut text = Zeroizing::new(Vec::with_capacity(LIMIT_BYTES + 1));
    file.take(LIMIT_BYTES as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}

fn parse(text: &[u8]) -> Option<Key> {
    decode_hexadecimal(text.trim_ascii()).map(Zeroizing::new)
}

fn decode_hexadecimal<const SIZE: usize>(text: &[u8]) -> Option<[u8; SIZE]> {
    let (pairs, rest) = text.as_chunks::<2>();
    if pairs.len() != SIZE || !rest.is_empty() {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let mut bytes = [0; SIZE];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

fn encode_hexadecimal(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

/// What a wrapped key belongs to: the repository of this id.
fn belonging(id: &str) -> Vec<u8> {
    [b"key\0", id.as_bytes()].concat()
}

impl EncryptionHeader {
    /// Makes a repository's own key, at random, and wraps it.
    pub(in crate::repository) fn create(key: &BackupKey, id: &str) -> io::Result<(Self, Encryption)> {
        let repository_key: Key = Zeroizing::new(random_bytes()?);
        let wrapped = seal_with(&cipher(&key.wrapping_key()), &belonging(id), repository_key.as_slice())?;
        let header = Self { cipher: CIPHER.to_owned(), wrapped_key: encode_hexadecimal(&wrapped) };
        Ok((header, Encryption::with(&repository_key)))
    }

    /// Whether it names the cipher that is known here.
    pub(in crate::repository) fn is_known(&self) -> bool {
        self.cipher == CIPHER && self.wrapped_key.len() == WRAPPED_SIZE * 2
    }

    /// Unwraps the repository's own key.
    ///
    /// # Errors
    /// [`SealError`] for another key than the one that wrapped it: that it is damaged is seen before, by the hash of
    /// `repository.json`.
    pub(in crate::repository) fn unlock(&self, key: &BackupKey, id: &str) -> Result<Encryption, SealError> {
        let mut wrapped: Zeroizing<[u8; WRAPPED_SIZE]> =
            Zeroizing::new(decode_hexadecimal(self.wrapped_key.as_bytes()).ok_or(SealError)?);
        let opened = open_with(&cipher(&key.wrapping_key()), &belonging(id), wrapped.as_mut_slice())?;
        let repository_key: Key = Zeroizing::new(opened.try_into().map_err(|_| SealError)?);
        Ok(Encryption::with(&repository_key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::encryption::Place;
    use proptest::prelude::*;

    fn key(digit: &str) -> BackupKey {
        BackupKey { key: parse(digit.repeat(64).as_bytes()).unwrap(), path: PathBuf::from("/key") }
    }

    #[test]
    fn a_key_is_64_hexadecimal_digits_with_white_space_around_them() {
        let digits = "0123456789abcdefABCDEF0000000000".repeat(2);
        for text in [digits.clone(), format!("{digits}\n"), format!(" {digits}\r\n\n")] {
            assert_eq!(parse(text.as_bytes()).unwrap()[..3], [0x01, 0x23, 0x45], "{text:?}");
        }
        let cut = &digits[1..];
        for text in
            ["", "secret", cut, &format!("{digits}0"), &format!("{cut}g"), &format!("{digits} {digits}")]
        {
            assert!(parse(text.as_bytes()).is_none(), "{text:?}");
        }
    }

    #[test]
    fn a_file_with_something_else_is_named_and_its_content_is_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, "hunter2").unwrap();

        let error = BackupKey::read(&path).unwrap_err();

        let told = format!("{error} {error:?}");
        assert!(told.contains("64 hexadecimal digits") && !told.contains("hunter2"), "{told}");
        assert!(told.contains(&*path.to_string_lossy()), "{told}");
        for path in [directory.path(), &directory.path().join("missing"), Path::new("/dev/null")] {
            let error = BackupKey::read(path).unwrap_err();
            assert!(matches!(error, RepositoryError::UnreadableKeyFile { .. }), "{error}");
        }
    }

    #[test]
    fn only_the_same_key_unlocks_and_only_the_same_repository() {
        let (header, encryption) = EncryptionHeader::create(&key("a"), "1").unwrap();
        assert!(header.is_known());

        let unlocked = header.unlock(&key("A"), "1").unwrap();

        assert_eq!(unlocked.chunk_id(b"x"), encryption.chunk_id(b"x"));
        let sealed = encryption.seal(Place::File("x"), b"content".to_vec()).unwrap();
        assert_eq!(unlocked.open(Place::File("x"), &mut sealed.clone()), Ok(b"content".as_slice()));
        assert!(header.unlock(&key("b"), "1").is_err());
        assert!(header.unlock(&key("a"), "2").is_err());
    }

    #[test]
    fn two_repositories_with_one_key_have_keys_of_their_own() {
        let (_, one) = EncryptionHeader::create(&key("a"), "1").unwrap();
        let (_, other) = EncryptionHeader::create(&key("a"), "2").unwrap();
        assert_ne!(one.chunk_id(b"x"), other.chunk_id(b"x"));
    }

    proptest! {
        #[test]
        fn an_arbitrary_wrapped_key_unlocks_nothing(text in "\\PC{0,160}", digits in "[0-9a-f]{144}") {
            for wrapped_key in [text, digits] {
                let header = EncryptionHeader { cipher: CIPHER.to_owned(), wrapped_key };
                prop_assert!(header.unlock(&key("a"), "1").is_err());
            }
        }

        #[test]
        fn arbitrary_text_is_no_key_unless_it_is_all_hexadecimal(
            text in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let is_hexadecimal = text.trim_ascii().len() == 64 && text.trim_ascii().iter().all(u8::is_ascii_hexdigit);
            prop_assert_eq!(parse(&text).is_some(), is_hexadecimal);
        }
    }
}
