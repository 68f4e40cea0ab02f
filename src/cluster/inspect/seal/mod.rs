//! What became of a cleanly stopped cluster since it was sealed.
//!
//! The seal of another stop says nothing, and neither does none. A file that another check has reported is passed
//! over: that check knows more of it. A relation's file that was written to goes on the list that the page check takes.
//!
//! Where the content was sealed, it decides, and the time says nothing: a file that holds what it held is as it was.

mod differences;

use super::catalog::{Catalog, CatalogRelation, RelationKind};
use super::lost_files::LostRange;
use super::{FileTree, Inspection, StatusWitness};
use crate::cluster::seal::{Contents, Seal, SealedDirectory, Worth};
use crate::pg::Oid;
use crate::pg::layout::RelationFile;
use crate::plan::{Finding, Remedy, Severity};
use differences::{Change, Difference, differences, settle};
use std::collections::{HashMap, HashSet};

pub(super) use differences::SealedContent;

const SIZE_CHANGED: &str = "seal-size-changed";
const CONTENT_CHANGED: &str = "seal-content-changed";
/// Up to so many files are named one by one where it is not each of them that matters.
const MOST_NAMED: usize = 20;

impl Inspection<'_> {
    /// Compares the files of a cleanly stopped cluster with its seal.
    pub(super) fn check_seal(&mut self, tree: &FileTree) {
        let seal = match self.read_seal() {
            Ok(Some(seal)) => seal,
            Ok(None) => return,
            Err(error) => {
                let evidence = format!("it could not be read: {error}");
                return self.report("seal-unreadable", Severity::Notice, ".pgbox/seal", evidence);
            }
        };
        let differences = settle(self.root, differences(&seal, tree));
        let is_written = |found: &Difference| matches!(found.change, Change::Modified | Change::Content);
        self.changed_files = differences
            .iter()
            .filter(|found| found.contents == Contents::Relations && is_written(found))
            .map(|found| found.place.clone())
            .collect();
        let is_status = |found: &&Difference| found.contents == Contents::TransactionStatus;
        let status = differences.iter().filter(is_status);
        self.changed_status =
            status.clone().filter_map(|found| Some((found.place.clone(), found.sealed?))).collect();
        if status.count() == 0 && has_all_status(&seal) {
            self.status_witness = StatusWitness::Seal;
        }
        self.lost_ranges = differences.iter().filter_map(lost_range).collect();
        let known: HashSet<String> = self.findings.iter().map(|finding| finding.place.clone()).collect();
        let found = findings(&differences, seal.file_count());
        let new: Vec<Finding> = found.into_iter().filter(|finding| !known.contains(&finding.place)).collect();
        let new = match &self.catalog {
            Some(catalog) => with_relations(new, catalog),
            None => new,
        };
        self.findings.extend(new);
    }

    /// The relation files of the right size that were written to since the seal: their pages must be looked at.
    pub(super) fn changed_files(&self) -> &[String] {
        &self.changed_files
    }
}

/// Whether the content of every status file was sealed.
fn has_all_status(seal: &Seal) -> bool {
    let is_status =
        |sealed: &&SealedDirectory| Contents::of(&sealed.path) == Some(Contents::TransactionStatus);
    let mut files = seal.directories.iter().filter(is_status).flat_map(|sealed| &sealed.files);
    files.all(|file| file.content.is_some())
}

/// The part of a relation's file that is not there any more.
fn lost_range(difference: &Difference) -> Option<LostRange> {
    let (from_bytes, to_bytes) = match difference.change {
        Change::Missing { sealed } => (0, sealed),
        Change::Size { sealed, found } if found < sealed => (found, sealed),
        _ => return None,
    };
    let place = difference.place.clone();
    (difference.contents == Contents::Relations).then_some(LostRange { place, from_bytes, to_bytes })
}

