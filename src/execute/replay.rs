//! Healing damaged pages without a backup: a copy of the cluster, in staging, replays its own WAL from a checkpoint
//! older than the last, and the WAL brings every page whole that was changed since.
//!
//! Whether that checkpoint will do is the inspection's word (`facts/corruption.md` §5): from it on, the first thing the
//! WAL has of each damaged page is its whole content. The cluster itself is only read, and so are its tablespaces: the
//! copy has directories of its own in their place, inside the data directory, as a restored backup has. Copying them
//! beside where they are was refused: nothing outside the data directory is pgbox's to write, and two directories cannot
//! be exchanged at the same moment as the rest.

use super::Tools;
use super::backup::listing::{Item, ItemKind, Listing, Rules};
use super::private_recovery::recover_copy;
use super::repairs::reindex_statements;
use super::replay_unlogged::put_back_unlogged;
use super::restored_layout::{
    AUTO_CONFIGURATION, MAXIMUM_CONFIGURATION_SIZE_BYTES, RestoredTablespace, with_tablespaces_in_place,
};
use super::single_user::run_single_user;
use super::staging::{STAGING, clear_staging, ensure_room, inspect_staged, staged};
use crate::cluster::control_file;
use crate::cluster::inspect::Depth;
use crate::cluster::inspect::wal::{WalDirectory, find_checkpoint_at};
use crate::error::{Failure, Kind};
use crate::pg::Lsn;
use crate::pg::control_file::{CONTROL_FILE, pointed_at};
use crate::plan::recovery::indexes_by_database;
use crate::sys::{WriteRoot, step_point};
use anyhow::Context;
use rayon::prelude::*;

/// What replay writes besides the copy.
pub(super) const SPARE_BYTES: u64 = 128 << 20;

/// Builds a copy of the present cluster that has replayed its WAL from a checkpoint on, whole, cleanly stopped and on
/// disk. Returns what will have been done, once it is in place.
///
/// # Errors
/// What could not be copied or replayed. Nothing of the cluster in place has changed.
pub(super) fn build_from_replay(
    tools: &Tools,
    root: &WriteRoot,
    checkpoint: Lsn,
) -> anyhow::Result<Vec<String>> {
    let listing = Listing::read(root, Rules::Cold).context("list the cluster")?;
    if let Some(unreadable) = listing.unreadable.first() {
        anyhow::bail!("could not read all of the cluster: {unreadable}");
    }
    clear_staging(root)?;
    copy_cluster(tools, root, &listing)?;
    step_point("copied to staging");
    point_at(root, checkpoint)?;
    step_point("pointed at a checkpoint");
    recover_copy(tools, root, &root.path().join(STAGING))?;
    step_point("replayed");
    put_back_unlogged(root, &listing)?;
    rebuild_indexes(tools, root)?;
    root.sync_file_system().context("write the replayed cluster to disk")?;
    let mut done = vec![format!("replayed the WAL from the checkpoint at {checkpoint}")];
    done.extend(tablespaces(&listing).map(|tablespace| tablespace.to_string()));
    Ok(done)
}

pub(super) fn copy_cluster(tools: &Tools, root: &WriteRoot, listing: &Listing) -> anyhow::Result<()> {
    let needed_bytes = listing.size_bytes().saturating_add(SPARE_BYTES);
    ensure_room(root.path(), needed_bytes, "replay the WAL on a copy of the cluster")?;
    for item in &listing.items {
        let place = staged(item.path.as_str());
        match &item.kind {
            ItemKind::File => Ok(()),
            ItemKind::Directory | ItemKind::Tablespace { .. } => root.create_directories(place, 0o700),
            ItemKind::Symlink { target } => root.create_symlink(target, place),
        }
        .with_context(|| format!("copy '{}'", item.path.as_str()))?;
    }
    tools.progress.begin("copying the cluster", Some(listing.size_bytes()));
    let files: Vec<&Item> = listing.files().collect();
    let copied: anyhow::Result<()> = files.par_iter().try_for_each(|item| {
        copy_file(root, listing, item)?;
        tools.progress.advance(item.facts.size_bytes);
        Ok(())
    });
    tools.progress.end();
    copied?;
    allow_tablespaces_in_place(root, listing)
}

/// The tablespaces that are outside the data directory, and inside the copy's.
fn tablespaces(listing: &Listing) -> impl Iterator<Item = RestoredTablespace> {
    listing.items.iter().filter_map(|item| match &item.kind {
        ItemKind::Tablespace { target } => {
            Some(RestoredTablespace { path: item.path.to_string(), former: target.clone() })
        }
        _ => None,
    })
}

fn allow_tablespaces_in_place(root: &WriteRoot, listing: &Listing) -> anyhow::Result<()> {
    if tablespaces(listing).next().is_none() {
        return Ok(());
    }
    let place = staged(AUTO_CONFIGURATION);
    let former = match root.facts(&place)? {
        Some(_) => root.read_bounded(&place, MAXIMUM_CONFIGURATION_SIZE_BYTES)?,
        None => Vec::new(),
    };
    root.write_durably(&place, &with_tablespaces_in_place(former), 0o600)
        .context("allow tablespaces in the data directory")
}

/// Copies one file to the same place in staging, whole or not at all.
pub(super) fn copy_file(root: &WriteRoot, listing: &Listing, item: &Item) -> anyhow::Result<()> {
    let path = item.path.as_str();
    let copy = || root.copy_file(&listing.open(item)?, staged(path), 0o600);
    let copied = copy().with_context(|| format!("copy '{path}'"))?;
    // Zeros where something could not be read would pass for a page that was never used.
    match copied.unreadable.first() {
        Some(part) => Err(anyhow::anyhow!("could not read '{path}' at {}: {}", part.offset, part.reason)),
        None => Ok(()),
    }
}

/// Lets the copy begin its recovery at the checkpoint whose record is there.
fn point_at(root: &WriteRoot, checkpoint: Lsn) -> anyhow::Result<()> {
    let place = staged(CONTROL_FILE);
    let (file, control) = control_file::read_at(root, &place).context("read the control file")?;
    let wal = WalDirectory::of_cluster(root, &control).context("open the WAL")?;
    let found = find_checkpoint_at(&wal, checkpoint)
        .with_context(|| format!("read the checkpoint record at {checkpoint}"))?;
    let pointed = pointed_at(&file, checkpoint, &found.checkpoint).context("write the control file")?;
    root.write_durably(&place, &pointed, 0o600).context("write the control file")
}

/// The copy still lacks the indexes that the cluster lacks; with its tables whole they can be built anew.
fn rebuild_indexes(tools: &Tools, root: &WriteRoot) -> anyhow::Result<()> {
    let staging = root.path().join(STAGING);
    let diagnosis = inspect_staged(tools, root, Depth::Deep)?;
    let remedies = diagnosis.findings.iter().map(|finding| &finding.remedy);
    for (database, indexes) in indexes_by_database(remedies) {
        run_single_user(tools, root, &staging, database, &reindex_statements(&indexes))
            .with_context(|| format!("build indexes of database '{database}' anew"))?;
    }
    let diagnosis = inspect_staged(tools, root, Depth::Deep)?;
    match diagnosis.findings.iter().find(|finding| finding.asks_for_repair()) {
        Some(left) => {
            let message = format!("replay did not heal everything: {}", left.summary());
            Err(Failure::new(Kind::VerificationFailed, message).into())
        }
        None => Ok(()),
    }
}
