//! Reading a backup: its table, and any piece of any of its files, each checked by its hash.
//!
//! Backups in packs and plain copies made by the old scripts are read through the same calls. Only the former can
//! be verified; of a plain copy a restore knows no more than that it could be read.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;

use super::chunk::{CHUNK_SIZE_BYTES, ChunkId, Digest};
use super::chunk_list::ChunkLists;
use super::document::{self, DOCUMENT_FILE};
use super::encryption::{Encryption, PieceReader};
use super::error::{RepositoryError, attempting};
use super::pack_reader::{PackReader, ReadError};
use super::script_copy;
use super::table::{EntryContent, TABLE_FILE, Table, TableEntry, TableError, TableHeader};
use crate::plan::{BackupFormat, BackupName, BackupSummary, Condition};
use crate::sys::ReadRoot;

const BUFFER_SIZE_BYTES: usize = 256 * 1024;

/// A backup, open for reading. May be used from many threads.
#[derive(Debug)]
pub struct BackupReader {
    summary: BackupSummary,
    header: TableHeader,
    entries: Vec<TableEntry>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Packs(Box<PackReader>),
    Plain(ReadRoot),
}

impl BackupReader {
    pub(super) fn open(
        root: &ReadRoot,
        encryption: &Encryption,
        summary: BackupSummary,
    ) -> Result<Self, RepositoryError> {
        if let Condition::Unreadable { reason } = &summary.condition {
            return Err(RepositoryError::damaged(format!("{} cannot be read: {reason}", summary.name)));
        }
        match summary.format {
            BackupFormat::Chunked => Self::open_chunked(root, encryption, summary),
            BackupFormat::ScriptCopy => Self::open_script_copy(root, summary),
        }
    }

    fn open_chunked(
        root: &ReadRoot,
        encryption: &Encryption,
        summary: BackupSummary,
    ) -> Result<Self, RepositoryError> {
        let table = read_table(root, encryption, summary.name)?;
        Self::of_table(root, encryption, summary, table)
    }

    /// Reads by a table that is known, of a backup that need not be finished.
    pub(super) fn of_table(
        root: &ReadRoot,
        encryption: &Encryption,
        summary: BackupSummary,
        table: Table,
    ) -> Result<Self, RepositoryError> {
        let packs = Box::new(PackReader::open(root, encryption)?);
        Ok(Self { summary, header: table.header, entries: table.entries, source: Source::Packs(packs) })
    }

    fn open_script_copy(root: &ReadRoot, summary: BackupSummary) -> Result<Self, RepositoryError> {
        let directory = script_copy::data_directory(root, summary.name)?;
        let copy =
            root.subroot(&directory).map_err(attempting("open directory", root.path().join(&directory)))?;
        let table = script_copy::read_table(&copy, &script_copy::Makers::of(root))?;
        Ok(Self { summary, header: table.header, entries: table.entries, source: Source::Plain(copy) })
    }

    /// What is known of the backup.
    pub fn summary(&self) -> &BackupSummary {
        &self.summary
    }

    /// What the table says of the whole.
    pub fn header(&self) -> &TableHeader {
        &self.header
    }

    /// Its entries, each directory before what is in it.
    pub fn entries(&self) -> &[TableEntry] {
        &self.entries
    }

    /// Its entries, for a table of them.
    pub fn into_entries(self) -> Vec<TableEntry> {
        self.entries
    }

    /// Finds an entry by its path.
    pub fn entry(&self, path: &str) -> Option<&TableEntry> {
        let position = self.entries.binary_search_by(|entry| entry.path.as_str().cmp(path));
        position.ok().and_then(|position| self.entries.get(position))
    }

    /// The name that a piece of a file has as a chunk of this backup's repository.
    pub fn chunk_id(&self, raw: &[u8]) -> ChunkId {
        match &self.source {
            Source::Packs(packs) => packs.encryption().chunk_id(raw),
            Source::Plain(_) => Encryption::None.chunk_id(raw),
        }
    }

