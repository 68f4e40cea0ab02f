//! The file table of a backup, `files.zst`: a zstd frame of JSON lines, the first about the whole, then one for each
//! entry, a directory before what is in it.
//!
//! A table is checked before anything acts on it. Its paths stay below the directory that it is restored into, and
//! nothing is placed below a symbolic link, so that no table can make a restore write elsewhere.
//!
//! It is written and read line by line: of its content no more than one file's chunks are in memory at once, and the
//! lists that it is made of are in memory up to a limit (`chunk_list`). What remains is some 300 bytes for each entry.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::chunk::{CHUNK_SIZE, CHUNK_SIZE_BYTES};
use super::chunk_list::{ChunkList, ChunkLists};

/// The name of the table, in a backup's directory.
pub(super) const TABLE_FILE: &str = "files.zst";
const TABLE_FORMAT: u32 = 1;
const TABLE_COMPRESSION_LEVEL: i32 = 3;
const MAXIMUM_PATH_LENGTH: usize = 4096;
/// A longer line would be that of a file of half a terabyte: gigabytes of it shrink to kilobytes.
const LONGEST_LINE_BYTES: u64 = 256 << 20;

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
#[derive(Clone, Debug, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EntryContent {
    /// A regular file.
    File {
        /// Its length.
        size_bytes: u64,
        /// Its pieces, in order. In a copy made by the old scripts there are none: the file itself is there.
        #[serde(default)]
        chunks: ChunkList,
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
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) header: TableHeader,
    pub(super) entries: Vec<TableEntry>,
}

impl From<TableError> for io::Error {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Io(error) => error,
            TableError::Json { source, .. } => source.into(),
            error => Self::other(error),
        }
    }
}

