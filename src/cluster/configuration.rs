//! The configuration that a server was last seen to serve with, so that the same need not be tried again.
//!
//! To have the server read its configuration takes a process, and as long as all the rest of an inspection. What it
//! read then is noted by a hash, with the programs that read it and the system that they ran on: another server, or one
//! beside other locales, may refuse a line that this one takes. What it answered is noted, too. A configuration that
//! takes in other files, or has its `pg_hba.conf` elsewhere, is tried each time.

use super::binaries::Installation;
use super::system_print::system_print;
use crate::sys::{OwnDirectory, ReadRoot};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// The note, below the data directory.
const NOTE: &str = ".pgbox/configuration";
const NOTE_NAME: &str = "configuration";
const LIMIT_BYTES: u64 = 4 << 20;
const NOTE_LIMIT_BYTES: u64 = 64 * 1024;
/// What the server reads, but for `pg_hba.conf`, which no program tries.
const FILES: [&str; 2] = ["postgresql.conf", "postgresql.auto.conf"];

/// What one configuration is, for as long as nobody changes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint(String);

#[derive(Serialize, Deserialize)]
struct Note {
    configuration: Fingerprint,
    /// What `unix_socket_directories` is in it.
    socket_directories: String,
}

impl Fingerprint {
    /// Takes the fingerprint of a cluster's configuration. `None` where two that differ could have the same one.
    pub fn take(root: &ReadRoot, programs: &Installation) -> Option<Self> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(system_print(programs).as_bytes());
        for name in FILES {
            let content = match root.read_bounded(name, LIMIT_BYTES) {
                Ok(content) => Some(content),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(_) => return None,
            };
            let length = content.as_ref().map_or(u64::MAX, |content| content.len() as u64);
            hasher.update(&length.to_le_bytes());
            let content = content.unwrap_or_default();
            if leads_elsewhere(&content) {
                return None;
            }
            hasher.update(&content);
        }
        Some(Self(hasher.finalize().to_hex().to_string()))
    }

    /// Whether a server was seen to serve with it.
    pub fn is_noted(&self, root: &ReadRoot) -> bool {
        self.noted(root).is_some()
    }

    /// Returns what `unix_socket_directories` is in it; `None` where no server was seen to serve with it.
    pub fn noted(&self, root: &ReadRoot) -> Option<String> {
        let text = root.read_text(NOTE, NOTE_LIMIT_BYTES).ok()??;
        let note: Note = serde_json::from_str(&text).ok()?;
        (note.configuration == *self).then_some(note.socket_directories)
    }

    /// Notes that a server serves with it, and in which directories it has its sockets.
    pub fn note(&self, data_directory: &Path, socket_directories: &str) -> io::Result<()> {
        let note = Note { configuration: self.clone(), socket_directories: socket_directories.to_owned() };
        OwnDirectory::open(data_directory)?.write_durably(NOTE_NAME, &serde_json::to_vec(&note)?)
    }
}

/// Whether a configuration file takes in others, or has its `pg_hba.conf` elsewhere.
pub(super) fn leads_elsewhere(content: &[u8]) -> bool {
    String::from_utf8_lossy(content).lines().any(|line| {
        let line = line.trim_start().to_ascii_lowercase();
        line.starts_with("include") || line.starts_with("hba_file")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::MajorVersion;

    fn programs() -> Installation {
        Installation { version: MajorVersion(15), bin_directory: "/programs".into() }
    }

    #[test]
    fn a_configuration_is_known_until_somebody_changes_it() {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir(data.path().join(".pgbox")).unwrap();
        std::fs::write(data.path().join("postgresql.conf"), "#include 'x'\nport = 1\n").unwrap();
        let root = ReadRoot::open(data.path()).unwrap();
        let fingerprint = Fingerprint::take(&root, &programs()).unwrap();
        assert!(!fingerprint.is_noted(&root));

        fingerprint.note(data.path(), "/run").unwrap();

        assert_eq!(Fingerprint::take(&root, &programs()).unwrap().noted(&root).as_deref(), Some("/run"));
        std::fs::write(data.path().join("postgresql.auto.conf"), "").unwrap();
        assert!(!Fingerprint::take(&root, &programs()).unwrap().is_noted(&root));
        let other = Installation { bin_directory: "/others".into(), ..programs() };
        assert_ne!(Fingerprint::take(&root, &other), Some(fingerprint));
    }

    #[test]
    fn a_configuration_that_leads_to_other_files_is_never_known() {
        let data = tempfile::tempdir().unwrap();
        for line in ["include 'more.conf'", "  INCLUDE_DIR = 'conf.d'", "hba_file = '/etc/pg_hba.conf'"] {
            std::fs::write(data.path().join("postgresql.conf"), line).unwrap();
            let root = ReadRoot::open(data.path()).unwrap();
            assert_eq!(Fingerprint::take(&root, &programs()), None, "{line}");
        }
    }
}
