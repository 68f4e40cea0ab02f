//! The WAL archive: segments, history files and backup history files of every cluster that was ever archived here.
//!
//! ```text
//! wal/7710242693738743395/           one cluster, by its system identifier
//!     lock                           held for as long as one file is stored, or some are removed
//!     00000001/                      a timeline
//!         000000010000000000000003-HASH.zst
//! ```
//! A name carries the BLAKE3 hash of the content, uncompressed; a keyed one in an encrypted repository. A file that is there with the same hash is done; with
//! another it is an error, and is never overwritten: two clusters that take themselves for the same one must not mix.
//! The repository's own lock is not taken, since a backup holds that for as long as it runs.

use std::fs::File;
use std::io::{self, Read, Seek, Write};

use super::chunk::Digest;
use super::encryption::{Encryption, PieceReader, PieceWriter};
use super::error::{RepositoryError, attempting, lock_error};
use super::{ExclusiveLock, Repository, StoreRoot};
use crate::pg::wal::{
    WalFileName, is_backup_history_file, is_history_file, is_partial_segment_name, is_segment_name,
};
use crate::pg::{SystemIdentifier, TimelineId, timeline_history};
use crate::plan::archive::ArchiveView;
use crate::sys::{FileLock, step_point};

const DIRECTORY: &str = "wal";
const LOCK_FILE: &str = "lock";
const SUFFIX: &str = ".zst";
const TEMPORARY: &str = "incoming.tmp";
/// The level at which a segment takes little longer than to read it.
const COMPRESSION_LEVEL: i32 = 1;
/// The largest segment that there can be (`IsValidWalSegSize()` in `xlog_internal.h`).
const LARGEST_BYTES: u64 = 1 << 30;
/// A history file has a line for each ancestor.
const LARGEST_HISTORY_BYTES: u64 = 1 << 20;
const BUFFER_SIZE_BYTES: usize = 256 * 1024;

/// The archived WAL of one cluster.
#[derive(Debug)]
pub struct WalArchive<'a> {
    root: &'a StoreRoot,
    encryption: &'a Encryption,
    directory: String,
}

/// What came of archiving a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Archiving {
    /// It is in the archive now, on disk.
    Stored,
    /// It was there already, with the same content.
    AlreadyThere,
}

/// One file of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchivedFile {
    /// The name that PostgreSQL gave it.
    pub name: String,
    /// What it takes in the archive.
    pub stored_bytes: u64,
    /// When it was archived, nanoseconds since the epoch.
    pub archived_ns: i64,
    path: String,
}

impl Repository {
    /// The archived WAL of one cluster, whether there is any yet or not.
    pub fn wal_archive(&self, system_identifier: SystemIdentifier) -> WalArchive<'_> {
        WalArchive {
            root: self.root(),
            encryption: self.encryption(),
            directory: format!("{DIRECTORY}/{system_identifier}"),
        }
    }

    /// The clusters of which there is archived WAL.
    pub fn archived_clusters(&self) -> Result<Vec<SystemIdentifier>, RepositoryError> {
        let names = names_in(self.root(), DIRECTORY)?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }
}

/// The timeline of a WAL file's name: its first eight digits. `None` for a name that PostgreSQL archives nothing under.
fn timeline_of(name: &str) -> Option<&str> {
    let is_known = is_segment_name(name)
        || is_partial_segment_name(name)
        || is_history_file(name)
        || is_backup_history_file(name);
    if is_known { name.get(..8) } else { None }
}

/// The names in a directory; none where there is no such directory.
fn names_in(root: &StoreRoot, path: &str) -> Result<Vec<String>, RepositoryError> {
    match root.names(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result.map_err(attempting("list", root.path().join(path))),
    }
}

/// A stored name as the name that PostgreSQL gave and the hash.
fn split_stored_name(stored: &str) -> Option<(&str, Digest)> {
    let (name, hash) = stored.strip_suffix(SUFFIX)?.split_once('-')?;
    timeline_of(name)?;
    Some((name, hash.parse().ok()?))
}

