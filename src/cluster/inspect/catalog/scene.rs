//! What the walk needs to know of the cluster: its layout, its rules, and the way to its directories.

use super::certainty::Rules;
use super::directory::{CatalogPages, RelationDirectory};
use super::files::Place;
use super::transactions::StoredTransactions;
use crate::cluster::inspect::{Inspection, follow, unreadable};
use crate::cluster::tree::{FileTree, TreeDirectory};
use crate::pg::control_file::{ClusterState, ControlFile};
use crate::pg::heap::{self, Tuple, Visibility};
use crate::pg::page::{self, Checksums};
use crate::pg::relation_map::RelationMap;
use crate::pg::{MajorVersion, Oid};
use crate::plan::{Finding, RelationName};
use crate::sys::ReadRoot;
use std::collections::{BTreeMap, HashMap};
use std::io;

fn is_of_crashed_primary(state: ClusterState) -> bool {
    matches!(state, ClusterState::InProduction | ClusterState::ShuttingDown | ClusterState::InCrashRecovery)
}

/// What the walk needs to know of the cluster.
pub(super) struct Scene<'a> {
    pub root: &'a ReadRoot,
    /// Every directory that was listed, by its path.
    tree: HashMap<&'a str, &'a TreeDirectory>,
    pub major: MajorVersion,
    pub rules: Rules,
    /// Whether it is a crashed primary, which a start replays to the end of the WAL that is here, and no further.
    pub recovers_alone: bool,
    pub transactions: StoredTransactions<'a>,
    pub checksums: Checksums,
    pub segment_blocks: u32,
    catalog_version: Option<u32>,
    rebuilt_maps: BTreeMap<String, RelationMap>,
}

/// A catalog that must be read, and whose it is.
pub(super) struct CatalogToRead<'a> {
    pub directory: &'a RelationDirectory,
    pub relfilenode: Oid,
    pub name: RelationName,
}

impl<'a> Scene<'a> {
    /// The scene of an inspection; `None` where the cluster's layout is one that the walk does not know.
    pub(super) fn of(inspection: &Inspection<'a>, tree: &'a FileTree) -> Option<Self> {
        let root = inspection.root;
        let control = inspection.control.as_ref();
        let block_size = control.map_or(page::SIZE_BYTES as u64, |control| u64::from(control.block_size));
        if block_size != page::SIZE_BYTES as u64 {
            return None;
        }
        // Without a control file nobody knows whether there are checksums.
        let checksums = control.map_or(Checksums::Disabled, ControlFile::checksums);
        let has_backup_label = !matches!(root.facts("backup_label"), Ok(None));
        Some(Self {
            root,
            tree: tree.by_path(),
            major: inspection.major?,
            rules: Rules::of(control, has_backup_label),
            recovers_alone: control.is_some_and(|control| is_of_crashed_primary(control.state))
                && !inspection.is_in_use
                && inspection.takes_no_wal_from_elsewhere(),
            transactions: StoredTransactions::new(root, control),
            checksums,
            segment_blocks: control.map_or(131_072, |control| control.relation_segment_blocks),
            catalog_version: control.map(|control| control.catalog_version),
            rebuilt_maps: inspection.rebuilt_maps.clone(),
        })
    }

    /// The map of a directory: the one that must take its place, or the one in it. One that cannot be read is reported
    /// where the maps are checked.
    pub(super) fn map(&self, root: &ReadRoot, place: &str) -> Option<RelationMap> {
        if let Some(map) = self.rebuilt_maps.get(place) {
            return Some(map.clone());
        }
        let bytes = root.read_bounded("pg_filenode.map", 4096).ok()?;
        RelationMap::parse(&bytes).ok()
    }