    /// Opens a file of the backup.
    ///
    /// # Errors
    /// [`RepositoryError::Damaged`] for an entry that is no file.
    pub fn open_file<'a>(&'a self, entry: &'a TableEntry) -> Result<FileReader<'a>, RepositoryError> {
        let EntryContent::File { size_bytes, chunks } = &entry.content else {
            return Err(RepositoryError::damaged(format!(
                "'{}' in {} is no file",
                entry.path, self.summary.name
            )));
        };
        let content = match &self.source {
            Source::Packs(packs) => Content::Chunks { packs, chunks: chunks.load()? },
            Source::Plain(root) => {
                let path = root.path().join(&entry.path);
                Content::Plain(root.open_file(&entry.path).map_err(attempting("open", path))?)
            }
        };
        Ok(FileReader { reader: self, entry, size_bytes: *size_bytes, content })
    }

    /// Writes a file of the backup somewhere, verified, and returns its length.
    pub fn copy_file_to(&self, entry: &TableEntry, into: &mut dyn Write) -> Result<u64, RepositoryError> {
        let file = self.open_file(entry)?;
        let mut piece = Vec::new();
        for number in 0..file.piece_count() {
            file.read_piece(number, &mut piece)?;
            into.write_all(&piece).map_err(attempting("write a copy of", entry.path.as_str()))?;
        }
        Ok(file.size_bytes())
    }

    /// Reads a small file of the backup, such as `PG_VERSION`; `None` when the backup does not have it.
    pub fn read_file(&self, path: &str, limit_bytes: u64) -> Result<Option<Vec<u8>>, RepositoryError> {
        let Some(entry) = self.entry(path).filter(|entry| entry.is_file()) else { return Ok(None) };
        if entry.size_bytes() > limit_bytes {
            return Err(RepositoryError::damaged(format!(
                "'{path}' in {} is larger than {limit_bytes} bytes",
                self.summary.name
            )));
        }
        let mut bytes = Vec::new();
        self.copy_file_to(entry, &mut bytes)?;
        Ok(Some(bytes))
    }
}

/// One file of a backup, open for reading in pieces of [`CHUNK_SIZE_BYTES`].
#[derive(Debug)]
pub struct FileReader<'a> {
    reader: &'a BackupReader,
    entry: &'a TableEntry,
    size_bytes: u64,
    content: Content<'a>,
}

#[derive(Debug)]
enum Content<'a> {
    Chunks { packs: &'a PackReader, chunks: Cow<'a, [ChunkId]> },
    Plain(File),
}

impl FileReader<'_> {
    /// The length of the file.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// How many pieces it has.
    pub fn piece_count(&self) -> usize {
        usize::try_from(self.size_bytes.div_ceil(CHUNK_SIZE_BYTES as u64)).unwrap_or(usize::MAX)
    }

    /// Reads a piece into `piece`, which is emptied first. Every piece but the last is of [`CHUNK_SIZE_BYTES`].
    ///
    /// # Errors
    /// [`RepositoryError::Damaged`] when what is there is not what was stored; it names file and pack.
    pub fn read_piece(&self, number: usize, piece: &mut Vec<u8>) -> Result<(), RepositoryError> {
        let begin = (number as u64).saturating_mul(CHUNK_SIZE_BYTES as u64);
        let length = self.size_bytes.saturating_sub(begin).min(CHUNK_SIZE_BYTES as u64);
        match &self.content {
            Content::Plain(file) => {
                piece.resize(usize::try_from(length).unwrap_or(CHUNK_SIZE_BYTES), 0);
                let path = self.entry.path.as_str();
                file.read_exact_at(piece, begin).map_err(attempting("read", path))
            }
            Content::Chunks { packs, chunks } => {
                let read = match chunks.get(number) {
                    Some(chunk) => packs.read(chunk, piece),
                    None => Err(ReadError::Damaged("the file ends before it".to_owned())),
                };
                let read = read.and_then(|()| expect_length(piece, length));
                read.map_err(|error| self.error(begin, error))
            }
        }
    }

    /// Reads from an offset on, as much as `buffer` takes or the file has. Returns how many bytes that was.
    ///
    /// # Errors
    /// As [`Self::read_piece`].
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, RepositoryError> {
        let (mut piece, mut filled) = (Vec::new(), 0);
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(filled as u64);
            if at >= self.size_bytes {
                break;
            }
            let number = usize::try_from(at / CHUNK_SIZE_BYTES as u64).unwrap_or(usize::MAX);
            self.read_piece(number, &mut piece)?;
            let skipped = usize::try_from(at % CHUNK_SIZE_BYTES as u64).unwrap_or(CHUNK_SIZE_BYTES);
            let from = piece.get(skipped..).unwrap_or_default();
            let count = from.len().min(rest.len());
            if let (Some(to), Some(from)) = (rest.get_mut(..count), from.get(..count)) {
                to.copy_from_slice(from);
            }
            filled += count;
        }
        Ok(filled)
    }

    fn error(&self, offset: u64, error: ReadError) -> RepositoryError {
        match error {
            ReadError::Repository(error) => error,
            ReadError::Damaged(what) => RepositoryError::damaged(format!(
                "'{}' in {} is damaged at byte {offset}: {what}",
                self.entry.path,
                self.reader.summary().name
            )),
        }
    }
}

