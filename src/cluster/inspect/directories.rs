//! Directories that are gone: which of them may be made again, empty, and what is lost with each.
//!
//! That a directory was empty is proven by the seal of the last stop, or by what the cluster says of its use; where it
//! is not proven, what may be lost is named before anything is done. `pg_twophase` has a check of its own.

use super::Inspection;
use crate::cluster::seal::{self, Seal, Stop};
use crate::pg::layout;
use crate::pg::relation_map::RelationMap;
use crate::pg::{MajorVersion, Oid};
use crate::plan::{Finding, Remedy, Severity};
use crate::sys::EntryKind;
use std::sync::Arc;

/// `pg_replication_origin`, whose rows name what is subscribed to.
const REPLICATION_ORIGINS: Oid = Oid(6000);

impl Inspection<'_> {
    /// The finding that a directory that initdb makes is not there.
    pub(super) fn missing_directory(&self, directory: &'static str, major: MajorVersion) -> Finding {
        let can_be_made_again = layout::recreatable_empty_directories(major).any(|name| name == directory);
        let (severity, remedy) = match self.what_needs_a_person(directory) {
            Some(words) => (Severity::Error, Remedy::RestoreOrSeeToIt(words)),
            None if can_be_made_again => (Severity::Warning, Remedy::RecreateDirectory),
            None if directory == "pg_wal" && self.can_begin_wal_anew() => {
                (Severity::Error, Remedy::RecreateDirectory)
            }
            None => (Severity::Error, Remedy::Replace),
        };
        let lost = self.lost_with(directory).map(|lost| format!("; {lost}")).unwrap_or_default();
        let evidence = format!("the directory is not there{lost}");
        Finding::new("directory-missing", severity, directory, evidence).with_remedy(remedy)
    }

    /// How far subscriptions had come must not be forgotten: a subscription that begins at zero is sent again what it
    /// had, and stores it twice where nothing forbids it (origin.c, `StartupReplicationOrigin()`).
    fn what_needs_a_person(&self, directory: &str) -> Option<String> {
        (directory == "pg_logical" && !self.has_no_origins()).then(|| {
            format!(
                "no backup has all the WAL since: subscriptions would be sent again what they had. To go on all the \
                 same, make the directory as the server's user (`mkdir -m 700 '{0}/pg_logical' \
                 '{0}/pg_logical/snapshots' '{0}/pg_logical/mappings'`), and run this again",
                self.root.path().display()
            )
        })
    }

    /// What is lost with a directory that is made again, empty, in words; `None` where nothing is.
    fn lost_with(&self, directory: &str) -> Option<String> {
        match directory {
            "pg_replslot" => self.lost_slots(),
            "pg_logical" => self.lost_with_logical(),
            "pg_stat" => Some("the statistics of use begin at zero".to_owned()),
            "pg_commit_ts" => {
                let is_tracked = self.control.as_ref().is_some_and(|control| control.track_commit_timestamp);
                let lost =
                    "track_commit_timestamp is on, and the times of all commits so far are lost with it";
                (is_tracked && !self.was_empty(directory)).then(|| lost.to_owned())
            }
            _ => None,
        }
    }

    fn lost_slots(&self) -> Option<String> {
        let Some(seal) = self.seal() else {
            return Some(
                "replication slots, if there were any, are lost with it: what reads from them must be set up again"
                    .to_owned(),
            );
        };
        let names = seal.directories.iter().filter_map(|sealed| sealed.path.strip_prefix("pg_replslot/"));
        let names: Vec<&str> = names.collect();
        (!names.is_empty()).then(|| {
            format!(
                "these replication slots are lost with it, and what reads from them must be set up again: {}",
                names.join(", ")
            )
        })
    }

    fn lost_with_logical(&self) -> Option<String> {
        let lost = if self.has_no_origins() { "" } else { "how far subscriptions had come is lost with it" };
        let slots = self.root.entries("pg_replslot").unwrap_or_default();
        let slots: Vec<&str> = slots
            .iter()
            .filter(|entry| entry.facts.kind == EntryKind::Directory)
            .map(|entry| entry.name.as_str())
            .collect();
        match (lost, slots.is_empty()) {
            ("", true) => None,
            ("", false) => Some(format!(
                "what logical replication slots need to go on is lost with it ({})",
                slots.join(", ")
            )),
            (lost, true) => Some(lost.to_owned()),
            (lost, false) => Some(format!(
                "{lost}, and what logical replication slots need to go on ({})",
                slots.join(", ")
            )),
        }
    }

    /// Whether the cluster has no replication origin, nor ever had one since its catalog was last rewritten.
    pub(super) fn has_no_origins(&self) -> bool {
        let map = match self.rebuilt_maps.get("global") {
            Some(map) => Some(map.clone()),
            None => self
                .root
                .read_bounded("global/pg_filenode.map", 4096)
                .ok()
                .and_then(|bytes| RelationMap::parse(&bytes).ok()),
        };
        let Some(map) = map else { return false };
        let Some(filenode) = map.filenode(REPLICATION_ORIGINS) else { return false };
        let facts = self.root.facts(format!("global/{filenode}"));
        matches!(facts, Ok(Some(facts)) if facts.size_bytes == 0)
    }

    /// Whether the seal of the last stop has no file in a directory.
    fn was_empty(&self, directory: &str) -> bool {
        let Some(seal) = self.seal() else { return false };
        seal.directories.iter().any(|sealed| sealed.path == directory && sealed.files.is_empty())
    }

    /// The seal of the stop that the cluster is in.
    pub(super) fn seal(&self) -> Option<Arc<Seal>> {
        self.read_seal().ok()?
    }

    /// The same, read once for all who ask.
    ///
    /// # Errors
    /// Why it could not be read, in words.
    pub(super) fn read_seal(&self) -> Result<Option<Arc<Seal>>, String> {
        let Some(control) = self.control.as_ref().filter(|_| self.is_clean()) else { return Ok(None) };
        let read = || match seal::read_any(self.root) {
            Ok(seal) => Ok(seal.map(Arc::new)),
            Err(error) => Err(error.to_string()),
        };
        let seal = self.seal.get_or_init(read).clone()?;
        Ok(seal.filter(|seal| seal.is_of(Stop::of(control), self.is_control_rebuilt)))
    }
}
