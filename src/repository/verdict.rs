//! `verification.json`, beside `backup.json`: the newest verdict on a backup. It is replaced as a whole, and carries a
//! hash of itself, so that a damaged verdict is never taken for a good one.

use std::collections::HashSet;

use super::document::{seal, unseal};
use super::encryption::{Encryption, Place};
use super::error::{RepositoryError, attempting};
use super::pack::PackId;
use super::{Repository, SharedLock};
use crate::plan::{BackupName, Verification, VerificationVerdict};
use crate::sys::ReadRoot;

/// The name of the verdict, in a backup's directory.
pub(super) const VERDICT_FILE: &str = "verification.json";
/// A verdict names a few hundred things at the most; a file that is larger is something else.
const MAXIMUM_SIZE_BYTES: u64 = 64 * 1024 * 1024;

/// Reads the verdict on a backup. One that cannot be read is no error: the backup itself may be sound.
pub(super) fn read(root: &ReadRoot, encryption: &Encryption, name: BackupName) -> Verification {
    let path = format!("{name}/{VERDICT_FILE}");
    let opened = |bytes: &mut [u8]| {
        let bytes = encryption.open(Place::File(&path), bytes).map_err(|error| error.to_string());
        bytes.and_then(decode)
    };
    match root.read_bounded(&path, MAXIMUM_SIZE_BYTES) {
        Ok(mut bytes) => opened(&mut bytes).map_or_else(
            |reason| Verification::Unreadable { reason: format!("{VERDICT_FILE} is damaged: {reason}") },
            Verification::Done,
        ),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Verification::Never,
        Err(error) => {
            Verification::Unreadable { reason: format!("{VERDICT_FILE} could not be read: {error}") }
        }
    }
}

fn decode(bytes: &[u8]) -> Result<VerificationVerdict, String> {
    let object = unseal(bytes).map_err(|error| error.to_string())?;
    serde_json::from_value(object).map_err(|error| error.to_string())
}

fn encode(verdict: &VerificationVerdict) -> std::io::Result<Vec<u8>> {
    let object = serde_json::to_value(verdict).map_err(std::io::Error::other)?;
    seal(object).map_err(std::io::Error::other)
}

impl Repository {
    /// Keeps a verdict beside its backup, in the place of the one before. After a crash there is the one or the other.
    ///
    /// # Errors
    /// [`RepositoryError::NoSuchBackup`] when there is none of that name.
    pub fn keep_verdict(
        &self,
        _lock: &SharedLock,
        name: BackupName,
        verdict: &VerificationVerdict,
    ) -> Result<(), RepositoryError> {
        if !self.exists(&name.to_string())? {
            return Err(self.no_such_backup(name));
        }
        let path = format!("{name}/{VERDICT_FILE}");
        encode(verdict)
            .and_then(|text| self.encryption().seal(Place::File(&path), text))
            .and_then(|stored| self.root().write_durably(&path, &stored))
            .map_err(attempting("write", self.root().path().join(&path)))
    }

    /// The packs that a verification, or reading back, found damaged. Their chunks are not relied on by a new backup.
    pub(super) fn damaged_packs(&self) -> Result<HashSet<PackId>, RepositoryError> {
        let mut packs = HashSet::new();
        for name in self.backup_directories()? {
            if let Verification::Done(verdict) = read(self.root(), self.encryption(), name) {
                packs.extend(verdict.damaged_packs.iter().filter_map(|pack| pack.parse::<PackId>().ok()));
            }
        }
        let read_back = self.scrub_state()?;
        packs.extend(read_back.damaged_packs().filter_map(|pack| pack.parse::<PackId>().ok()));
        Ok(packs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_flipped_bit_of_a_verdict_is_found() {
        // The damage: each bit of the file, one at a time. The last byte is a line break.
        let verdict = VerificationVerdict {
            verified_at: chrono::DateTime::from_timestamp(1_800_000_000, 0).unwrap(),
            read_bytes: 4096,
            damage: Vec::new(),
            unnamed_damage: 0,
            damaged_packs: ["ab".to_owned()].into(),
            proof: None,
        };
        let bytes = encode(&verdict).unwrap();
        assert_eq!(decode(&bytes), Ok(verdict));
        for bit in 0..(bytes.len() - 1) * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped).is_err(), "bit {bit}");
        }
    }
}
