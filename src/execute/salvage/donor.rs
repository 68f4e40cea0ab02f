//! A new cluster whose catalogs stand in for those that are lost, on the copy.
//!
//! What initdb puts into a catalog is the same in every cluster of a version, so that with the file of a new one the
//! server's own objects are back, and only what users had in that catalog is lost. The file of `pg_class` or
//! `pg_attribute` would help nobody: without its rows no table of a user can be found.

use super::loss::Salvaged;
use super::rebuilding::initial_password;
use super::workplace::{SALVAGE, Workplace, copied_place};
use crate::cluster::initdb::{InitdbOptions, initdb};
use crate::pg::page::{self, Checksums, PageVerdict};
use crate::pg::relation_map::RelationMap;
use crate::pg::{BlockNumber, Oid};
use crate::settings::Secret;
use anyhow::Context;
use std::path::{Path, PathBuf};

/// The first object identifier that is not initdb's (transam.h, `FirstNormalObjectId`).
const FIRST_NORMAL_OID: u32 = 16_384;
/// `pg_class` and `pg_attribute`.
const IRREPLACEABLE: [u32; 2] = [1259, 1249];
/// Shared catalogs that no cluster is without rows in: `pg_authid`, `pg_database`, `pg_tablespace`.
const NEVER_EMPTY: [u32; 3] = [1260, 1262, 1213];
/// More than a shared catalog of any cluster has.
const MOST_CATALOG_BYTES: u64 = 1 << 30;
/// Shared tables, 13 to 19 (pg_*.dat and `BKI_SHARED_RELATION` in catalog/*.h), toast tables included.
const SHARED_TABLES: [u32; 20] = [
    1213, 1214, 1260, 1261, 1262, 2396, 2846, 2964, 2966, 3592, 4060, 4175, 4177, 4181, 4183, 4185, 6000,
    6100, 6243, 6244,
];

/// The catalogs of a new cluster, made when the first is asked for.
pub(super) struct Donor<'a> {
    work: Workplace<'a>,
    superuser: String,
    directory: Option<PathBuf>,
}

impl<'a> Donor<'a> {
    pub(super) fn new(work: Workplace<'a>, superuser: &str) -> Self {
        Self { work, superuser: superuser.to_owned(), directory: None }
    }

    /// Where it is, below the data directory.
    fn directory(&mut self) -> anyhow::Result<PathBuf> {
        if let Some(directory) = &self.directory {
            return Ok(directory.clone());
        }
        let directory = Path::new(SALVAGE).join("donor");
        self.work.root.discard(&directory).context("clear the donor's directory")?;
        self.work.root.create_directory(&directory, 0o700).context("make the donor's directory")?;
        let password = initial_password(&self.work)?;
        let options = InitdbOptions {
            superuser: &self.superuser,
            password: password.as_ref().map(Secret::reveal),
            wal_directory: None,
            arguments: &self.work.tools.settings.initdb_arguments,
        };
        let path = self.work.root.path().join(&directory);
        initdb(self.work.tools.installation, self.work.root, &path, &options)
            .context("make a cluster to take catalogs from")?;
        self.directory = Some(directory.clone());
        Ok(directory)
    }

    /// Puts the donor's shared catalogs in place of those that are lost. Without them nobody can connect.
    pub(super) fn replace_lost_shared(&mut self, salvaged: &mut Salvaged) -> anyhow::Result<()> {
        let map = self.work.root.read_bounded(self.work.copied("global/pg_filenode.map"), 4096);
        let map = map
            .ok()
            .and_then(|bytes| RelationMap::parse(&bytes).ok())
            .unwrap_or(RelationMap { entries: Vec::new() });
        for (catalog, relfilenode) in map.entries {
            let path = format!("global/{relfilenode}");
            let is_lost = match self.work.size_bytes(copied_place(&path)) {
                None => true,
                Some(_) => NEVER_EMPTY.contains(&catalog.0) && !self.has_pages(&path),
            };
            if is_lost && SHARED_TABLES.contains(&catalog.0) {
                self.give(&format!("global/{catalog}"), &path)?;
                salvaged.assume(format!(
                    "the shared catalog {catalog} ('{path}') was gone, and that of a new cluster stands in for it"
                ));
            }
        }
        Ok(())
    }

    /// Whether a catalog has any page that a server reads rows from; to a bad one it is as good as empty.
    fn has_pages(&self, path: &str) -> bool {
        let bytes = self.work.root.read_bounded(copied_place(path), MOST_CATALOG_BYTES).unwrap_or_default();
        let (pages, _) = bytes.as_chunks::<{ page::SIZE_BYTES }>();
        let verdict = |(block, page)| page::verify(page, block, Checksums::Disabled);
        (0..).map(BlockNumber).zip(pages).map(verdict).any(|verdict| verdict == PageVerdict::Sound)
    }

    /// Puts the donor's file in place of a lost catalog of a database, if that is of any use. Returns whether it was.
    pub(super) fn replace_lost(&mut self, path: &str) -> anyhow::Result<bool> {
        let number = path.rsplit('/').next().and_then(|name| name.parse::<u32>().ok());
        let Some(number) = number.filter(|number| *number < FIRST_NORMAL_OID) else { return Ok(false) };
        if IRREPLACEABLE.contains(&number) || self.work.size_bytes(copied_place(path)).is_some() {
            return Ok(false);
        }
        let source =
            if path.starts_with("global/") { path.to_owned() } else { format!("base/1/{}", Oid(number)) };
        let directory = self.directory()?;
        if self.work.size_bytes(directory.join(&source)).is_none() {
            return Ok(false);
        }
        self.give(&source, path)?;
        Ok(true)
    }

    fn give(&mut self, source: &str, path: &str) -> anyhow::Result<()> {
        let place = self.directory()?.join(source);
        self.work.discard(copied_place(path)).with_context(|| format!("replace '{path}' of the copy"))?;
        let file =
            self.work.root.open_file(&place).with_context(|| format!("open the donor's '{source}'"))?;
        let copied = self.work.root.copy_file(&file, copied_place(path), 0o600);
        copied.map(|_| ()).with_context(|| format!("replace '{path}' of the copy"))
    }
}
