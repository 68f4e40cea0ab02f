//! `repository.json`: what a repository is, and how its content can be read.
//!
//! An encrypted repository has a copy of it, `repository.json.copy`: the key that it holds, wrapped, is in no other
//! place, and a flipped bit in it would cost every backup.

use std::path::Path;

use chrono::{SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use super::chunk::{CHUNK_SIZE, CHUNK_SIZE_BYTES};
use super::document::{self, DocumentError};
use super::encryption::{BackupKey, Encryption, EncryptionHeader, random_bytes};
use super::error::{RepositoryError, attempting};
use super::{ExclusiveLock, StoreRoot};

const IDENTITY_FILE: &str = "repository.json";
const COPY: &str = "repository.json.copy";
const MAXIMUM_SIZE_BYTES: u64 = 65_536;
const FORMAT: u32 = 1;
/// The same, encrypted. A version that knows no encryption refuses it by this number.
const ENCRYPTED_FORMAT: u32 = 2;

/// What `repository.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryIdentity {
    /// The format of everything in the repository.
    pub format: u32,
    /// A random number in hexadecimal, which tells this repository from others.
    pub id: String,
    /// The size of every chunk but the last of a file.
    pub chunk_size_bytes: u32,
    /// When it was made, RFC 3339 in UTC.
    pub created: String,
    /// How it is encrypted, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<EncryptionHeader>,
}

impl RepositoryIdentity {
    /// How to read what is in the repository.
    ///
    /// # Errors
    /// [`RepositoryError::NoKey`], [`RepositoryError::WrongKey`], and [`RepositoryError::NotEncrypted`] for a key to a
    /// repository that has none: whoever set it takes what is stored for encrypted.
    pub(super) fn unlock(&self, path: &Path, key: Option<&BackupKey>) -> Result<Encryption, RepositoryError> {
        let path = path.to_path_buf();
        match (&self.encryption, key) {
            (None, None) => Ok(Encryption::None),
            (None, Some(_)) => Err(RepositoryError::NotEncrypted { path }),
            (Some(_), None) => Err(RepositoryError::NoKey { path }),
            (Some(header), Some(key)) => {
                let key_file = key.path().to_path_buf();
                header.unlock(key, &self.id).map_err(|_| RepositoryError::WrongKey { path, key_file })
            }
        }
    }
}

/// Makes the identity of a new repository. When this returns, it is on disk.
pub(super) fn create(
    root: &StoreRoot,
    _lock: &ExclusiveLock,
    key: Option<&BackupKey>,
) -> Result<(RepositoryIdentity, Encryption), RepositoryError> {
    let random = |error| attempting("read", "the system's random numbers")(error);
    let id = format!("{:032x}", u128::from_le_bytes(random_bytes().map_err(random)?));
    let (header, encryption) = match key {
        Some(key) => {
            let (header, encryption) = EncryptionHeader::create(key, &id).map_err(random)?;
            (Some(header), encryption)
        }
        None => (None, Encryption::None),
    };
    let identity = RepositoryIdentity {
        format: if header.is_some() { ENCRYPTED_FORMAT } else { FORMAT },
        id,
        chunk_size_bytes: CHUNK_SIZE,
        created: Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
        encryption: header,
    };
    write(root, &identity)?;
    Ok((identity, encryption))
}

/// Writes the copy first: killed between the two, a new repository is there all the same.
fn write(root: &StoreRoot, identity: &RepositoryIdentity) -> Result<(), RepositoryError> {
    let object = serde_json::to_value(identity).map_err(std::io::Error::other);
    let text = object.and_then(|object| document::seal(object).map_err(std::io::Error::other));
    let text = text.map_err(attempting("write", root.path().join(IDENTITY_FILE)))?;
    let names =
        if identity.encryption.is_some() { [COPY, IDENTITY_FILE].as_slice() } else { &[IDENTITY_FILE] };
    for name in names {
        root.write_durably(name, &text).map_err(attempting("write", root.path().join(name)))?;
    }
    Ok(())
}