/// Reads a file to its end and hands each piece on. Returns the hash of it all.
fn read_through(
    mut hasher: blake3::Hasher,
    file: &mut impl Read,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<Digest> {
    let mut buffer = vec![0; BUFFER_SIZE_BYTES];
    loop {
        let count = file.read(&mut buffer)?;
        let Some(piece) = buffer.get(..count).filter(|piece| !piece.is_empty()) else {
            return Ok(hasher.finalize().into());
        };
        hasher.update(piece);
        take(piece)?;
    }
}

impl WalArchive<'_> {
    fn timeline_directory(&self, name: &str) -> Result<String, RepositoryError> {
        let timeline = timeline_of(name)
            .ok_or_else(|| RepositoryError::damaged(format!("'{name}' is not the name of a WAL file")))?;
        Ok(format!("{}/{timeline}", self.directory))
    }

    /// The hash under which a file is archived, if it is.
    ///
    /// # Errors
    /// [`RepositoryError::OtherContent`] when there are two of the name.
    pub fn find(&self, name: &str) -> Result<Option<Digest>, RepositoryError> {
        let directory = self.timeline_directory(name)?;
        let mut found = None;
        for stored in names_in(self.root, &directory)? {
            let Some((_, digest)) = split_stored_name(&stored).filter(|(of, _)| *of == name) else {
                continue;
            };
            if found.replace(digest).is_some() {
                return Err(RepositoryError::OtherContent { name: name.to_owned() });
            }
        }
        Ok(found)
    }

    /// Whether a file is what is archived under a name; `None` where nothing is. Two of the name are never its content.
    pub fn is_content(&self, name: &str, file: &mut File) -> Result<Option<bool>, RepositoryError> {
        let stored = match self.find(name) {
            Ok(Some(stored)) => stored,
            Ok(None) => return Ok(None),
            Err(RepositoryError::OtherContent { .. }) => return Ok(Some(false)),
            Err(error) => return Err(error),
        };
        let digest = read_through(self.encryption.wal_hasher(), file, |_| Ok(()));
        Ok(Some(digest.map_err(attempting("read", name))? == stored))
    }

    /// The whole segments of the timeline and the size of one, in order.
    pub fn segments_of(&self, like: WalFileName) -> Result<Vec<WalFileName>, RepositoryError> {
        let directory = self.timeline_directory(&like.to_string())?;
        let names = names_in(self.root, &directory)?;
        let names = names.iter().filter_map(|stored| split_stored_name(stored)).map(|(name, _)| name);
        let mut segments: Vec<WalFileName> =
            names.filter_map(|name| WalFileName::parse(name, like.segment_size_bytes()).ok()).collect();
        segments.sort_unstable();
        segments.dedup();
        Ok(segments)
    }

    /// Archives a file. When this returns, it is on disk, whole, under its name; killed before, it is not there.
    ///
    /// # Errors
    /// [`RepositoryError::OtherContent`] when a file of that name and other content is there; it stays.
    pub fn store(&self, name: &str, source: &mut File) -> Result<Archiving, RepositoryError> {
        let directory = self.timeline_directory(name)?;
        let path = self.root.path().join(&directory);
        self.root.create_directories(&directory).map_err(attempting("create directory", &path))?;
        let _lock = self.lock("archiving WAL")?;
        let digest = read_through(self.encryption.wal_hasher(), source, |_| Ok(()))
            .map_err(attempting("read", name))?;
        match self.find(name)? {
            Some(stored) if stored == digest => {
                // Whoever stored it may have been killed just before this.
                self.sync_directories(&directory)?;
                return Ok(Archiving::AlreadyThere);
            }
            Some(_) => return Err(RepositoryError::OtherContent { name: name.to_owned() }),
            None => {}
        }
        let target = format!("{directory}/{name}-{digest}{SUFFIX}");
        let temporary = format!("{directory}/{TEMPORARY}");
        let written = self.write(&temporary, &target, source, digest);
        step_point("an archived file on disk, without its name");
        if let Err(error) = written.and_then(|()| self.root.rename(&temporary, &target)) {
            // Best effort: the first error is the one that matters, and the next file takes the same name.
            let _ = self.root.remove_file(&temporary);
            return Err(attempting("write", self.root.path().join(&target))(error));
        }
        step_point("an archived file named");
        self.sync_directories(&directory)?;
        Ok(Archiving::Stored)
    }

    /// Writes what is to be at `target` under a temporary name.
    fn write(&self, temporary: &str, target: &str, source: &mut File, digest: Digest) -> io::Result<()> {
        // What a killed process left: nobody else writes while we have the lock.
        self.root.remove_file(temporary)?;
        source.rewind()?;
        let file = self.root.create_file(temporary)?;
        let pieces = PieceWriter::new(self.encryption, target, file);
        let mut encoder = zstd::Encoder::new(pieces, COMPRESSION_LEVEL)?;
        encoder.include_checksum(true)?;
        let found = read_through(self.encryption.wal_hasher(), source, |piece| encoder.write_all(piece))?;
        if found != digest {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it changed while it was read"));
        }
        encoder.finish()?.finish()?.sync_all()
    }

    /// Makes names durable, from the timeline's directory up to the root.
    fn sync_directories(&self, timeline: &str) -> Result<(), RepositoryError> {
        for directory in [timeline, &self.directory, DIRECTORY, "."] {
            let path = self.root.path().join(directory);
            self.root.sync_directory(directory).map_err(attempting("sync", path))?;
        }
        Ok(())
    }

    fn lock(&self, activity: &str) -> Result<FileLock, RepositoryError> {
        let path = format!("{}/{LOCK_FILE}", self.directory);
        let full = self.root.path().join(&path);
        self.root.wait_for_lock(&path, activity).map_err(|error| lock_error(&full, error))
    }

    /// Writes an archived file's content out, and proves it by its hash. `false`: it is not in the archive.
    ///
    /// # Errors
    /// [`RepositoryError::Damaged`] when what is stored is not what was archived; what was written is worthless then.
    pub fn fetch(&self, name: &str, into: &mut dyn Write) -> Result<bool, RepositoryError> {
        let directory = self.timeline_directory(name)?;
        let Some(digest) = self.find(name)? else { return Ok(false) };
        let path = format!("{directory}/{name}-{digest}{SUFFIX}");
        let full = self.root.path().join(&path);
        let file = self.root.open_file(&path).map_err(attempting("open", &full))?;
        let size_bytes = file.metadata().map_err(attempting("read", &full))?.len();
        step_point("an archived file opened");
        let pieces = PieceReader::new(self.encryption, &path, file, size_bytes);
        let decoder = zstd::Decoder::new(pieces).map_err(attempting("read", &full))?;
        let mut write_error = None;
        let hasher = self.encryption.wal_hasher();
        let read = read_through(hasher, &mut decoder.take(LARGEST_BYTES + 1), |piece| {
            into.write_all(piece).inspect_err(|error| write_error = Some(error.kind()))
        });
        match read {
            Ok(found) if found == digest => Ok(true),
            Err(error) if write_error.is_some() => Err(attempting("copy", &full)(error)),
            // What the disk says is no word on what was archived. Damage is what the decoder, or the cipher, finds.
            Err(error) if error.raw_os_error().is_some() => Err(attempting("read", &full)(error)),
            Ok(_) => Err(RepositoryError::damaged(format!(
                "the archived '{name}' is damaged: its content does not have the hash in its name"
            ))),
            Err(error) => Err(RepositoryError::damaged(format!("the archived '{name}' is damaged: {error}"))),
        }
    }

    /// Every file, by timeline and name. What was left half-written is not among them.
    pub fn files(&self) -> Result<Vec<ArchivedFile>, RepositoryError> {
        let mut files = Vec::new();
        for timeline in names_in(self.root, &self.directory)?.iter().filter(|name| name.len() == 8) {
            let directory = format!("{}/{timeline}", self.directory);
            let path = self.root.path().join(&directory);
            for entry in self.root.entries(&directory).map_err(attempting("list", &path))? {
                let Some((name, _)) = split_stored_name(&entry.name) else { continue };
                files.push(ArchivedFile {
                    name: name.to_owned(),
                    stored_bytes: entry.facts.size_bytes,
                    archived_ns: entry.facts.modified_ns,
                    path: format!("{directory}/{}", entry.name),
                });
            }
        }
        files.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(files)
    }

    /// What there is, as decisions need it, in a cluster with segments of a size.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn view(&self, segment_size_bytes: u32) -> Result<ArchiveView, RepositoryError> {
        let mut view = ArchiveView::default();
        let mut latest_ns = i64::MIN;
        for file in self.files()? {
            let Ok(segment) = WalFileName::parse(&file.name, segment_size_bytes) else { continue };
            if file.archived_ns > latest_ns {
                (latest_ns, view.latest) = (file.archived_ns, Some(segment.timeline));
            }
            view.segments.push(segment);
        }
        view.segments.dedup();
        for timeline in self.timelines()? {
            match self.history(timeline) {
                Ok(history) => view.histories.extend(history.map(|history| (timeline, history))),
                // A history file that is damaged costs its timeline, and no other.
                Err(RepositoryError::Damaged { .. } | RepositoryError::OtherContent { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(view)
    }

    /// Every timeline of which there is anything.
    pub fn timelines(&self) -> Result<Vec<TimelineId>, RepositoryError> {
        let names = names_in(self.root, &self.directory)?;
        let numbers = names.iter().filter(|name| name.len() == 8);
        Ok(numbers.filter_map(|name| u32::from_str_radix(name, 16).ok()).map(TimelineId).collect())
    }

    fn history(
        &self,
        timeline: TimelineId,
    ) -> Result<Option<Vec<timeline_history::Ancestor>>, RepositoryError> {
        let name = timeline_history::file_name(timeline);
        let mut text = Bounded(Vec::new());
        if !self.fetch(&name, &mut text)? {
            return Ok(None);
        }
        Ok(timeline_history::parse(&String::from_utf8_lossy(&text.0)))
    }

    /// Removes files, by the names that PostgreSQL gave them, as far as they are still there, oldest first.
    ///
    /// The repository's lock keeps a restore from losing what it reads.
    pub fn remove(&self, _lock: &ExclusiveLock, names: &[String]) -> Result<(), RepositoryError> {
        let files = self.files()?;
        let _lock = self.lock("removing archived WAL")?;
        for file in files.iter().filter(|file| names.binary_search(&file.name).is_ok()) {
            let path = self.root.path().join(&file.path);
            self.root.remove_file(&file.path).map_err(attempting("remove", path))?;
            step_point("an archived file removed");
        }
        Ok(())
    }
}

/// A small file in memory.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if (self.0.len() + piece.len()) as u64 > LARGEST_HISTORY_BYTES {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is no history file"));
        }
        self.0.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "000000010000000000000003";

    fn file_with(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file.rewind().unwrap();
        file
    }

    fn with_archive(test: impl FnOnce(&Repository, &WalArchive)) {
        let directory = tempfile::tempdir().unwrap();
        let repository = Repository::open_or_create(directory.path(), None).unwrap();
        test(&repository, &repository.wal_archive(SystemIdentifier(7)));
    }

    #[test]
    fn what_was_archived_comes_back_and_is_done_when_it_is_archived_again() {
        with_archive(|repository, archive| {
            assert_eq!(archive.store(NAME, &mut file_with(b"rows")).unwrap(), Archiving::Stored);
            assert_eq!(archive.store(NAME, &mut file_with(b"rows")).unwrap(), Archiving::AlreadyThere);

            let mut content = Vec::new();
            assert!(archive.fetch(NAME, &mut content).unwrap());
            assert_eq!(content, b"rows");
            assert!(!archive.fetch("000000010000000000000004", &mut content).unwrap());
            assert_eq!(repository.archived_clusters().unwrap(), [SystemIdentifier(7)]);
        });
    }

    #[test]
    fn other_content_under_a_name_that_is_taken_is_an_error_and_what_is_there_stays() {
        with_archive(|_, archive| {
            archive.store(NAME, &mut file_with(b"rows")).unwrap();

            let error = archive.store(NAME, &mut file_with(b"other rows")).unwrap_err();

            assert!(matches!(error, RepositoryError::OtherContent { .. }), "{error}");
            let mut content = Vec::new();
            archive.fetch(NAME, &mut content).unwrap();
            assert_eq!(content, b"rows");
        });
    }

    #[test]
    fn a_flipped_bit_is_damage_and_a_half_written_file_is_not_there() {
        with_archive(|repository, archive| {
            archive.store(NAME, &mut file_with(&[7; 5000])).unwrap();
            let directory = repository.path().join("wal/7/00000001");
            let stored = std::fs::read_dir(&directory).unwrap().next().unwrap().unwrap().path();
            let mut bytes = std::fs::read(&stored).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&stored, bytes).unwrap();
            std::fs::write(directory.join(TEMPORARY), "half").unwrap();

            let error = archive.fetch(NAME, &mut Vec::new()).unwrap_err();

            assert!(matches!(error, RepositoryError::Damaged { .. }), "{error}");
            assert_eq!(archive.files().unwrap().len(), 1);
            let next = "000000010000000000000004";
            assert_eq!(archive.store(next, &mut file_with(b"x")).unwrap(), Archiving::Stored);
        });
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        with_archive(|_, archive| {
            for name in ["../../../etc/passwd", "", "lock", "00000001.history/.."] {
                assert!(archive.store(name, &mut file_with(b"")).is_err(), "{name}");
                assert!(archive.find(name).is_err(), "{name}");
            }
        });
    }
}
