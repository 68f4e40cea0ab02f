//! What bad pages mean: how bad that is for their relation, and what would put it right.

use super::history::{PageHistory, PageReference};
use super::listing::{DataFile, DataFiles};
use super::scan::{BadPage, Flaw};
use crate::cluster::inspect::catalog::{Catalog, CatalogRelation, Certainty, RelationKind};
use crate::format::counted;
use crate::pg::layout::Fork;
use crate::pg::page::PageVerdict;
use crate::pg::{Lsn, Oid};
use crate::plan::{Finding, Remedy, Severity};
use std::collections::{BTreeMap, HashMap};

/// Everything that bad pages are judged by.
pub(in crate::cluster::inspect) struct Judge<'a> {
    pub(in crate::cluster::inspect) files: &'a DataFiles,
    pub(in crate::cluster::inspect) history: &'a PageHistory,
    pub(in crate::cluster::inspect) relations: Relations<'a>,
    /// Whether every file is as the last checkpoint left it.
    pub(in crate::cluster::inspect) is_clean: bool,
    /// Whether a server runs.
    pub(in crate::cluster::inspect) is_live: bool,
}

/// The relations of the catalogs by the files that they are in.
pub(in crate::cluster::inspect) struct Relations<'a> {
    by_file: HashMap<(&'a str, Oid), &'a CatalogRelation>,
}

impl<'a> Relations<'a> {
    pub(in crate::cluster::inspect) fn of(catalog: &'a Catalog) -> Self {
        let key = |relation: &'a CatalogRelation| (&*relation.directory, relation.relfilenode);
        Self { by_file: catalog.relations().map(|relation| (key(relation), relation)).collect() }
    }

    fn find(&self, files: &DataFiles, file: &DataFile) -> Option<&'a CatalogRelation> {
        let directory = files.directory_of(file)?;
        self.by_file.get(&(directory.place.as_str(), file.name.relfilenode)).copied()
    }
}

/// The bad pages of one fork of one relation that are bad in the same way.
struct Group<'a> {
    code: &'static str,
    file: &'a DataFile,
    relation: Option<&'a CatalogRelation>,
    pages: Vec<&'a BadPage>,
}

/// Bad pages by directory, file number, fork and code.
type Groups<'a> = BTreeMap<(usize, Oid, Fork, &'static str), Vec<&'a BadPage>>;