/// Reads the identity, or its copy where it is gone or damaged. `None` when there is neither.
///
/// # Errors
/// [`RepositoryError::UnknownFormat`] for one that a newer version made, [`RepositoryError::Damaged`] when it cannot be
/// understood and has no sound copy.
pub(super) fn read(root: &StoreRoot) -> Result<Option<RepositoryIdentity>, RepositoryError> {
    match read_file(root, IDENTITY_FILE) {
        Ok(Some(identity)) => Ok(Some(identity)),
        Ok(None) => read_file(root, COPY),
        Err(error @ RepositoryError::Damaged { .. }) => match read_file(root, COPY) {
            Ok(Some(identity)) => Ok(Some(identity)),
            _ => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// What is wrong with one of the two copies, where the other one serves. A repository that is not encrypted has one.
pub(super) fn problem(root: &StoreRoot) -> Option<String> {
    let told = |read: Result<Option<RepositoryIdentity>, RepositoryError>, name: &str| match read {
        Ok(identity) => identity.ok_or_else(|| format!("'{}' is gone", root.path().join(name).display())),
        Err(error) => Err(error.to_string()),
    };
    let identity = told(read_file(root, IDENTITY_FILE), IDENTITY_FILE);
    let copy = told(read_file(root, COPY), COPY);
    match (identity, copy) {
        (Ok(identity), copy) if identity.encryption.is_some() => match copy {
            Ok(copy) if copy != identity => {
                Some(format!("'{}' is of another repository or key", root.path().join(COPY).display()))
            }
            copy => copy.err(),
        },
        (Err(problem), Ok(_)) => Some(problem),
        _ => None,
    }
}

/// Writes both copies anew where one of them is gone or damaged, or tells of another key than `repository.json` does.
pub(super) fn mend(root: &StoreRoot, _lock: &ExclusiveLock) -> Result<(), RepositoryError> {
    match (problem(root), read(root)?) {
        (Some(_), Some(identity)) => write(root, &identity),
        _ => Ok(()),
    }
}

fn read_file(root: &StoreRoot, name: &str) -> Result<Option<RepositoryIdentity>, RepositoryError> {
    let path = root.path().join(name);
    let bytes = match root.read_bounded(name, MAXIMUM_SIZE_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(attempting("read", &path)(error)),
    };
    let damaged = |error: &dyn std::fmt::Display| {
        RepositoryError::damaged(format!("'{}' is damaged: {error}", path.display()))
    };
    let object = fields_of(&bytes).map_err(|error| damaged(&error))?;
    let identity: RepositoryIdentity = serde_json::from_value(object).map_err(|error| damaged(&error))?;
    let is_known = match &identity.encryption {
        None => identity.format == FORMAT,
        Some(header) => identity.format == ENCRYPTED_FORMAT && header.is_known(),
    };
    if !is_known || identity.chunk_size_bytes as usize != CHUNK_SIZE_BYTES {
        let path = root.path().to_path_buf();
        return Err(RepositoryError::UnknownFormat { path, found: identity.format, known: ENCRYPTED_FORMAT });
    }
    Ok(Some(identity))
}

/// The fields of `repository.json`, checked by their hash. The first repositories have none, and no other field either:
/// one whose name was hit is not taken for theirs.
fn fields_of(bytes: &[u8]) -> Result<serde_json::Value, DocumentError> {
    const FIELDS_WITHOUT_HASH: usize = 4;
    let object: serde_json::Value = serde_json::from_slice(bytes)?;
    let is_first = object.as_object().is_some_and(|fields| {
        fields.len() == FIELDS_WITHOUT_HASH && !fields.contains_key(document::OWN_HASH)
    });
    if is_first { Ok(object) } else { document::unseal(bytes) }
}
