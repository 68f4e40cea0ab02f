//! The file table of a backup, `files.zst`: a zstd frame of JSON lines, the first about the whole, then one for each
//! entry, a directory before what is in it.
//!
//! A table is checked before anything acts on it. Its paths stay below the directory that it is restored into, and
//! nothing is placed below a symbolic link, so that no table can make a restore write elsewhere.

use std::collections::HashSet;
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::chunk::{CHUNK_SIZE, CHUNK_SIZE_BYTES, ChunkId};

/// The name of the table, in a backup's directory.
pub(super) const TABLE_FILE: &str = "files.zst";
const TABLE_FORMAT: u32 = 1;
const TABLE_COMPRESSION_LEVEL: i32 = 3;
const MAXIMUM_PATH_LENGTH: usize = 4096;

/// What a table says of the whole backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableHeader {
    /// The format of the table.
    pub format: u32,
    /// The size of every chunk but the last of a file.
    pub chunk_size_bytes: u32,
    /// The permission bits of the data directory itself.
    pub directory_mode: u32,
    /// What a later backup compares with, to find that nothing changed.
    pub baseline: Option<Baseline>,
}

/// The state of a cluster when the files of a hot backup were listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// When the list was begun, nanoseconds since the epoch. A file changed after that, or shortly before, may have
    /// changed again without its modification time telling.
    pub listed_at_ns: i64,
    /// The next transaction id at the backup's checkpoint, with its epoch.
    pub next_xid: u64,
    /// The next multixact id at that checkpoint.
    pub next_multi: u32,
}

impl TableHeader {
    /// The header of a table that is written now.
    pub fn new(directory_mode: u32, baseline: Option<Baseline>) -> Self {
        Self { format: TABLE_FORMAT, chunk_size_bytes: CHUNK_SIZE, directory_mode, baseline }
    }
}

/// A path below the data directory, with `/` between names: never absolute, without `.`, `..`, empty names or NUL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TablePath(String);

/// A path that could lead out of the directory that it is meant for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a path below the data directory")]
pub struct TablePathError(String);

impl TablePath {
    /// The path as a text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory that holds the entry; `None` for one directly below the data directory.
    pub fn parent(&self) -> Option<&str> {
        self.0.rsplit_once('/').map(|(parent, _)| parent)
    }

    /// The last name.
    pub fn file_name(&self) -> &str {
        self.0.rsplit_once('/').map_or(self.0.as_str(), |(_, name)| name)
    }
}

impl TryFrom<String> for TablePath {
    type Error = TablePathError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_safe_name = |name: &str| !matches!(name, "" | "." | "..") && !name.contains('\0');
        if text.len() <= MAXIMUM_PATH_LENGTH && text.split('/').all(is_safe_name) {
            return Ok(Self(text));
        }
        Err(TablePathError(text.chars().take(MAXIMUM_PATH_LENGTH).collect()))
    }
}

impl From<TablePath> for String {
    fn from(path: TablePath) -> Self {
        path.0
    }
}

impl AsRef<Path> for TablePath {
    fn as_ref(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl fmt::Display for TablePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// One entry of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableEntry {
    /// Where it is, below the data directory.
    pub path: TablePath,
    /// Its permission bits.
    pub mode: u32,
    /// When its content last changed, nanoseconds since the epoch.
    pub modified_ns: i64,
    /// What it is.
    #[serde(flatten)]
    pub content: EntryContent,
}

/// What an entry is, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EntryContent {
    /// A regular file.
    File {
        /// Its length.
        size_bytes: u64,
        /// Its pieces, in order. In a copy made by the old scripts there are none: the file itself is there.
        #[serde(default)]
        chunks: Vec<ChunkId>,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// What it holds.
        target: String,
    },
    /// The root of a tablespace; what it holds follows below it.
    Tablespace {
        /// The directory that the link in `pg_tblspc` pointed to.
        target: String,
    },
}

