//! The entries of a bundle, one after the other.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use chrono::DateTime;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use super::compression::Compressor;
use super::could_not_write;
use crate::execute::restored_layout::{AUTO_CONFIGURATION, Layout};
use crate::pg::backup_manifest::{Checksum, ChecksumAlgorithm, MANIFEST_FILE, ManifestWriter, hexadecimal};
use crate::progress::Progress;
use crate::repository::{BackupReader, EntryContent, FileReader, RepositoryError, TableEntry};
use crate::sys::{Identity, path_of};

const BACKUP_LABEL: &str = "backup_label";

/// A writer that knows how much went through it, and its SHA-256.
pub(super) struct Measured<'a> {
    into: &'a mut (dyn Write + Send),
    size_bytes: u64,
    hasher: Sha256,
    is_cut_off: bool,
}

impl<'a> Measured<'a> {
    pub(super) fn new(into: &'a mut (dyn Write + Send)) -> Self {
        Self { into, size_bytes: 0, hasher: Sha256::new(), is_cut_off: false }
    }

    pub(super) fn cut_off(&mut self) {
        self.is_cut_off = true;
    }

    pub(super) fn finish(self) -> io::Result<(u64, String)> {
        self.into.flush()?;
        Ok((self.size_bytes, hexadecimal(&self.hasher.finalize())))
    }
}

impl Write for Measured<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_cut_off {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let count = self.into.write(bytes)?;
        self.hasher.update(bytes.get(..count).unwrap_or_default());
        self.size_bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.into.flush()
    }
}

/// What went into a bundle.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    pub(super) file_count: u64,
    pub(super) size_bytes: u64,
    pub(super) links: Vec<String>,
}

/// A bundle that is being written.
pub(super) struct Bundle<'a, W: Write> {
    reader: &'a BackupReader,
    archive: tar::Builder<W>,
    owner: Identity,
    manifest: ManifestWriter,
    contents: Contents,
    abort: &'a AtomicBool,
    progress: &'a dyn Progress,
}

impl<'a, W: Write> Bundle<'a, W> {
    pub(super) fn new(
        reader: &'a BackupReader,
        into: W,
        owner: Identity,
        abort: &'a AtomicBool,
        progress: &'a dyn Progress,
    ) -> Self {
        let (manifest, contents) = (ManifestWriter::default(), Contents::default());
        Self { reader, archive: tar::Builder::new(into), owner, manifest, contents, abort, progress }
    }

    /// Writes every entry: the label first, so that a glance at the beginning tells what the bundle is.
    pub(super) fn write_all(&mut self) -> anyhow::Result<()> {
        let (reader, layout) = (self.reader, Layout { reader: self.reader });
        let is_label = |entry: &&TableEntry| entry.path.as_str() == BACKUP_LABEL;
        let others = reader.entries().iter().filter(|entry| !is_label(entry));
        for entry in reader.entries().iter().filter(is_label).chain(others) {
            if layout.is_wanted(entry) {
                self.write_entry(entry, layout.mode(entry))
                    .with_context(|| format!("export '{}'", entry.path))?;
            }
        }
        if let Some(text) = layout.auto_configuration()? {
            self.write_bytes(AUTO_CONFIGURATION, &text)?;
        }
        self.write_manifest()
    }

    /// What went into it so far.
    pub(super) fn contents(&self) -> Contents {
        self.contents.clone()
    }

    /// Ends the archive, and gives back what was written to.
    pub(super) fn finish(self) -> io::Result<W> {
        self.archive.into_inner()
    }

    fn write_entry(&mut self, entry: &TableEntry, mode: u32) -> anyhow::Result<()> {
        match &entry.content {
            EntryContent::File { .. } => self.write_file(entry, mode),
            EntryContent::Directory | EntryContent::Tablespace { .. } => {
                let mut header = self.header(EntryType::Directory, mode, entry.modified_ns)?;
                let path = format!("{}/", entry.path);
                self.archive
                    .append_data(&mut header, path_of(Path::new(&path)), io::empty())
                    .map_err(|error| could_not_write(&error))
            }
            EntryContent::Symlink { target } => {
                self.contents.links.push(entry.path.to_string());
                let mut header = self.header(EntryType::Symlink, 0o777, entry.modified_ns)?;
                self.archive
                    .append_link(&mut header, path_of(entry.path.as_ref()), path_of(Path::new(target)))
                    .map_err(|error| could_not_write(&error))
            }
        }
    }

    fn write_file(&mut self, entry: &TableEntry, mode: u32) -> anyhow::Result<()> {
        let file = self.reader.open_file(entry)?;
        let mut header = self.header(EntryType::Regular, mode, entry.modified_ns)?;
        header.set_size(file.size_bytes());
        let mut source = Pieces::new(&file, self.abort, self.progress);
        let appended = self.archive.append_data(&mut header, path_of(entry.path.as_ref()), &mut source);
        let checksum = source.checksum_or_failure()?;
        appended.map_err(|error| could_not_write(&error))?;
        self.note(entry.path.as_str(), file.size_bytes(), entry.modified_ns, checksum)
    }

