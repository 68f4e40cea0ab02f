//! Which files of a stopped cluster are sealed with a hash of what they hold.
//!
//! Those are the files without a checksum of their own that are small: the status of transactions, the relation maps,
//! the state of slots, the visibility and free space maps; and in a cluster without data checksums its smallest
//! relations, the catalogs first of all. A stop must stay short, so each sort has a bound: what is beyond it is sealed
//! by size and time alone.

use super::{Contents, Seal};
use crate::cluster::inspect::follow;
use crate::pg::control_file::ControlFile;
use crate::pg::layout::{Fork, RelationFile};
use crate::pg::slru::SlruSegment;
use crate::sys::ReadRoot;
use std::cmp::Reverse;
use std::io::{self, Read};

/// The hash of what a file holds (BLAKE3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContentHash(pub(crate) [u8; 32]);

impl ContentHash {
    /// Returns the hash of these bytes.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Reads a file whose size is known and returns its hash.
    ///
    /// # Errors
    /// Whatever keeps the file from being read whole, another size among it.
    pub(crate) fn of_file(root: &ReadRoot, name: &str, size_bytes: u64) -> io::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(root.open_file(name)?.take(size_bytes.saturating_add(1)))?;
        if hasher.count() != size_bytes {
            return Err(io::Error::other(format!("it does not have {size_bytes} bytes any more")));
        }
        Ok(Self(*hasher.finalize().as_bytes()))
    }
}

/// The sorts of files whose content is sealed, the most important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sort {
    /// Which transactions committed, and who locked rows.
    TransactionStatus,
    /// Relation maps, slots, history files, the times of commits.
    Small,
    /// What says which rows everybody sees.
    VisibilityMap,
    FreeSpaceMap,
    /// A relation of a cluster without data checksums.
    Relation,
}

impl Sort {
    /// The sort of a file; `None` where its content is not sealed.
    fn of(contents: Contents, name: &str, control: &ControlFile) -> Option<Self> {
        match contents {
            Contents::TransactionStatus => Some(Self::TransactionStatus),
            Contents::Other => {
                let is_small = name == "state" || name == "replorigin_checkpoint";
                let is_known = is_small || name.ends_with(".history") || SlruSegment::parse(name).is_some();
                is_known.then_some(Self::Small)
            }
            Contents::Relations if name == "pg_filenode.map" => Some(Self::Small),
            Contents::Relations => match RelationFile::parse(name)?.fork {
                Fork::Vm => Some(Self::VisibilityMap),
                Fork::Fsm => Some(Self::FreeSpaceMap),
                // A checksum tells as much of a page.
                Fork::Main | Fork::Init => (!control.has_checksums()).then_some(Self::Relation),
            },
        }
    }

    /// How many bytes and how many files of the sort are read at the most.
    fn bound(self) -> Bound {
        let (bytes, files) = match self {
            // All of `pg_xact` up to an age of 800 million transactions.
            Self::TransactionStatus => (256 << 20, 20_000),
            Self::Small => (32 << 20, 20_000),
            Self::VisibilityMap | Self::FreeSpaceMap => (32 << 20, 10_000),
            Self::Relation => (64 << 20, 10_000),
        };
        Bound { bytes, files }
    }
}

/// What may still be read.
#[derive(Clone, Copy, Debug)]
struct Bound {
    bytes: u64,
    files: usize,
}

impl Bound {
    /// Whether a file of that size fits in; if so, it is counted.
    fn takes(&mut self, size_bytes: u64) -> bool {
        let fits = self.files > 0 && size_bytes <= self.bytes;
        if fits {
            self.files -= 1;
            self.bytes -= size_bytes;
        }
        fits
    }
}

/// A file whose content may be sealed: where it is in the seal.
#[derive(Debug)]
struct Candidate {
    sort: Sort,
    size_bytes: u64,
    directory: usize,
    file: usize,
}

/// Reads what is small, and adds its hashes to a seal. What could not be read is sealed without.
pub(super) fn add_contents(root: &ReadRoot, control: &ControlFile, seal: &mut Seal) {
    let mut chosen = chosen(seal, control);
    // Each directory is opened once.
    chosen.sort_unstable_by_key(|candidate| candidate.directory);
    let mut opened: Option<(usize, ReadRoot)> = None;
    for candidate in chosen {
        let Some(sealed) = seal.directories.get_mut(candidate.directory) else { continue };
        if opened.as_ref().is_none_or(|(index, _)| *index != candidate.directory) {
            opened = follow(root, &sealed.path).ok().map(|opened| (candidate.directory, opened));
        }
        let Some((_, directory)) = &opened else { continue };
        let Some(file) = sealed.files.get_mut(candidate.file) else { continue };
        file.content = ContentHash::of_file(directory, &file.name, file.size_bytes).ok();
    }
}