impl TableEntry {
    /// The length of a file; 0 for all else.
    pub fn size_bytes(&self) -> u64 {
        match &self.content {
            EntryContent::File { size_bytes, .. } => *size_bytes,
            _ => 0,
        }
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        matches!(self.content, EntryContent::File { .. })
    }

    /// Whether other entries can be below it.
    pub fn is_directory(&self) -> bool {
        matches!(self.content, EntryContent::Directory | EntryContent::Tablespace { .. })
    }
}

/// A file table, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) header: TableHeader,
    pub(super) entries: Vec<TableEntry>,
}

/// Why a table cannot be believed.
#[derive(Debug, thiserror::Error)]
pub(super) enum TableError {
    #[error("it cannot be decompressed or read: {0}")]
    Io(#[from] std::io::Error),
    #[error("it is empty")]
    Empty,
    #[error("line {line} is no entry: {source}")]
    Json { line: usize, source: serde_json::Error },
    #[error("it has format {0}, which this version of pgbox does not know")]
    UnknownFormat(u32),
    #[error("'{0}' is listed twice")]
    Duplicate(TablePath),
    #[error("'{0}' is not in a directory that is listed before it")]
    NoParent(TablePath),
    #[error("'{path}' has {size_bytes} bytes, but {chunk_count} chunks")]
    WrongChunkCount { path: TablePath, size_bytes: u64, chunk_count: usize },
}

impl Table {
    /// Puts directories before what is in them, and checks the whole.
    pub(super) fn new(header: TableHeader, mut entries: Vec<TableEntry>) -> Result<Self, TableError> {
        entries.sort_by(|left, right| left.path.cmp(&right.path));
        let table = Self { header, entries };
        table.check()?;
        Ok(table)
    }