fn expect_length(piece: &[u8], length: u64) -> Result<(), ReadError> {
    if piece.len() as u64 == length {
        return Ok(());
    }
    Err(ReadError::Damaged(format!("its chunk has {} bytes instead of {length}", piece.len())))
}

/// Reads the table of a backup, and checks it by the hash in `backup.json`.
pub(super) fn read_table(
    root: &ReadRoot,
    encryption: &Encryption,
    name: BackupName,
) -> Result<Table, RepositoryError> {
    let path = format!("{name}/{DOCUMENT_FILE}");
    let mut document = root
        .read_bounded(&path, document::MAXIMUM_SIZE_BYTES)
        .map_err(attempting("read", root.path().join(&path)))?;
    let (_, table_hash) = document::open(encryption, &path, &mut document).map_err(|error| {
        RepositoryError::damaged(format!("{DOCUMENT_FILE} of {name} is damaged: {error}"))
    })?;
    let path = format!("{name}/{TABLE_FILE}");
    let damaged = |error: &dyn std::fmt::Display| {
        RepositoryError::damaged(format!("the file table '{path}' is damaged: {error}"))
    };
    let changed = || damaged(&format!("its checksum is not the one in {DOCUMENT_FILE}"));
    let reading = || attempting("read", root.path().join(&path));
    // Nothing is made of a table before its hash is seen to be right, and nothing that is made of it is used before what
    // it was made of is seen to be the same.
    let file = root.open_file(&path).map_err(reading())?;
    if hash_to_end(Hashed::new(file)).map_err(reading())? != table_hash {
        return Err(changed());
    }
    let file = root.open_file(&path).map_err(reading())?;
    let size_bytes = file.metadata().map_err(reading())?.len();
    let pieces = PieceReader::new(encryption, &path, Hashed::new(file), size_bytes);
    let lists = ChunkLists::new(root.path());
    let decoded = Table::decode(pieces, &lists).map_err(|error| match error {
        // The disk did not give it, which says nothing about what is on it.
        TableError::Io(error) if error.raw_os_error().is_some() => reading()(error),
        error => damaged(&error),
    });
    let (table, pieces) = decoded?;
    let hash = hash_to_end(pieces.into_inner()).map_err(reading())?;
    if hash == table_hash { Ok(table) } else { Err(changed()) }
}

/// A file whose bytes are hashed while they are read.
struct Hashed {
    file: File,
    hasher: blake3::Hasher,
}

impl Hashed {
    fn new(file: File) -> Self {
        Self { file, hasher: blake3::Hasher::new() }
    }
}

impl Read for Hashed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(into)?;
        self.hasher.update(into.get(..count).unwrap_or_default());
        Ok(count)
    }
}

/// Reads what is left, and returns the hash of all that was read.
fn hash_to_end(file: Hashed) -> io::Result<Digest> {
    let mut file = BufReader::with_capacity(BUFFER_SIZE_BYTES, file);
    io::copy(&mut file, &mut io::sink())?;
    Ok(file.into_inner().hasher.finalize().into())
}
