//! How a server that has to recover puts on disk what it finds.
//!
//! Before it replays anything, a server syncs every file of its cluster (fd.c, `SyncDataDirectory()`), for what was
//! written and is not on disk yet would be lost with the next crash of the machine. It does so file by file, and each
//! time waits until the disk has emptied its cache: a new cluster has over a thousand files, which takes a second where
//! the recovery itself takes a tenth of that. One `syncfs(2)` for each file system does the same at once. It came with
//! PostgreSQL 14; kernels before 5.8 do not tell of every failed write through it, and there all stays as it is.

use crate::cluster::binaries::Installation;
use crate::cluster::own_settings::OwnSettings;
use crate::sys::kernel_version;

const PARAMETER: &str = "recovery_init_sync_method";
const FIRST_MAJOR_VERSION: u32 = 14;
const FIRST_KERNEL: (u32, u32) = (5, 8);

/// The setting for a server of this cluster; none where somebody set it, or may have.
pub(super) fn server_settings(
    installation: &Installation,
    own: &Result<OwnSettings, String>,
) -> Option<(&'static str, String)> {
    let is_known = installation.version.0 >= FIRST_MAJOR_VERSION
        && kernel_version().is_some_and(|version| version >= FIRST_KERNEL);
    let is_free = || {
        // A configuration that cannot be read is told where the server is started by it.
        own.as_ref().is_ok_and(|own| !own.takes_in_others && own.get(PARAMETER).is_none())
    };
    (is_known && is_free()).then(|| (PARAMETER, "syncfs".to_owned()))
}