    /// The size of all files.
    pub(super) fn size_bytes(&self) -> u64 {
        self.entries.iter().map(TableEntry::size_bytes).sum()
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, TableError> {
        let mut encoder = zstd::Encoder::new(Vec::new(), TABLE_COMPRESSION_LEVEL)?;
        encoder.include_checksum(true)?;
        let json = |source| TableError::Json { line: 0, source };
        serde_json::to_writer(&mut encoder, &self.header).map_err(json)?;
        for entry in &self.entries {
            encoder.write_all(b"\n")?;
            serde_json::to_writer(&mut encoder, entry).map_err(json)?;
        }
        Ok(encoder.finish()?)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, TableError> {
        let mut lines = BufReader::new(zstd::Decoder::new(bytes)?).lines();
        let header = lines.next().ok_or(TableError::Empty)??;
        let header: TableHeader =
            serde_json::from_str(&header).map_err(|source| TableError::Json { line: 1, source })?;
        if header.format != TABLE_FORMAT || header.chunk_size_bytes as usize != CHUNK_SIZE_BYTES {
            return Err(TableError::UnknownFormat(header.format));
        }
        let entry = |(line, text): (usize, Result<String, std::io::Error>)| {
            serde_json::from_str(&text?).map_err(|source| TableError::Json { line: line + 2, source })
        };
        let entries = lines.enumerate().map(entry).collect::<Result<_, _>>()?;
        let table = Self { header, entries };
        table.check()?;
        Ok(table)
    }

    fn check(&self) -> Result<(), TableError> {
        let mut seen = HashSet::with_capacity(self.entries.len());
        let mut directories: HashSet<&str> = HashSet::new();
        for entry in &self.entries {
            if !seen.insert(&entry.path) {
                return Err(TableError::Duplicate(entry.path.clone()));
            }
            if entry.path.parent().is_some_and(|parent| !directories.contains(parent)) {
                return Err(TableError::NoParent(entry.path.clone()));
            }
            if entry.is_directory() {
                directories.insert(entry.path.as_str());
            }
            check_chunk_count(entry)?;
        }
        Ok(())
    }
}

fn check_chunk_count(entry: &TableEntry) -> Result<(), TableError> {
    let EntryContent::File { size_bytes, chunks } = &entry.content else { return Ok(()) };
    if chunks.len() as u64 == size_bytes.div_ceil(CHUNK_SIZE_BYTES as u64) {
        return Ok(());
    }
    Err(TableError::WrongChunkCount {
        path: entry.path.clone(),
        size_bytes: *size_bytes,
        chunk_count: chunks.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, content: EntryContent) -> TableEntry {
        TableEntry { path: path.to_owned().try_into().unwrap(), mode: 0o600, modified_ns: -1, content }
    }

    fn file(path: &str, size_bytes: u64, chunk_count: usize) -> TableEntry {
        entry(path, EntryContent::File { size_bytes, chunks: vec![ChunkId::of(b"x"); chunk_count] })
    }

    fn table(entries: Vec<TableEntry>) -> Result<Table, TableError> {
        Table::new(TableHeader::new(0o700, None), entries)
    }

    #[test]
    fn a_table_survives_its_encoding_and_has_directories_first() {
        let table = table(vec![
            file("base/1/1259", 131_073, 2),
            entry("base/1", EntryContent::Directory),
            entry("base", EntryContent::Directory),
            entry("pg_tblspc", EntryContent::Directory),
            entry("pg_tblspc/16400", EntryContent::Tablespace { target: "/mnt/fast disk".to_owned() }),
            entry("server.key", EntryContent::Symlink { target: "/etc/ssl/server.key".to_owned() }),
            file("empty", 0, 0),
        ])
        .unwrap();

        let decoded = Table::decode(&table.encode().unwrap()).unwrap();

        assert_eq!(decoded, table);
        assert_eq!(decoded.entries[0].path.as_str(), "base");
    }

    #[test]
    fn paths_that_leave_the_directory_are_refused() {
        for path in ["", "/", "/etc/passwd", "..", "../x", "base/../../x", "base//x", "base/", "./x", "a\0b"]
        {
            assert!(TablePath::try_from(path.to_owned()).is_err(), "{path:?}");
        }
        assert!(TablePath::try_from("a".repeat(4097)).is_err());
        assert!(TablePath::try_from("base/..5/a b".to_owned()).is_ok());
    }

    #[test]
    fn a_forged_path_in_a_table_is_refused_when_it_is_read() {
        let header = serde_json::to_string(&TableHeader::new(0o700, None)).unwrap();
        let line = r#"{"path":"../../etc/cron.d/x","mode":420,"modified_ns":0,"kind":"file","size_bytes":0}"#;
        let bytes = zstd::encode_all(format!("{header}\n{line}").as_bytes(), 1).unwrap();

        let error = Table::decode(&bytes).unwrap_err();

        assert!(error.to_string().contains("is not a path below the data directory"), "{error}");
    }

    #[test]
    fn nothing_lies_below_a_link_a_file_or_nothing() {
        let link = entry("out", EntryContent::Symlink { target: "/etc".to_owned() });
        assert!(matches!(table(vec![link, file("out/passwd", 0, 0)]), Err(TableError::NoParent(_))));
        assert!(matches!(table(vec![file("a", 0, 0), file("a/b", 0, 0)]), Err(TableError::NoParent(_))));
        assert!(matches!(table(vec![file("base/b", 0, 0)]), Err(TableError::NoParent(_))));
        assert!(matches!(table(vec![file("a", 0, 0), file("a", 0, 0)]), Err(TableError::Duplicate(_))));
    }

    #[test]
    fn a_file_has_as_many_chunks_as_its_size_needs() {
        assert!(matches!(table(vec![file("a", 131_073, 1)]), Err(TableError::WrongChunkCount { .. })));
        assert!(matches!(table(vec![file("a", 0, 1)]), Err(TableError::WrongChunkCount { .. })));
        assert!(table(vec![file("a", 131_072, 1)]).is_ok());
    }

    #[test]
    fn a_cut_or_flipped_table_is_an_error() {
        let bytes = table(vec![file("a", 5, 1), file("b", 7, 1)]).unwrap().encode().unwrap();
        for length in 0..bytes.len() {
            assert!(Table::decode(&bytes[..length]).is_err(), "length {length}");
        }
    }
}
