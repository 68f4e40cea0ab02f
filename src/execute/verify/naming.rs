//! Whose the damaged files of a backup are, by the catalogs of the present cluster.
//!
//! The backup's own catalogs may be what is damaged, and would have to be restored to be read. Those of the present
//! cluster know a file by the same name unless it was rewritten since; of another cluster they know nothing.

use std::collections::BTreeSet;

use crate::cluster::control_file;
use crate::cluster::inspect::relation_names;
use crate::execute::Tools;
use crate::plan::{BackupSummary, Damage};
use crate::sys::ReadRoot;

/// How many files are looked up.
const MOST_LOOKED_UP: usize = 10_000;

/// Says whose the damaged files are, where that is known.
pub(super) fn name_relations(tools: &Tools, backup: &BackupSummary, damage: &mut [Damage]) {
    let files: BTreeSet<String> = damage
        .iter()
        .flat_map(|piece| &piece.files)
        .map(|file| file.file.clone())
        .take(MOST_LOOKED_UP)
        .collect();
    if files.is_empty() {
        return;
    }
    let Some(data) = present_cluster(tools, backup) else { return };
    let paths: Vec<&str> = files.iter().map(String::as_str).collect();
    let names = relation_names(&data, &paths);
    for file in damage.iter_mut().flat_map(|piece| &mut piece.files) {
        file.relation = names.get(&file.file).cloned();
    }
}

/// The data directory, if the backup is of the cluster in it.
fn present_cluster(tools: &Tools, backup: &BackupSummary) -> Option<ReadRoot> {
    let data = ReadRoot::open(&tools.settings.data_directory).ok()?;
    let control = control_file::read(&data).ok()?;
    (backup.system_identifier == Some(control.system_identifier)).then_some(data)
}
