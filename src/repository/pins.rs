//! Pins: `data_20261120_114010.pin`, beside the directory of a backup that is not to be removed.
//!
//! It is beside and not in it, since a plain copy of the scripts is a data directory, to which nothing is added.

use std::io;

use chrono::{DateTime, Utc};

use super::document::{DocumentError, seal, unseal};
use super::encryption::{Encryption, Place};
use super::error::{RepositoryError, attempting};
use super::{Repository, SharedLock};
use crate::plan::{BackupName, Pin};
use crate::sys::ReadRoot;

/// What the name of a pin ends with; before it is the name of its backup.
pub(super) const PIN_SUFFIX: &str = ".pin";
/// A pin is a note; a file that is larger is something else.
const MAXIMUM_SIZE_BYTES: u64 = 1024 * 1024;

fn path_of(name: BackupName) -> String {
    format!("{name}{PIN_SUFFIX}")
}

/// Reads the pin of a backup. One that cannot be read pins all the same: somebody wanted to keep the backup.
pub(super) fn read(root: &ReadRoot, encryption: &Encryption, name: BackupName) -> Option<Pin> {
    let path = path_of(name);
    let pinned = |note: String| Some(Pin { pinned_at: None, note: Some(note) });
    match root.read_bounded(&path, MAXIMUM_SIZE_BYTES) {
        Ok(mut bytes) => {
            let opened = encryption.open(Place::File(&path), &mut bytes).map_err(DocumentError::from);
            let pin = opened.and_then(unseal).map_err(|error| error.to_string());
            let pin = pin.and_then(|pin| serde_json::from_value(pin).map_err(|error| error.to_string()));
            pin.map_or_else(|error: String| pinned(format!("the pin is damaged: {error}")), Some)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => pinned(format!("the pin could not be read: {error}")),
    }
}

impl Repository {
    /// Pins a backup, or changes the note of its pin. When this returns, no cleanup removes it.
    ///
    /// # Errors
    /// [`RepositoryError::NoSuchBackup`] when there is none of that name.
    pub fn pin(
        &self,
        _lock: &SharedLock,
        name: BackupName,
        note: Option<String>,
        now: DateTime<Utc>,
    ) -> Result<(), RepositoryError> {
        self.find(name)?;
        let path = path_of(name);
        serde_json::to_value(Pin { pinned_at: Some(now), note })
            .map_err(io::Error::other)
            .and_then(|pin| seal(pin).map_err(io::Error::other))
            .and_then(|text| self.encryption().seal(Place::File(&path), text))
            .and_then(|stored| self.root().write_durably(&path, &stored))
            .map_err(attempting("write", self.root().path().join(&path)))
    }

    /// Lets a backup be removed again when its time comes. Returns whether it was pinned.
    ///
    /// # Errors
    /// [`RepositoryError::NoSuchBackup`] when there is none of that name.
    pub fn unpin(&self, _lock: &SharedLock, name: BackupName) -> Result<bool, RepositoryError> {
        let is_pinned = self.find(name)?.pin.is_some();
        let path = path_of(name);
        self.root()
            .remove_file(&path)
            .and_then(|()| self.root().sync_directory("."))
            .map_err(attempting("remove", self.root().path().join(&path)))?;
        Ok(is_pinned)
    }
}