impl Judge<'_> {
    /// One finding for each relation's fork and sort of damage.
    pub(in crate::cluster::inspect) fn findings(&self, bad: &[BadPage]) -> Vec<Finding> {
        let mut groups = Groups::new();
        for page in bad {
            let Some(file) = self.files.files.get(page.file) else { continue };
            let code = if self.is_healed(file, page) { "page-healed-by-replay" } else { code_of(&page.flaw) };
            let key = (file.directory, file.name.relfilenode, file.name.fork, code);
            groups.entry(key).or_default().push(page);
        }
        let replays = self.replays(&groups);
        let findings = groups.into_iter().filter_map(|((directory, relfilenode, _, code), pages)| {
            let file = self.files.files.get(pages.first()?.file)?;
            let group = Group { code, file, relation: self.relations.find(self.files, file), pages };
            Some(self.finding(&group, replays.get(&(directory, relfilenode)).copied()))
        });
        findings.collect()
    }

    /// Where a replay would have to begin to bring back the rows of each main fork with bad pages, for those where
    /// there is such a place. What one relation has lost in any way is healed together, or not at all.
    fn replays(&self, groups: &Groups<'_>) -> HashMap<(usize, Oid), Lsn> {
        let mut lost: BTreeMap<(usize, Oid), Vec<PageReference>> = BTreeMap::new();
        for ((directory, relfilenode, fork, code), pages) in groups {
            if *fork != Fork::Main || *code == "page-healed-by-replay" {
                continue;
            }
            for page in pages {
                let Some(file) = self.files.files.get(page.file) else { continue };
                let is_index = self
                    .relations
                    .find(self.files, file)
                    .is_some_and(|found| found.kind == RelationKind::Index);
                if !is_index && !self.files.is_unlogged(file) {
                    let reference = self.files.reference(file, page.block);
                    lost.entry((*directory, *relfilenode)).or_default().extend(reference);
                }
            }
        }
        let (keys, pages): (Vec<_>, Vec<_>) = lost.into_iter().unzip();
        let found = keys.into_iter().zip(self.checkpoints_before(&pages));
        found.filter_map(|(key, checkpoint)| Some((key, checkpoint?))).collect()
    }

    /// The relation that a file belongs to, if the catalogs have one.
    pub(in crate::cluster::inspect) fn relation_of(&self, file: &DataFile) -> Option<&CatalogRelation> {
        self.relations.find(self.files, file)
    }

    /// For each group of pages, an older checkpoint from which a replay may begin and heals them all.
    pub(in crate::cluster::inspect) fn checkpoints_before(
        &self,
        groups: &[Vec<PageReference>],
    ) -> Vec<Option<Lsn>> {
        if self.is_live {
            return vec![None; groups.len()];
        }
        self.history.checkpoints_before(groups)
    }

    fn finding(&self, group: &Group<'_>, replay: Option<Lsn>) -> Finding {
        let (severity, remedy) = self.meaning(group, replay);
        Finding::new(group.code, severity, self.files.place_of(group.file), self.evidence(group))
            .of_relation(group.relation.map(CatalogRelation::name))
            .at_blocks(group.pages.iter().map(|page| page.block).collect())
            .with_remedy(remedy)
    }

    fn meaning(&self, group: &Group<'_>, replay: Option<Lsn>) -> (Severity, Remedy) {
        if group.code == "page-healed-by-replay" {
            return (Severity::Notice, Remedy::Nothing);
        }
        let is_beyond = group.code == "page-beyond-wal";
        if is_beyond && !self.is_clean && group.relation.is_some_and(|relation| !waits_for_wal(relation)) {
            return (Severity::Notice, Remedy::Nothing);
        }
        let is_unsure = !self.is_clean && !self.is_live && !is_beyond && !self.history.is_complete();
        match (group.file.name.fork, group.relation) {
            // The server makes both anew. Before replay they may not be touched: it would trip over the loss.
            (Fork::Fsm | Fork::Vm, _) if self.is_clean && !self.is_live => {
                (Severity::Warning, Remedy::SetAsideFile)
            }
            (Fork::Fsm | Fork::Vm, _) => (Severity::Warning, Remedy::Nothing),
            (_, Some(relation)) if relation.kind == RelationKind::Index => {
                (Severity::Error, Remedy::Reindex(relation.name()))
            }
            // Nothing names the file: it was left behind, by a crash or a relation dropped since.
            (_, None) if !self.relations.by_file.is_empty() => (Severity::Notice, Remedy::Nothing),
            // More of it is in the WAL than could be remembered, perhaps this page.
            _ if is_unsure => (Severity::Warning, Remedy::Nothing),
            // Where the end of the WAL is lost, all of it up to there says nothing of what came after.
            (Fork::Main, _) if !is_beyond => {
                (Severity::Error, replay.map_or(Remedy::Replace, Remedy::ReplayFrom))
            }
            (Fork::Main | Fork::Init, _) => (Severity::Error, Remedy::Replace),
        }
    }

    /// Whether a bad page will be written anew by the replay that comes anyway.
    fn is_healed(&self, file: &DataFile, page: &BadPage) -> bool {
        if self.is_clean || self.is_live {
            return false;
        }
        if self.files.is_unlogged(file) {
            // The server begins it anew from its `_init` fork (reinit.c).
            return true;
        }
        let is_beyond = matches!(page.flaw, Flaw::BeyondWal { .. });
        !is_beyond
            && self
                .files
                .reference(file, page.block)
                .is_some_and(|page| self.history.is_healed_by_replay(&page))
    }

    fn evidence(&self, group: &Group<'_>) -> String {
        let what = match group.code {
            "page-checksum" => "with a wrong checksum",
            "page-header" => "with a header that no server writes",
            "page-not-zero" => "with zeros in place of a header, and not zero throughout",
            "page-beyond-wal" => "changed by WAL that is not there",
            "page-stale" => "older than the WAL says",
            "page-unreadable" => "that could not be read",
            _ if self.files.is_unlogged(group.file) => "to be begun anew with the unlogged relation",
            _ => "to be written anew by the replay that comes",
        };
        let first =
            group.pages.first().map(|page| format!("; the first is block {}: {}", page.block, page.flaw));
        let bad = counted(group.pages.len(), "page");
        format!("{bad} {what}{}", first.unwrap_or_default())
    }
}

/// Whether no page of a relation reaches the disk before the WAL about it, so that one beyond the end of the WAL shows
/// that the end is lost.
///
/// That is the rule of the buffers (bufmgr.c, `FlushBuffer()`), but not of what is built beside them: COPY of a whole
/// relation, rewrites and builds of btrees log a page and write it at once, without waiting for the WAL (17 on:
/// `bulk_write.c`; before: `rewriteheap.c`, `nbtsort.c`, `RelationCopyStorage()` in storage.c). Their files are new, and
/// nobody's before the transaction commits, for which it waits for all of its WAL. So it holds for a relation that was
/// committed before the last checkpoint. Two kinds of index are written so after their row is committed: one that is
/// built CONCURRENTLY, which is not valid until then, and a hash index, whose new buckets are made by the last of their
/// pages (hashpage.c, `_hash_alloc_buckets()`).
fn waits_for_wal(relation: &CatalogRelation) -> bool {
    const HASH: Oid = Oid(405);
    let is_settled = relation.certainty == Certainty::Sure || relation.is_mapped;
    is_settled && relation.is_valid && relation.access_method != HASH
}

fn code_of(flaw: &Flaw) -> &'static str {
    match flaw {
        Flaw::Refused(PageVerdict::BadHeader { upper: 0, .. }) => "page-not-zero",
        Flaw::Refused(PageVerdict::BadHeader { .. }) => "page-header",
        Flaw::Refused(_) => "page-checksum",
        Flaw::BeyondWal { .. } => "page-beyond-wal",
        Flaw::Stale { .. } => "page-stale",
        Flaw::Unreadable(_) => "page-unreadable",
    }
}

impl std::fmt::Display for Flaw {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(verdict) => verdict.fmt(formatter),
            Self::BeyondWal { found } => write!(formatter, "changed at {found}"),
            Self::Stale { found, expected } => write!(formatter, "changed at {found}, expected {expected}"),
            Self::Unreadable(error) => formatter.write_str(error),
        }
    }
}
