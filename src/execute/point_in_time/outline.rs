//! What a restore takes, replaces and leaves out, looked up before it.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::Prepared;
use crate::execute::Tools;
use crate::execute::backup::listing::{Listing, Rules};
use crate::execute::decide::diagnose;
use crate::execute::staging::available_bytes;
use crate::plan::delta::SPARE_BYTES;
use crate::plan::restore_outline::{Outline, Replaced, Wal};
use crate::plan::{BackupSummary, ClusterCondition};
use crate::sys::ReadRoot;

/// Looks up what a restore comes to: to a moment, or without one of a backup as it is.
pub fn outline(
    tools: &Tools,
    backup: &BackupSummary,
    prepared: Option<&Prepared>,
    into: Option<&Path>,
) -> anyhow::Result<Outline> {
    let way = prepared.map(|prepared| prepared.way.clone());
    let place = into.unwrap_or(&tools.settings.data_directory);
    let own_bytes = backup.size_bytes.saturating_add(SPARE_BYTES);
    let replaces = if into.is_none() { replaced(tools, prepared)? } else { None };
    let lost_from = prepared.and_then(|prepared| prepared.lost_from.clone());
    Ok(Outline {
        backup: backup.clone(),
        wal: way.as_ref().map(Wal::of).unwrap_or_default(),
        way,
        into: into.map(Path::to_path_buf),
        replaces,
        needed_bytes: prepared.map_or(own_bytes, Prepared::needed_bytes),
        available_bytes: available_bytes(&existing(place)?)?,
        lost_from,
    })
}

fn replaced(tools: &Tools, prepared: Option<&Prepared>) -> anyhow::Result<Option<Replaced>> {
    let diagnosis = diagnose(tools)?;
    if matches!(diagnosis.condition, ClusterCondition::Absent | ClusterCondition::Empty) {
        return Ok(None);
    }
    let root = ReadRoot::open(&diagnosis.data_directory).context("open the data directory")?;
    let listing = Listing::read(&root, Rules::Cold).context("list the present cluster")?;
    Ok(Some(Replaced {
        data_directory: diagnosis.data_directory,
        size_bytes: listing.size_bytes(),
        last_commit: prepared.and_then(|prepared| prepared.present_commit),
    }))
}

/// The directory, or the nearest above it that is there.
fn existing(place: &Path) -> anyhow::Result<PathBuf> {
    let absolute = std::path::absolute(place).context("find the directory")?;
    Ok(absolute.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_path_buf())
}
