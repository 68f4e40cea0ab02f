//! A lost relation map, worked out anew: only where it is certain to be the one that was lost.
//!
//! A wrong map is silent corruption of the catalogs, since an old file of theirs can be whole and out of date. Two things
//! prove a map: its last record in WAL that is whole to the end; or that no relation of its was ever rewritten. A
//! rewrite leaves the old file empty until the next checkpoint and then removes it, and the new one has a number from
//! 16384 on that `pg_class` does not know (relmapper.c; `facts/corruption.md` §5). The last condition also finds the file
//! of a rewrite that a crash cut off between its map and its commit, which leaves the old file as it was. A file that the
//! WAL says was made, without a map after it, is of something else that the crash cut off. Of an index only the number has
//! to be unmistakable, not the file: a lost one is built anew, whatever was in it.

use super::Inspection;
use super::maps::{FIRST_NORMAL_OID, is_index, is_never_empty};
use super::wal::{MapHistory, WalDirectory, map_history};
use crate::pg::layout::{Fork, RelationFile};
use crate::pg::relation_map::{MapKind, RelationMap};
use crate::pg::{MajorVersion, Oid, heap};
use crate::plan::FileContent;
use std::collections::{BTreeMap, BTreeSet};

/// `pg_class`, of which one has to be read to know what the other files are.
const PG_CLASS: u32 = 1259;
const PG_CLASS_LIMIT_BYTES: u64 = 256 << 20;
/// Statuses of transactions: four a byte, 32 pages of 8 KiB a segment (clog.c).
const STATUSES_PER_SEGMENT: u32 = 32_768 * 32;

impl Inspection<'_> {
    /// The map that a directory must have had, or why that cannot be known.
    pub(super) fn rebuilt_map(
        &self,
        directory: &str,
        kind: MapKind,
    ) -> Result<(RelationMap, FileContent), String> {
        let (Some(major), Some(control)) = (self.major, &self.control) else {
            return Err("nothing tells the version of the cluster".to_owned());
        };
        let database = Oid(directory.strip_prefix("base/").and_then(|oid| oid.parse().ok()).unwrap_or(0));
        let sizes = self.main_file_sizes(directory)?;
        let history = match WalDirectory::of_cluster(self.root, control) {
            Some(wal) => map_history(&wal, control.redo, database),
            None => Err("pg_wal cannot be read".to_owned()),
        };
        // After a clean stop there is nothing that the files themselves do not show.
        let MapHistory { last, made_since } =
            if self.is_clean() { history.unwrap_or_default() } else { history? };
        let (map, description) = if let Some((lsn, file)) = last {
            let map = RelationMap::parse(&file).map_err(|error| error.to_string())?;
            let is_replayed_anyway = !self.is_clean() && lsn >= control.redo;
            check_logged(&map, kind, major, &sizes, is_replayed_anyway)?;
            (map, format!("as its record in the WAL at {lsn} says"))
        } else {
            let map = RelationMap::identity(kind, major).ok_or("the version is unknown")?;
            self.check_identity_map(&map, directory, &sizes, &made_since)?;
            (map, "no relation of it was ever rewritten".to_owned())
        };
        let bytes = map.encode(major).ok_or("it would have too many entries")?;
        Ok((map, FileContent { description, bytes }))
    }

    /// The size of the first segment of each main fork, by the number of the relation.
    fn main_file_sizes(&self, directory: &str) -> Result<BTreeMap<Oid, u64>, String> {
        let entries = self.root.entries(directory).map_err(|error| error.to_string())?;
        let main = entries.iter().filter_map(|entry| {
            let file = RelationFile::parse(&entry.name)?;
            (file.fork == Fork::Main && file.segment == 0)
                .then_some((file.relfilenode, entry.facts.size_bytes))
        });
        Ok(main.collect())
    }

    /// Checks that no relation of the map was ever rewritten.
    fn check_identity_map(
        &self,
        map: &RelationMap,
        directory: &str,
        sizes: &BTreeMap<Oid, u64>,
        made_since: &BTreeSet<Oid>,
    ) -> Result<(), String> {
        check_files(map, sizes, |catalog| !is_index(catalog) || sizes.contains_key(&catalog))?;
        let made_later =
            sizes.iter().filter(|(relfilenode, size)| relfilenode.0 >= FIRST_NORMAL_OID && **size > 0);
        let known = if directory == "global" { BTreeSet::new() } else { self.filenodes_in_use(directory) };
        let is_unknown =
            |relfilenode: &Oid| !known.contains(relfilenode) && !made_since.contains(relfilenode);
        match made_later.map(|(relfilenode, _)| *relfilenode).find(is_unknown) {
            Some(other) => Err(format!("'{directory}/{other}' may be the new file of one of its relations")),
            None => Ok(()),
        }
    }

    /// The file numbers that rows of `pg_class` name whose transaction committed.
    fn filenodes_in_use(&self, directory: &str) -> BTreeSet<Oid> {
        let pages = self.root.read_bounded(format!("{directory}/{PG_CLASS}"), PG_CLASS_LIMIT_BYTES);
        let mut statuses = BTreeMap::new();
        heap::relfilenodes(&pages.unwrap_or_default(), |xid| self.is_committed(xid, &mut statuses))
    }

    fn is_committed(&self, xid: u32, segments: &mut BTreeMap<u32, Vec<u8>>) -> bool {
        const COMMITTED: u8 = 1;
        let number = xid / STATUSES_PER_SEGMENT;
        let segment = segments.entry(number).or_insert_with(|| {
            self.root.read_bounded(format!("pg_xact/{number:04X}"), 1 << 20).unwrap_or_default()
        });
        let place = xid % STATUSES_PER_SEGMENT;
        let byte = usize::try_from(place / 4).ok().and_then(|index| segment.get(index));
        byte.is_some_and(|byte| (byte >> (2 * (place % 4))) & 3 == COMMITTED)
    }
}

fn check_logged(
    map: &RelationMap,
    kind: MapKind,
    major: MajorVersion,
    sizes: &BTreeMap<Oid, u64>,
    is_replayed_anyway: bool,
) -> Result<(), String> {
    if !map.disagreements(kind, major).is_some_and(|found| found.is_empty()) {
        return Err("its record in the WAL does not have the relations of this version".to_owned());
    }
    // Replay may yet make the new files, and empty the old ones.
    check_files(map, sizes, |relfilenode| !is_replayed_anyway || relfilenode.0 < FIRST_NORMAL_OID)
}

/// Checks that the files that a map names are there, and not empty where they never are.
fn check_files(
    map: &RelationMap,
    sizes: &BTreeMap<Oid, u64>,
    matters: impl Fn(Oid) -> bool,
) -> Result<(), String> {
    for (catalog, relfilenode) in map.entries.iter().filter(|(_, relfilenode)| matters(*relfilenode)) {
        match sizes.get(relfilenode) {
            None => {
                return Err(format!("catalog {catalog} is not in file {relfilenode}, which is not there"));
            }
            Some(0) if is_never_empty(*catalog) => {
                return Err(format!("catalog {catalog} is not in file {relfilenode}, which is empty"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}