/// Names the relations, and finds a smaller remedy than a replacement where the catalogs know one.
fn with_relations(findings: Vec<Finding>, catalog: &Catalog) -> Vec<Finding> {
    if findings.is_empty() {
        return findings;
    }
    let relations: HashMap<(&str, u32), &CatalogRelation> = catalog
        .relations()
        .map(|relation| ((&*relation.directory, relation.relfilenode.0), relation))
        .collect();
    let relation_of = |finding: &Finding| {
        let (directory, name) = finding.place.rsplit_once('/')?;
        relations.get(&(directory, RelationFile::parse(name)?.relfilenode.0)).copied()
    };
    let is_lost = |finding: &Finding| finding.severity == Severity::Error;
    let lost: HashSet<(u32, u32)> = findings
        .iter()
        .filter(|finding| is_lost(finding))
        .filter_map(relation_of)
        .map(|relation| (relation.database.0, relation.oid.0))
        .collect();
    let complete = |finding: Finding| {
        let Some(relation) = relation_of(&finding) else { return finding };
        let finding = finding.of_relation(Some(relation.name()));
        let has_table = |table: &Oid| !lost.contains(&(relation.database.0, table.0));
        let is_index = relation.kind == RelationKind::Index;
        match &finding.remedy {
            Remedy::Replace if is_index && relation.table.as_ref().is_some_and(has_table) => {
                finding.with_remedy(Remedy::Reindex(relation.name()))
            }
            // What an unlogged table holds may be lost by contract; that much is no reason to replace a cluster.
            Remedy::Replace
                if relation.is_unlogged && [SIZE_CHANGED, CONTENT_CHANGED].contains(&finding.code) =>
            {
                Finding { severity: Severity::Warning, ..finding.with_remedy(Remedy::Nothing) }
            }
            _ => finding,
        }
    };
    findings.into_iter().map(complete).collect()
}

fn findings(differences: &[Difference], sealed_count: usize) -> Vec<Finding> {
    let is = |change: Change| move |found: &Difference| found.change == change;
    let modified: Vec<&Difference> = differences.iter().filter(|found| is(Change::Modified)(found)).collect();
    let new: Vec<&Difference> = differences.iter().filter(|found| is(Change::New)(found)).collect();
    let mut findings: Vec<Finding> = differences.iter().filter_map(loss).collect();
    findings.extend(modified_findings(&modified, sealed_count));
    findings.extend(new_findings(&new));
    findings
}

/// A file that is gone, of another size, or with another content.
fn loss(difference: &Difference) -> Option<Finding> {
    let (code, evidence) = match difference.change {
        Change::Missing { .. } => {
            ("seal-file-missing", "it was there when the server stopped, and is not any more".to_owned())
        }
        Change::Size { sealed, found } => {
            (SIZE_CHANGED, format!("it had {sealed} bytes when the server stopped, and has {found}"))
        }
        Change::Content => {
            (CONTENT_CHANGED, "it holds something else than when the server stopped".to_owned())
        }
        Change::Modified | Change::Unread | Change::New => return None,
    };
    let (severity, remedy) = match (difference.worth, difference.change) {
        (Worth::Rows, _) => (Severity::Error, Remedy::Replace),
        (Worth::Rebuilt, Change::Size { .. } | Change::Content) => (Severity::Warning, Remedy::SetAsideFile),
        (Worth::Rebuilt | Worth::Other, _) => (Severity::Warning, Remedy::Nothing),
    };
    Some(Finding::new(code, severity, difference.place.clone(), evidence).with_remedy(remedy))
}

/// Files that were written to without changing their size, or whose times a copy did not keep.
fn modified_findings(modified: &[&Difference], sealed_count: usize) -> Vec<Finding> {
    const CODE: &str = "seal-mtime-changed";
    if modified.len() <= MOST_NAMED {
        let evidence = "it was written to after the server stopped; what is in it may be another's";
        let finding = |found: &&Difference| {
            let finding = Finding::new(CODE, Severity::Warning, found.place.clone(), evidence);
            // A wrong visibility map shows deleted rows; the server makes both maps again.
            let is_rebuilt = found.worth == Worth::Rebuilt;
            finding.with_remedy(if is_rebuilt { Remedy::SetAsideFile } else { Remedy::Nothing })
        };
        return modified.iter().map(finding).collect();
    }
    let evidence = format!(
        "{} of {sealed_count} files have other times than when the server stopped, as after a copy that does not keep them",
        modified.len(),
    );
    vec![Finding::new(CODE, Severity::Warning, ".", evidence)]
}

fn new_findings(new: &[&Difference]) -> Vec<Finding> {
    const CODE: &str = "seal-file-new";
    if new.len() <= MOST_NAMED {
        let evidence = "it was not there when the server stopped";
        let finding =
            |found: &&Difference| Finding::new(CODE, Severity::Notice, found.place.clone(), evidence);
        return new.iter().map(finding).collect();
    }
    let examples: Vec<&str> = new.iter().take(3).map(|found| found.place.as_str()).collect();
    let evidence = format!(
        "{} files were not there when the server stopped, {} among them",
        new.len(),
        examples.join(", ")
    );
    vec![Finding::new(CODE, Severity::Notice, ".", evidence)]
}