/// Why a table cannot be believed.
#[derive(Debug, thiserror::Error)]
pub(super) enum TableError {
    #[error("it cannot be decompressed or read: {0}")]
    Io(#[from] io::Error),
    #[error("it is empty")]
    Empty,
    #[error("line {line} is no entry: {source}")]
    Json { line: usize, source: serde_json::Error },
    #[error("'{0}' is larger than a backup can hold")]
    LongEntry(TablePath),
    #[error("line {0} is longer than one can be")]
    LongLine(usize),
    #[error("it has format {0}, which this version of pgbox does not know")]
    UnknownFormat(u32),
    #[error("'{0}' is listed twice")]
    Duplicate(TablePath),
    #[error("'{0}' is not in its order")]
    OutOfOrder(TablePath),
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

    /// Writes it, and returns what it was written to.
    pub(super) fn encode<W: Write>(&self, into: W) -> Result<W, TableError> {
        let mut encoder = zstd::Encoder::new(into, TABLE_COMPRESSION_LEVEL)?;
        encoder.include_checksum(true)?;
        let json = |source| TableError::Json { line: 0, source };
        let mut line = serde_json::to_vec(&self.header).map_err(json)?;
        encoder.write_all(&line)?;
        for entry in &self.entries {
            line.clear();
            line.push(b'\n');
            serde_json::to_writer(&mut line, entry).map_err(json)?;
            // Better no backup than one that nobody can read.
            if line.len() as u64 > LONGEST_LINE_BYTES {
                return Err(TableError::LongEntry(entry.path.clone()));
            }
            encoder.write_all(&line)?;
        }
        Ok(encoder.finish()?)
    }

    /// Reads one to its end, and returns it with what it was read from.
    pub(super) fn decode<R: Read>(from: R, lists: &ChunkLists) -> Result<(Self, R), TableError> {
        let mut lines = BufReader::new(zstd::Decoder::new(from)?);
        let mut line = String::new();
        let mut line_count = 0;
        let mut next_line = |line: &mut String| -> Result<Option<usize>, TableError> {
            line.clear();
            line_count += 1;
            let length = (&mut lines).take(LONGEST_LINE_BYTES + 1).read_line(line)?;
            if length as u64 > LONGEST_LINE_BYTES {
                return Err(TableError::LongLine(line_count));
            }
            Ok((length > 0).then_some(line_count))
        };
        next_line(&mut line)?.ok_or(TableError::Empty)?;
        let header: TableHeader =
            serde_json::from_str(&line).map_err(|source| TableError::Json { line: 1, source })?;
        if header.format != TABLE_FORMAT || header.chunk_size_bytes as usize != CHUNK_SIZE_BYTES {
            return Err(TableError::UnknownFormat(header.format));
        }
        let mut entries = Vec::new();
        while let Some(number) = next_line(&mut line)? {
            let mut entry: TableEntry =
                serde_json::from_str(&line).map_err(|source| TableError::Json { line: number, source })?;
            if let EntryContent::File { chunks, .. } = &mut entry.content {
                *chunks = lists.keep(std::mem::take(chunks));
            }
            entries.push(entry);
        }
        entries.shrink_to_fit();
        let table = Self { header, entries };
        table.check()?;
        Ok((table, lines.into_inner().finish().into_inner()))
    }

    fn check(&self) -> Result<(), TableError> {
        let mut directories: HashSet<&str> = HashSet::new();
        let mut last: Option<&TablePath> = None;
        for entry in &self.entries {
            match last.map(|last| entry.path.cmp(last)) {
                Some(Ordering::Equal) => return Err(TableError::Duplicate(entry.path.clone())),
                Some(Ordering::Less) => return Err(TableError::OutOfOrder(entry.path.clone())),
                Some(Ordering::Greater) | None => last = Some(&entry.path),
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
    use super::super::chunk::ChunkId;
    use super::super::chunk_list::tests::lists_of;
    use super::*;

    fn encoded(table: &Table) -> Vec<u8> {
        table.encode(Vec::new()).unwrap()
    }

    fn decoded(bytes: &[u8]) -> Result<Table, TableError> {
        Table::decode(bytes, &lists_of(2)).map(|(table, _)| table)
    }

    #[test]
    fn a_line_that_never_ends_is_refused_before_it_is_read_whole() {
        // Some kilobytes that are a gigabyte of spaces.
        let table = Table::new(TableHeader::new(0o700, None), Vec::new()).unwrap();
        let mut bytes = zstd::stream::decode_all(encoded(&table).as_slice()).unwrap();
        bytes.push(b'\n');
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.write_all(&bytes).unwrap();
        let spaces = vec![b' '; 1 << 20];
        (0..1024).for_each(|_| encoder.write_all(&spaces).unwrap());
        let bytes = encoder.finish().unwrap();
        assert!(bytes.len() < 1 << 20);

        assert!(matches!(decoded(&bytes), Err(TableError::LongLine(2))));
    }

    fn entry(path: &str, content: EntryContent) -> TableEntry {
        TableEntry { path: path.to_owned().try_into().unwrap(), mode: 0o600, modified_ns: -1, content }
    }

    fn file(path: &str, size_bytes: u64, chunk_count: usize) -> TableEntry {
        entry(path, EntryContent::File { size_bytes, chunks: vec![ChunkId::of(b"x"); chunk_count].into() })
    }

    fn table(entries: Vec<TableEntry>) -> Result<Table, TableError> {
        Table::new(TableHeader::new(0o700, None), entries)
    }

    #[test]
    fn a_table_survives_its_encoding_and_has_directories_first() {
        let table = table(vec![
            file("base/1/1259", 131_073, 2),
            file("base/1/1260", 131_073, 2),
            entry("base/1", EntryContent::Directory),
            entry("base", EntryContent::Directory),
            entry("pg_tblspc", EntryContent::Directory),
            entry("pg_tblspc/16400", EntryContent::Tablespace { target: "/mnt/fast disk".to_owned() }),
            entry("server.key", EntryContent::Symlink { target: "/etc/ssl/server.key".to_owned() }),
            file("empty", 0, 0),
        ])
        .unwrap();

        let decoded = decoded(&encoded(&table)).unwrap();

        // Some of its lists are in memory, and some are not.
        assert_eq!(encoded(&decoded), encoded(&table));
        assert_eq!(decoded.header, table.header);
        let paths: Vec<&str> = decoded.entries.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "base",
                "base/1",
                "base/1/1259",
                "base/1/1260",
                "empty",
                "pg_tblspc",
                "pg_tblspc/16400",
                "server.key"
            ]
        );
        for entry in decoded.entries.iter().filter(|entry| entry.path.parent() == Some("base/1")) {
            let EntryContent::File { size_bytes, chunks } = &entry.content else { panic!("{entry:?}") };
            assert_eq!(
                (*size_bytes, chunks.load().unwrap().as_ref()),
                (131_073, &[ChunkId::of(b"x"); 2][..])
            );
        }
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

        let error = decoded(&bytes).unwrap_err();

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
    fn what_is_not_in_order_is_refused_when_it_is_read() {
        for (entries, expected) in [
            (vec![file("b", 0, 0), file("a", 0, 0)], "'a' is not in its order"),
            (vec![file("a", 0, 0), file("a", 0, 0)], "'a' is listed twice"),
        ] {
            let forged = Table { header: TableHeader::new(0o700, None), entries };
            assert_eq!(decoded(&encoded(&forged)).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn a_file_has_as_many_chunks_as_its_size_needs() {
        assert!(matches!(table(vec![file("a", 131_073, 1)]), Err(TableError::WrongChunkCount { .. })));
        assert!(matches!(table(vec![file("a", 0, 1)]), Err(TableError::WrongChunkCount { .. })));
        assert!(table(vec![file("a", 131_072, 1)]).is_ok());
    }

    #[test]
    fn a_cut_or_flipped_table_is_an_error() {
        let bytes = encoded(&table(vec![file("a", 5, 1), file("b", 7, 1)]).unwrap());
        for length in 0..bytes.len() {
            assert!(decoded(&bytes[..length]).is_err(), "length {length}");
        }
    }
}
