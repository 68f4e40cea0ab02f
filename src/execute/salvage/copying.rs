//! The copy that everything is tried on: the present cluster is read, and nothing else.
//!
//! Only what holds rows, or says which rows count, is copied. What a server makes anew is left out, and so is the
//! configuration, which may be the damaged thing. Tablespaces are copied beside the copy and linked from it, so that
//! no link leads to anything of the present cluster.

use super::loss::Salvaged;
use super::workplace::{SALVAGE, Workplace, copied_place};
use crate::execute::backup::listing::{Item, ItemKind, Listing, Rules};
use crate::execute::staging::ensure_room;
use crate::format::bytes;
use crate::pg::layout::{BackupRule, Fork, RelationFile, backup_rule, has_data_pages};
use crate::sys::Copied;
use anyhow::Context;
use rayon::prelude::*;
use std::path::Path;

/// What the new cluster needs besides its rows, and the server that makes it.
const NEW_CLUSTER_BYTES: u64 = 128 << 20;

/// Copies what is needed of the present cluster.
///
/// # Errors
/// When there is no room, or the copy cannot be written. A file that cannot be read is no error: it is named.
pub(super) fn copy_cluster(work: &Workplace, salvaged: &mut Salvaged) -> anyhow::Result<()> {
    let listing = Listing::read(work.root, Rules::Cold).context("list the damaged cluster")?;
    for unreadable in &listing.unreadable {
        salvaged.assume(format!("could not be read, and is left out: {unreadable}"));
    }
    let items: Vec<&Item> = listing.items.iter().filter(|item| is_needed(item.path.as_str())).collect();
    work.root.create_directories(SALVAGE, 0o700).context("make the directory to salvage in")?;
    ensure_room_for_both(work, &listing, &items)?;
    make_directories(work, &items)?;
    let files: Vec<&Item> = items.into_iter().filter(|item| item.kind == ItemKind::File).collect();
    let size_bytes = files.iter().map(|item| item.facts.size_bytes).sum();
    work.tools.progress.begin("copying the damaged cluster", Some(size_bytes));
    let copied: anyhow::Result<Vec<Vec<String>>> =
        files.par_iter().map(|item| copy_item(work, &listing, item)).collect();
    work.tools.progress.end();
    for line in copied?.into_iter().flatten() {
        salvaged.assume(line);
    }
    Ok(())
}

/// Whether an entry says anything about rows.
fn is_needed(path: &str) -> bool {
    let top = path.split('/').next().unwrap_or_default();
    let is_of_cluster = top.starts_with("pg_") || ["base", "global", "PG_VERSION"].contains(&top);
    match top {
        // Where a backup that was restored and never started begins its replay.
        "backup_label" => true,
        "pg_wal" => !path.starts_with("pg_wal/archive_status/") && !path.starts_with("pg_wal/summaries/"),
        _ if !is_of_cluster || backup_rule(path) == BackupRule::Skip => false,
        "pg_log" | "pg_hba.conf" | "pg_ident.conf" => false,
        // Slots, statistics, origins: none of it says anything about rows, and any of it may keep a server down.
        "pg_logical" | "pg_stat" => {
            !path.contains('/') || !path.contains('.') && !path.ends_with("_checkpoint")
        }
        _ => !is_rebuilt_fork(path) && (backup_rule(path) == BackupRule::Copy || !path.contains('/')),
    }
}

/// The free space map and the visibility map, which a server makes anew.
fn is_rebuilt_fork(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    let fork = RelationFile::parse(name).map(|file| file.fork);
    has_data_pages(path) && matches!(fork, Some(Fork::Fsm | Fork::Vm))
}

/// Room for the copy, where it takes any, and for the new cluster, whose size nobody knows yet: without indexes that
/// are bloated, and what else is not copied, it may be much smaller.
fn ensure_room_for_both(work: &Workplace, listing: &Listing, items: &[&Item]) -> anyhow::Result<()> {
    let files = || items.iter().filter(|item| item.kind == ItemKind::File);
    let size_bytes: u64 = files().map(|item| item.facts.size_bytes).sum();
    let probe = files().find(|item| item.facts.size_bytes > 0);
    let is_shared = probe.is_some_and(|item| {
        let place = Path::new(SALVAGE).join("probe");
        let shares = |file| work.root.copy_file(&file, &place, 0o600);
        listing.open(item).and_then(shares).is_ok_and(|copied| copied.is_shared)
    });
    let copy_bytes = if is_shared { 0 } else { size_bytes };
    let needed_bytes = copy_bytes + size_bytes / 2 + NEW_CLUSTER_BYTES;
    ensure_room(work.root.path(), needed_bytes, "salvage what reads into a new cluster")
}

fn make_directories(work: &Workplace, items: &[&Item]) -> anyhow::Result<()> {
    work.root.create_directories(work.copied("."), 0o700).context("make the copy's directory")?;
    for item in items.iter().filter(|item| item.kind != ItemKind::File) {
        if matches!(item.kind, ItemKind::Symlink { .. }) {
            continue;
        }
        let path = item.path.as_str();
        work.root
            .create_directories(copied_place(path), 0o700)
            .with_context(|| format!("copy the directory '{path}'"))?;
        if let ["pg_tblspc", oid] = path.split('/').collect::<Vec<_>>()[..] {
            let target = work.root.path().join(copied_place(path));
            work.root.create_directories(work.copied("pg_tblspc"), 0o700)?;
            work.root.create_symlink(target, work.copied("pg_tblspc").join(oid))?;
        }
    }
    Ok(())
}

/// Copies one file; returns what of it could not be read, in words.
fn copy_item(work: &Workplace, listing: &Listing, item: &Item) -> anyhow::Result<Vec<String>> {
    let path = item.path.as_str();
    let file = match listing.open(item) {
        Ok(file) => file,
        Err(error) => return Ok(vec![format!("'{path}' could not be read, and is left out: {error}")]),
    };
    let Copied { unreadable, .. } =
        work.root.copy_file(&file, copied_place(path), 0o600).with_context(|| format!("copy '{path}'"))?;
    work.tools.progress.advance(item.facts.size_bytes);
    let line = |part: &crate::sys::Unreadable| {
        format!(
            "{} of '{path}' at {} could not be read: {}",
            bytes(part.size_bytes),
            part.offset,
            part.reason
        )
    };
    Ok(unreadable.iter().map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_anything_about_rows_is_copied() {
        for path in [
            "PG_VERSION",
            "base",
            "base/5/1259",
            "base/5/16384.1",
            "base/5/16384_init",
            "global/pg_control",
            "pg_wal/000000010000000000000001",
            "pg_xact/0000",
            "pg_multixact/offsets/0000",
            "pg_twophase/00000300",
            "pg_tblspc/16400/PG_15_202209061/5/16401",
            "backup_label",
            "pg_notify",
            "pg_logical/snapshots",
        ] {
            assert!(is_needed(path), "{path}");
        }
    }

    #[test]
    fn what_a_server_makes_anew_is_not_copied() {
        for path in [
            "postgresql.conf",
            "pg_hba.conf",
            "postgresql.auto.conf",
            "postmaster.pid",
            "recovery.signal",
            "tablespace_map",
            "base/5/16384_vm",
            "base/5/pg_internal.init",
            "pg_notify/0000",
            "pg_replslot/a",
            "pg_logical/replorigin_checkpoint",
            "pg_logical/snapshots/0-1.snap",
            "pg_wal/archive_status/000000010000000000000001.ready",
            "my_own_file",
        ] {
            assert!(!is_needed(path), "{path}");
        }
    }
}
