//! How a server that has to recover puts on disk what it finds.
//!
//! Before it replays anything, a server syncs every file of its cluster (fd.c, `SyncDataDirectory()`), for what was
//! written and is not on disk yet would be lost with the next crash of the machine. It does so file by file, and each
//! time waits until the disk has emptied its cache: a new cluster has over a thousand files, which takes a second where
//! the recovery itself takes a tenth of that. One `syncfs(2)` for each file system does the same at once. It came with
//! PostgreSQL 14. Where the kernel or a file system of the cluster does not do what that call promises, all stays as it
//! is: a server that replays over what is not on disk loses it with the next power cut, after its next checkpoint.

use crate::cluster::binaries::Installation;
use crate::cluster::own_settings::OwnSettings;
use crate::sys::syncs_at_once;
use std::path::Path;

const PARAMETER: &str = "recovery_init_sync_method";
const FIRST_MAJOR_VERSION: u32 = 14;

/// The setting for a server of this cluster; none where somebody set it, or may have.
pub(super) fn server_settings(
    installation: &Installation,
    data_directory: &Path,
    own: &Result<OwnSettings, String>,
) -> Option<(&'static str, String)> {
    let is_known = installation.version.0 >= FIRST_MAJOR_VERSION && syncs_at_once(data_directory);
    let is_free = || {
        // A configuration that cannot be read is told where the server is started by it.
        own.as_ref().is_ok_and(|own| !own.takes_in_others && own.get(PARAMETER).is_none())
    };
    (is_known && is_free()).then(|| (PARAMETER, "syncfs".to_owned()))
}
