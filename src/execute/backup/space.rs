//! Whether there is any hope that a backup fits, asked before the server is asked for a checkpoint.

use anyhow::Context;

use super::former::{Comparison, Former};
use super::listing::{Item, Listing, Rules};
use crate::error::{Failure, Kind};
use crate::format::bytes;
use crate::pg::control_file::ControlFile;
use crate::repository::Repository;
use crate::sys::{ReadRoot, disk_space};

/// No cluster's files shrink to less than this part of their size, so that a backup which could have fitted is never
/// refused. One that does not fit in the end fails later, and takes what it wrote with it.
const BEST_COMPRESSION: u64 = 16;
/// Room for tables, the last WAL segment, and what else is small.
const MARGIN_BYTES: u64 = 2 * 1024 * 1024;

/// Fails when the backup cannot fit.
pub(super) fn ensure_enough(
    repository: &Repository,
    data: &ReadRoot,
    former: Option<&Former>,
    control: &ControlFile,
) -> anyhow::Result<()> {
    let listing = Listing::read(data, Rules::Hot).context("list the data directory")?;
    let changed_bytes = changed_bytes(&listing, former);
    let needed_bytes = changed_bytes / BEST_COMPRESSION
        + u64::from(control.wal_segment_size) / BEST_COMPRESSION
        + MARGIN_BYTES;
    let available_bytes = disk_space(repository.path()).context("ask for free space")?.available_bytes;
    if available_bytes >= needed_bytes {
        return Ok(());
    }
    let message = format!(
        "could not back up to '{}': only {} free, and {} of files are new or changed",
        repository.path().display(),
        bytes(available_bytes),
        bytes(changed_bytes)
    );
    let hint = "free some space, or remove old backups with `backup-postgresql cleanup`; nothing was changed";
    Err(Failure::new(Kind::Failed, message).hint(hint).into())
}

fn changed_bytes(listing: &Listing, former: Option<&Former>) -> u64 {
    let is_changed = |item: &&Item| {
        let compared = former.map_or(Comparison::Different, |former| former.compare(item));
        // What is only doubtful has been written with what it held, more often than not.
        matches!(compared, Comparison::Different)
    };
    listing.files().filter(is_changed).map(|item| item.facts.size_bytes).sum()
}