#[cfg(test)]
mod tests {
    use super::differences::is_same_time;
    use super::*;
    use crate::cluster::seal::Stop;
    use crate::cluster::tree::TreeDirectory;
    use crate::pg::{Lsn, SystemIdentifier};
    use crate::sys::{Entry, EntryKind, FileFacts};

    const SECOND_NS: i64 = 1_000_000_000;

    fn entry(name: &str, size_bytes: u64, modified_ns: i64) -> Entry {
        let (kind, mode, changed_ns) = (EntryKind::File, 0o600, modified_ns);
        let facts = FileFacts { kind, size_bytes, mode, uid: 1, gid: 1, modified_ns, changed_ns };
        Entry { name: name.to_owned(), facts }
    }

    fn tree(directories: &[(&str, &[Entry])]) -> FileTree {
        let directory = |(path, entries): &(&str, &[Entry])| TreeDirectory {
            path: (*path).to_owned(),
            is_elsewhere: false,
            entries: entries.to_vec(),
        };
        FileTree { directories: directories.iter().map(directory).collect(), unreadable: Vec::new() }
    }

    fn sealed(directories: &[(&str, &[Entry])]) -> Seal {
        let stop = Stop { system_identifier: SystemIdentifier(1), checkpoint: Lsn(2), control_crc: 3 };
        Seal::of_tree(stop, &tree(directories))
    }

    fn summary(seal: &Seal, tree: &FileTree) -> Vec<(&'static str, Severity, String)> {
        let found = findings(&differences(seal, tree), seal.file_count());
        found.into_iter().map(|finding| (finding.code, finding.severity, finding.place)).collect()
    }

    #[test]
    fn a_cluster_that_is_as_it_was_sealed_has_no_finding() {
        let files = [entry("1259", 8192, 5), entry("1259_vm", 8192, 6)];
        let seal = sealed(&[("base/1", &files), ("log", &[entry("x", 1, 1)])]);

        assert_eq!(seal.file_count(), 2);
        assert_eq!(summary(&seal, &tree(&[("base/1", &files)])), []);
    }

    #[test]
    fn a_lost_a_cut_a_written_and_a_new_file_are_told_apart() {
        let before = [
            entry("1", 8192, 5),
            entry("2", 8192, 5),
            entry("2_fsm", 8192, 5),
            entry("2_vm", 8192, 5),
            entry("3", 8192, 5),
        ];
        let after = [entry("0", 1, 5), entry("2", 0, 5), entry("2_vm", 0, 5), entry("3", 8192, 7)];

        let found = summary(&sealed(&[("base/1", &before)]), &tree(&[("base/1", &after)]));

        let (error, warning) = (Severity::Error, Severity::Warning);
        assert_eq!(
            found,
            [
                ("seal-file-missing", error, "base/1/1".to_owned()),
                ("seal-size-changed", error, "base/1/2".to_owned()),
                ("seal-file-missing", warning, "base/1/2_fsm".to_owned()),
                ("seal-size-changed", warning, "base/1/2_vm".to_owned()),
                ("seal-mtime-changed", warning, "base/1/3".to_owned()),
                ("seal-file-new", Severity::Notice, "base/1/0".to_owned()),
            ]
        );
    }

    #[test]
    fn a_copy_that_keeps_no_times_is_one_warning_and_a_lost_directory_one_error() {
        let before: Vec<Entry> = (100..150).map(|number| entry(&number.to_string(), 8192, 5)).collect();
        let after: Vec<Entry> = (100..150).map(|number| entry(&number.to_string(), 8192, 9)).collect();
        let seal = sealed(&[("base/1", &before), ("base/5", &before)]);

        let found = summary(&seal, &tree(&[("base/1", &after)]));

        let lost = ("seal-file-missing", Severity::Error, "base/5".to_owned());
        assert_eq!(found, [lost, ("seal-mtime-changed", Severity::Warning, ".".to_owned())]);
    }

    #[test]
    fn a_time_that_was_cut_to_a_coarser_unit_is_the_same() {
        let time = 7 * SECOND_NS + 123_456_789;
        for same in [time, time - 89, time - 789, time - 456_789, 7 * SECOND_NS] {
            assert!(is_same_time(time, same), "{same}");
        }
        for other in [time + 1, time - 1, 8 * SECOND_NS, 0] {
            assert!(!is_same_time(time, other), "{other}");
        }
    }

    #[test]
    fn nothing_is_said_of_a_directory_that_could_not_be_listed() {
        let files = [entry("1", 8192, 5)];
        let mut present = tree(&[]);
        present.unreadable.push("base".to_owned());

        assert_eq!(summary(&sealed(&[("base/1", &files)]), &present), []);
    }
}