/// The files whose content is sealed: of each sort as many as its bound allows, the newest segments and the smallest
/// relations first.
fn chosen(seal: &Seal, control: &ControlFile) -> Vec<Candidate> {
    let mut candidates: Vec<Candidate> = Vec::new();
    for (directory, sealed) in seal.directories.iter().enumerate() {
        let Some(contents) = Contents::of(&sealed.path) else { continue };
        let of_directory = sealed.files.iter().enumerate().filter_map(|(file, facts)| {
            let sort = Sort::of(contents, &facts.name, control)?;
            Some(Candidate { sort, size_bytes: facts.size_bytes, directory, file })
        });
        candidates.extend(of_directory);
    }
    candidates.sort_by_key(|candidate| match candidate.sort {
        // Files are in the order of their names, so that the newest come last.
        Sort::TransactionStatus => (candidate.sort, 0, Reverse(candidate.file)),
        _ => (candidate.sort, candidate.size_bytes, Reverse(0)),
    });
    let mut bound = (Sort::TransactionStatus, Sort::TransactionStatus.bound());
    candidates.retain(|candidate| {
        if candidate.sort != bound.0 {
            bound = (candidate.sort, candidate.sort.bound());
        }
        bound.1.takes(candidate.size_bytes)
    });
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::seal::{SealedDirectory, SealedFile, Stop};
    use crate::pg::{Lsn, SystemIdentifier};

    fn control() -> ControlFile {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/postgres/15/pg_control");
        ControlFile::parse(&std::fs::read(path).unwrap()).unwrap()
    }

    fn seal(directories: &[(&str, &[(&str, u64)])]) -> Seal {
        let file = |(name, size_bytes): &(&str, u64)| SealedFile {
            name: (*name).to_owned(),
            size_bytes: *size_bytes,
            modified_ns: 0,
            content: None,
        };
        let directory = |(path, files): &(&str, &[(&str, u64)])| SealedDirectory {
            path: (*path).to_owned(),
            files: files.iter().map(file).collect(),
        };
        let stop = Stop { system_identifier: SystemIdentifier(1), checkpoint: Lsn(2), control_crc: 3 };
        Seal { stop, directories: directories.iter().map(directory).collect() }
    }

    /// The files that are chosen, in order.
    fn names(seal: &Seal, control: &ControlFile) -> Vec<String> {
        let name = |candidate: &Candidate| {
            let directory = &seal.directories[candidate.directory];
            format!("{}/{}", directory.path, directory.files[candidate.file].name)
        };
        chosen(seal, control).iter().map(name).collect()
    }

    #[test]
    fn relations_are_read_only_where_no_checksum_tells_of_them() {
        let files = [("1259", 8192), ("1259_fsm", 8192), ("1259_vm", 8192), ("pg_filenode.map", 512)];
        let seal = seal(&[
            ("base/1", &files),
            ("pg_replslot/one", &[("state", 200)]),
            ("pg_wal", &[("000000010000000000000001", 1 << 24), ("00000002.history", 50)]),
            ("pg_xact", &[("0000", 8192)]),
        ]);
        let without = ControlFile { data_checksum_version: 0, ..control() };
        let with = ControlFile { data_checksum_version: 1, ..control() };
        let small = [
            "pg_xact/0000",
            "pg_wal/00000002.history",
            "pg_replslot/one/state",
            "base/1/pg_filenode.map",
            "base/1/1259_vm",
            "base/1/1259_fsm",
        ];

        assert_eq!(names(&seal, &with), small);
        assert_eq!(names(&seal, &without), [&small[..], &["base/1/1259"]].concat());
    }

    #[test]
    fn what_does_not_fit_into_the_bound_is_left_out_and_the_smallest_is_taken_first() {
        let without = ControlFile { data_checksum_version: 0, ..control() };
        let files = [("16384", 60 << 20), ("16385", 8 << 20), ("16386", 8192), ("16387", 1 << 30)];
        assert_eq!(names(&seal(&[("base/5", &files)]), &without), ["base/5/16386", "base/5/16385"]);
    }

    #[test]
    fn of_the_status_files_the_newest_are_taken() {
        let files: Vec<(String, u64)> = (0..1100).map(|number| (format!("{number:04X}"), 1 << 18)).collect();
        let files: Vec<(&str, u64)> = files.iter().map(|(name, size)| (name.as_str(), *size)).collect();
        let names = names(&seal(&[("pg_xact", &files)]), &control());
        assert_eq!((names.len(), names[0].as_str()), (1024, "pg_xact/044B"));
    }

    #[test]
    fn a_file_of_another_size_has_no_hash() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("0000"), "status").unwrap();
        let root = ReadRoot::open(directory.path()).unwrap();

        assert_eq!(ContentHash::of_file(&root, "0000", 6).unwrap(), ContentHash::of_bytes(b"status"));
        assert!(ContentHash::of_file(&root, "0000", 5).is_err());
        assert!(ContentHash::of_file(&root, "0000", 7).is_err());
    }
}
