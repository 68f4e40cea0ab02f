//! Staging: where a cluster is built beside the present one, seen to be sound, and taken over from.

use super::Tools;
use crate::cluster::inspect::{self, Depth, Expectations};
use crate::error::{Failure, Kind};
use crate::format::bytes;
use crate::plan::Diagnosis;
use crate::sys::{WriteRoot, disk_space, effective_identity};
use anyhow::Context;
use std::path::{Path, PathBuf};

/// Where a cluster is built, below the data directory.
pub(super) const STAGING: &str = ".pgbox/new";

/// Where staging has what the data directory has at `path`.
pub(super) fn staged(path: impl AsRef<Path>) -> PathBuf {
    Path::new(STAGING).join(path)
}

/// Empties the staging directory and makes it anew. Whatever was in it was never in place.
pub(super) fn clear_staging(root: &WriteRoot) -> anyhow::Result<()> {
    root.discard(STAGING).context("clear the staging directory")?;
    root.create_directory(STAGING, 0o700).context("make the staging directory")
}

/// The same inspection that a cluster in place gets, but for its configuration, which is in place already or was
/// written by initdb.
pub(super) fn inspect_staged(tools: &Tools, root: &WriteRoot, depth: Depth) -> anyhow::Result<Diagnosis> {
    let expectations = Expectations {
        wanted_version: None,
        installed_versions: vec![tools.installation.version],
        server_uid: effective_identity().uid,
        depth,
        programs: None,
    };
    inspect::inspect(&root.path().join(STAGING), &expectations).context("inspect what was built")
}

/// What is free on the disk of a directory.
pub(super) fn available_bytes(path: &Path) -> anyhow::Result<u64> {
    let space = disk_space(path).with_context(|| format!("ask how full '{}' is", path.display()))?;
    Ok(space.available_bytes)
}

/// Fails where `needed_bytes` do not fit beside the present cluster. `action` is what they are for: "restore …".
///
/// # Errors
/// [`Kind::Refused`]: want of room says nothing about what was to be done, and may pass.
pub(super) fn ensure_room(root: &Path, needed_bytes: u64, action: &str) -> anyhow::Result<()> {
    let available_bytes = available_bytes(root)?;
    let missing_bytes = needed_bytes.saturating_sub(available_bytes);
    if missing_bytes == 0 {
        return Ok(());
    }
    let message = format!(
        "could not {action}: it takes {} beside the present data, and {} are free on the disk of '{}'",
        bytes(needed_bytes),
        bytes(available_bytes),
        root.display()
    );
    let hint = format!("free {} there, then run it again. Nothing was changed.", bytes(missing_bytes));
    Err(Failure::new(Kind::Refused, message).hint(hint).into())
}