    fn write_bytes(&mut self, path: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let modified_ns = chrono::Utc::now().timestamp_nanos_opt().unwrap_or_default();
        let mut header = self.header(EntryType::Regular, 0o600, modified_ns)?;
        header.set_size(bytes.len() as u64);
        self.archive.append_data(&mut header, path, bytes).map_err(|error| could_not_write(&error))?;
        let mut checksum = Checksum::new(ChecksumAlgorithm::Crc32c);
        checksum.update(bytes);
        self.note(path, bytes.len() as u64, modified_ns, checksum)
    }

    /// Sets a file down in the manifest, which tells nothing of the WAL: that has its own checksums.
    fn note(&mut self, path: &str, size_bytes: u64, modified_ns: i64, sum: Checksum) -> anyhow::Result<()> {
        self.contents.file_count += 1;
        self.contents.size_bytes += size_bytes;
        if path.starts_with("pg_wal/") || path == MANIFEST_FILE {
            return Ok(());
        }
        let modified = DateTime::from_timestamp_nanos(modified_ns).format("%Y-%m-%d %H:%M:%S GMT");
        let path = path_of(Path::new(path));
        self.manifest
            .add(path.as_os_str().as_encoded_bytes(), size_bytes, &modified.to_string(), &sum.finish())
            .context("write the manifest")
    }

    fn write_manifest(&mut self) -> anyhow::Result<()> {
        let summary = self.reader.summary();
        let wal = summary.timeline.zip(summary.start_lsn.zip(summary.stop_lsn));
        let wal = wal.map(|(timeline, (start, stop))| (timeline, start, stop));
        let text = std::mem::take(&mut self.manifest).finish(wal);
        self.write_bytes(MANIFEST_FILE, text.as_bytes())
    }

    /// The owner is told by name first, so that root's `tar` gives the files to the user that runs PostgreSQL there.
    fn header(&self, kind: EntryType, mode: u32, modified_ns: i64) -> anyhow::Result<Header> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(0);
        header.set_mtime(u64::try_from(modified_ns.div_euclid(1_000_000_000)).unwrap_or_default());
        header.set_uid(u64::from(self.owner.uid));
        header.set_gid(u64::from(self.owner.gid));
        if let Some(name) = &self.owner.name {
            header
                .set_username(name)
                .and_then(|()| header.set_groupname(name))
                .map_err(|error| could_not_write(&error))?;
        }
        Ok(header)
    }
}

impl Bundle<'_, Compressor<Measured<'_>>> {
    /// Gives it up. An archive that is dropped would write the mark of its end, and half a bundle in a pipe would pass
    /// for a whole one.
    pub(super) fn cut_off(&mut self) {
        self.archive.get_mut().cut_off();
    }
}

/// A file of the backup as a stream; every piece is verified before any of it is handed on.
struct Pieces<'a> {
    file: &'a FileReader<'a>,
    abort: &'a AtomicBool,
    progress: &'a dyn Progress,
    number: usize,
    piece: Vec<u8>,
    taken: usize,
    checksum: Checksum,
    /// Why reading failed: the archive passes on no more than that it did.
    failure: Option<RepositoryError>,
    was_aborted: bool,
}

impl<'a> Pieces<'a> {
    fn new(file: &'a FileReader<'a>, abort: &'a AtomicBool, progress: &'a dyn Progress) -> Self {
        Self {
            file,
            abort,
            progress,
            number: 0,
            piece: Vec::new(),
            taken: 0,
            checksum: Checksum::new(ChecksumAlgorithm::Crc32c),
            failure: None,
            was_aborted: false,
        }
    }

    fn checksum_or_failure(self) -> anyhow::Result<Checksum> {
        if self.was_aborted {
            bail!("the export was given up");
        }
        self.failure.map_or(Ok(self.checksum), |failure| Err(failure.into()))
    }

    fn next_piece(&mut self) -> io::Result<()> {
        if self.abort.load(Ordering::Relaxed) {
            self.was_aborted = true;
            return Err(io::ErrorKind::Other.into());
        }
        self.taken = 0;
        if let Err(error) = self.file.read_piece(self.number, &mut self.piece) {
            self.failure = Some(error);
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.number += 1;
        self.checksum.update(&self.piece);
        self.progress.advance(self.piece.len() as u64);
        Ok(())
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.piece.len() {
            if self.number == self.file.piece_count() {
                return Ok(0);
            }
            self.next_piece()?;
        }
        let rest = self.piece.get(self.taken..).unwrap_or_default();
        let count = rest.len().min(into.len());
        if let (Some(to), Some(from)) = (into.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        self.taken += count;
        Ok(count)
    }
}
