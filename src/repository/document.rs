//! `backup.json`: what a person reads about a backup, and what makes it count. It is written last.
//!
//! It carries a hash of itself, over the compact form of its JSON with sorted keys and without that hash, so that
//! damage is told from an edit that never happened; and the hash of the file table.

use serde_json::Value;

use super::chunk::Digest;
use super::encryption::{Encryption, Place, SealError};
use crate::plan::BackupSummary;

/// The name of the document, in a backup's directory.
pub(super) const DOCUMENT_FILE: &str = "backup.json";
/// A document is far smaller; a file that is larger is something else.
pub(super) const MAXIMUM_SIZE_BYTES: u64 = 16 * 1024 * 1024;

/// The field of the hash of all other fields.
pub(super) const OWN_HASH: &str = "blake3";
const TABLE_HASH: &str = "files_blake3";

/// Why a document cannot be believed.
#[derive(Debug, thiserror::Error)]
pub(super) enum DocumentError {
    #[error("it is not the JSON of a backup: {0}")]
    Json(#[from] serde_json::Error),
    #[error("its own checksum does not match what it says")]
    WrongHash,
    #[error("it has no checksum")]
    NoHash,
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// Writes a document, readable.
pub(super) fn encode(summary: &BackupSummary, table_hash: Digest) -> Result<Vec<u8>, DocumentError> {
    let mut document = serde_json::to_value(summary)?;
    let fields = document.as_object_mut().ok_or(DocumentError::NoHash)?;
    fields.insert(TABLE_HASH.to_owned(), serde_json::to_value(table_hash)?);
    seal(document)
}

/// Adds its own hash to an object, and writes it, readable.
pub(super) fn seal(mut object: Value) -> Result<Vec<u8>, DocumentError> {
    let own_hash = hash_of(&object)?;
    let fields = object.as_object_mut().ok_or(DocumentError::NoHash)?;
    fields.insert(OWN_HASH.to_owned(), serde_json::to_value(own_hash)?);
    let mut text = serde_json::to_vec_pretty(&object)?;
    text.push(b'\n');
    Ok(text)
}

/// Reads what [`seal`] wrote, without the hash.
pub(super) fn unseal(bytes: &[u8]) -> Result<Value, DocumentError> {
    let mut object: Value = serde_json::from_slice(bytes)?;
    let fields = object.as_object_mut().ok_or(DocumentError::NoHash)?;
    let own_hash: Digest = serde_json::from_value(fields.remove(OWN_HASH).ok_or(DocumentError::NoHash)?)?;
    if hash_of(&object)? != own_hash {
        return Err(DocumentError::WrongHash);
    }
    Ok(object)
}

/// Reads a document, and returns it with the hash of the file table.
pub(super) fn decode(bytes: &[u8]) -> Result<(BackupSummary, Digest), DocumentError> {
    let document = unseal(bytes)?;
    let table_hash = document.get(TABLE_HASH).cloned().ok_or(DocumentError::NoHash)?;
    Ok((serde_json::from_value(document)?, serde_json::from_value(table_hash)?))
}

/// [`decode`] of what is stored at `path`.
pub(super) fn open(
    encryption: &Encryption,
    path: &str,
    stored: &mut [u8],
) -> Result<(BackupSummary, Digest), DocumentError> {
    decode(encryption.open(Place::File(path), stored)?)
}

fn hash_of(document: &Value) -> Result<Digest, DocumentError> {
    // Sorted, so that the hash does not depend on which features other crates switch on in serde_json.
    let mut sorted = document.clone();
    sorted.sort_all_objects();
    Ok(Digest::of(&serde_json::to_vec(&sorted)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::BackupFormat;

    fn document() -> (BackupSummary, Vec<u8>) {
        let name = "data_20261120_114010".parse().unwrap();
        let mut summary = BackupSummary::unknown(name, BackupFormat::Chunked);
        summary.note = Some("before the \"big\" migration".to_owned());
        let bytes = encode(&summary, Digest::of(b"table")).unwrap();
        (summary, bytes)
    }

    #[test]
    fn a_document_survives_its_text() {
        let (summary, bytes) = document();
        assert_eq!(decode(&bytes).unwrap(), (summary, Digest::of(b"table")));
    }

    #[test]
    fn any_flipped_bit_is_found() {
        // The damage: each bit of the file, one at a time.
        let (_, bytes) = document();
        for bit in 0..(bytes.len() - 1) * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped).is_err(), "bit {bit}: {}", String::from_utf8_lossy(&flipped));
        }
    }

    #[test]
    fn an_empty_or_foreign_document_is_an_error() {
        for bytes in [&b""[..], b"{}", b"[]", b"null", b"{\"blake3\": 5}"] {
            assert!(decode(bytes).is_err());
        }
    }
}