    /// Reads a catalog; what is wrong with it is a finding, and then its absence of rows proves nothing.
    pub(super) fn read(
        &self,
        catalog: &CatalogToRead<'_>,
        findings: &mut Vec<Finding>,
    ) -> Option<CatalogPages> {
        let place = || format!("{}/{}", catalog.directory.place, catalog.relfilenode);
        let read = catalog.directory.read_catalog(catalog.relfilenode, self.segment_blocks, self.checksums);
        match read {
            Ok(pages) if pages.damaged.is_empty() => Some(pages),
            Ok(pages) => {
                let evidence = format!(
                    "{} of its pages are none that a server writes, so that what it names was not looked for",
                    pages.damaged.len()
                );
                let severity = self.rules.when_clean().severity();
                let finding = Finding::new("catalog-page-damaged", severity, place(), evidence);
                findings.push(finding.of_relation(Some(catalog.name.clone())).at_blocks(pages.damaged));
                None
            }
            // That it is missing is found with the other files.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                findings.push(unreadable(place(), &error));
                None
            }
        }
    }

    /// The rows of a catalog that count.
    pub(super) fn live<'b>(
        &'b self,
        pages: &'b CatalogPages,
    ) -> impl Iterator<Item = (Tuple<'b>, Visibility)> + 'b {
        let tuples = pages.pages().flat_map(heap::tuples);
        tuples.filter_map(|tuple| {
            let visibility = tuple.visibility(&self.transactions);
            (visibility != Visibility::Dead).then_some((tuple, visibility))
        })
    }

    /// Where the relations of a database in a tablespace are, below the data directory.
    pub(super) fn place(&self, database: Oid, tablespace: Oid) -> String {
        match tablespace {
            Oid::DEFAULT_TABLESPACE => format!("base/{database}"),
            Oid::GLOBAL_TABLESPACE => "global".to_owned(),
            _ => format!("pg_tblspc/{tablespace}/{}/{database}", self.version_directory(tablespace)),
        }
    }

    /// The directory of this version in a tablespace: `PG_15_202209061`.
    pub(super) fn version_directory(&self, tablespace: Oid) -> String {
        let begin = format!("PG_{}_", self.major);
        if let Some(version) = self.catalog_version {
            return format!("{begin}{version}");
        }
        let entries =
            follow(self.root, &format!("pg_tblspc/{tablespace}")).and_then(|root| root.entries("."));
        let names = entries.unwrap_or_default().into_iter().map(|entry| entry.name);
        names.into_iter().find(|name| name.starts_with(&begin)).unwrap_or(begin)
    }

    /// Opens the directory of a database in a tablespace.
    pub(super) fn open(&self, database: Oid, tablespace: Oid) -> io::Result<ReadRoot> {
        if tablespace == Oid::DEFAULT_TABLESPACE || tablespace == Oid::GLOBAL_TABLESPACE {
            return self.root.subroot(self.place(database, tablespace));
        }
        let link = follow(self.root, &format!("pg_tblspc/{tablespace}"))?;
        link.subroot(format!("{}/{database}", self.version_directory(tablespace)))
    }

    /// What is in an open directory: from the listing of the whole cluster, or, where that did not get to it, from one
    /// of its own.
    pub(super) fn listed(&self, place: String, root: ReadRoot) -> io::Result<RelationDirectory> {
        match self.tree.get(place.as_str()) {
            Some(listed) => Ok(RelationDirectory::of_entries(place, root, &listed.entries)),
            None => RelationDirectory::list(place, root),
        }
    }

    /// Opens and lists the directory of a database in a tablespace; what cannot be read is a finding.
    pub(super) fn list(
        &self,
        place: &str,
        (database, tablespace): (Oid, Oid),
        findings: &mut Vec<Finding>,
    ) -> Place {
        let open = self.open(database, tablespace);
        match open.and_then(|root| self.listed(place.to_owned(), root)) {
            Ok(directory) => Place::Listed(directory),
            Err(error) if is_missing(&error) => Place::Absent,
            Err(error) => {
                findings.push(unreadable(place, &error));
                Place::Unknown
            }
        }
    }
}

/// Whether an error says that something is not there.
pub(super) fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
