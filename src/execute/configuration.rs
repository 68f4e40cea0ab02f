//! Sound configuration files for a cluster that lost its own: from a backup, else as a new cluster has them.

use super::Tools;
use super::initialise::fresh_configuration;
use crate::cluster::inspect::identified_cluster;
use crate::plan::{BackupKind, BackupSummary, FileContent};
use crate::repository::Repository;
use crate::sys::WriteRoot;
use anyhow::Context;

/// No configuration file of a person is larger.
const LIMIT_BYTES: u64 = 4 << 20;

/// A sound configuration file of this name: that of the newest backup that has another than the broken one, else a
/// fresh one.
///
/// # Errors
/// When no fresh one could be made. Backups that cannot be read are passed over: a fresh file is better than none.
pub(super) fn sound_configuration(
    root: &WriteRoot,
    tools: &Tools,
    place: &str,
) -> anyhow::Result<FileContent> {
    let broken = root.read_bounded(place, LIMIT_BYTES).unwrap_or_default();
    if let Ok(Some(repository)) = tools.repository()
        && let Some(content) = from_backups(repository, root, tools, place, &broken)
    {
        return Ok(content);
    }
    let bytes = fresh_configuration(tools, root, place).with_context(|| format!("make a fresh '{place}'"))?;
    Ok(FileContent { description: "as a new cluster has it".to_owned(), bytes })
}

fn from_backups(
    repository: &Repository,
    root: &WriteRoot,
    tools: &Tools,
    place: &str,
    broken: &[u8],
) -> Option<FileContent> {
    let backups = repository
        .backups()
        .inspect_err(|error| tools.progress.note(&format!("the backups could not be listed: {error}")))
        .ok()?;
    let cluster = identified_cluster(root);
    // Another cluster's configuration may let in whom this one keeps out.
    let is_of_cluster = |backup: &&BackupSummary| match cluster {
        Some(cluster) => backup.system_identifier == Some(cluster),
        None => backups.iter().all(|other| other.system_identifier == backup.system_identifier),
    };
    let of_cluster = backups
        .iter()
        .filter(|backup| backup.name.kind() == BackupKind::Backup && backup.is_complete())
        .filter(is_of_cluster);
    for backup in of_cluster {
        let read = repository.reader(backup.name).and_then(|reader| reader.read_file(place, LIMIT_BYTES));
        match read {
            Ok(Some(bytes)) if !bytes.is_empty() && bytes != broken => {
                return Some(FileContent { description: format!("as it is in {}", backup.name), bytes });
            }
            Ok(_) => {}
            Err(error) => {
                tools.progress.note(&format!("'{place}' of {} was passed over: {error}", backup.name));
            }
        }
    }
    None
}
