//! Gives the unlogged relations of a replayed copy back what they hold in the present cluster.
//!
//! A replay begins them anew from their init forks (reinit.c), and nothing of what they held is in the WAL. After a
//! clean stop their files in the present cluster are whole, and they are also what the copy's catalogs name: the replay
//! ends where the present catalogs do, whatever was rewritten in between, so that both name the same file numbers. After
//! a crash there is nothing to give back: the server would have begun them anew as well.

use super::backup::listing::{Item, Listing, relation_of};
use super::replay::copy_file;
use super::staging::staged;
use crate::cluster::control_file;
use crate::pg::Oid;
use crate::pg::control_file::{CONTROL_FILE, ClusterState, ControlFile, with_unlogged_lsn};
use crate::pg::layout::{Fork, RelationFile};
use crate::sys::{WriteRoot, step_point};
use anyhow::{Context, ensure};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// The file numbers of unlogged relations, by directory.
type Unlogged<'a> = BTreeMap<&'a str, BTreeSet<Oid>>;

/// Puts the files of unlogged relations of a cluster that was stopped cleanly in the place of those that the replayed
/// and stopped copy has, with the counter that their pages' LSNs come from.
///
/// # Errors
/// What could not be read or written. Nothing of the cluster in place has changed.
pub(super) fn put_back_unlogged(root: &WriteRoot, listing: &Listing) -> anyhow::Result<()> {
    let present = control_file::read_at(root, CONTROL_FILE).context("read the control file")?.1;
    let unlogged = unlogged(listing);
    if present.state != ClusterState::ShutDown || unlogged.is_empty() {
        return Ok(());
    }
    for (directory, numbers) in &unlogged {
        discard(root, directory, numbers)
            .with_context(|| format!("empty unlogged relations in '{directory}'"))?;
    }
    let files: Vec<&Item> = listing.files().filter(|item| is_content(item, &unlogged)).collect();
    files.par_iter().try_for_each(|item| copy_file(root, listing, item))?;
    step_point("unlogged relations put back");
    keep_counter(root, &present).context("keep the LSN counter of unlogged relations")
}

/// Whether a listed cluster has unlogged relations with anything but what their init forks begin them with.
pub(super) fn has_unlogged_rows(listing: &Listing) -> bool {
    let unlogged = unlogged(listing);
    let initial = initial_sizes(listing);
    listing.files().any(|item| {
        is_content(item, &unlogged)
            && relation_of(item).is_some_and(|(directory, file)| {
                let is_begun = initial.get(&(directory, file.relfilenode)) == Some(&item.facts.size_bytes);
                !(file.fork == Fork::Main && is_begun)
            })
    })
}

/// The sizes of init forks.
fn initial_sizes(listing: &Listing) -> BTreeMap<(&str, Oid), u64> {
    let init = listing.files().filter_map(|item| Some((relation_of(item)?, item.facts.size_bytes)));
    let init = init.filter(|((_, file), _)| file.fork == Fork::Init);
    init.map(|((directory, file), size)| ((directory, file.relfilenode), size)).collect()
}

/// The relations that have an init fork.
fn unlogged(listing: &Listing) -> Unlogged<'_> {
    let mut unlogged = Unlogged::new();
    for (directory, file) in listing.files().filter_map(relation_of) {
        if file.fork == Fork::Init {
            unlogged.entry(directory).or_default().insert(file.relfilenode);
        }
    }
    unlogged
}

/// Whether a file is any but the init fork of an unlogged relation.
fn is_content(item: &Item, unlogged: &Unlogged<'_>) -> bool {
    relation_of(item).is_some_and(|(directory, file)| {
        file.fork != Fork::Init
            && unlogged.get(directory).is_some_and(|numbers| numbers.contains(&file.relfilenode))
    })
}

/// Removes what the copy began these relations anew with.
fn discard(root: &WriteRoot, directory: &str, numbers: &BTreeSet<Oid>) -> anyhow::Result<()> {
    let directory = staged(directory);
    for entry in root.entries(&directory)? {
        let file = RelationFile::parse(&entry.name);
        if file.is_some_and(|file| file.fork != Fork::Init && numbers.contains(&file.relfilenode)) {
            root.discard(directory.join(&entry.name))?;
        }
    }
    Ok(())
}

/// The replay set the counter back (xlog.c, `StartupXLOG()`); a `GiST` index would take a page that was split since a
/// scan began for one that was not (gist.c, `gistGetFakeLSN()`).
fn keep_counter(root: &WriteRoot, present: &ControlFile) -> anyhow::Result<()> {
    let place = staged(CONTROL_FILE);
    let (bytes, replayed) = control_file::read_at(root, &place)?;
    ensure!(replayed.state == ClusterState::ShutDown, "the replayed copy is {}", replayed.state);
    let counter = present.unlogged_lsn.max(replayed.unlogged_lsn);
    root.write_durably(&place, &with_unlogged_lsn(&bytes, counter)?, 0o600)?;
    Ok(())
}
