//! Who uses a data directory now.

use crate::cluster::elsewhere::server_elsewhere;
use crate::pg::postmaster_pid::PostmasterPid;
use crate::plan::Presence;
use crate::sys::{ReadRoot, WriteRoot, is_postmaster_of};
use std::io;

/// Tells who uses the directory: a server that can be seen, the holder of the lock, a server that
/// cannot be seen, or nobody.
pub(super) fn presence(root: &ReadRoot) -> io::Result<Presence> {
    if let Some(pid) = running_server(root) {
        return Ok(Presence::Running { pid });
    }
    match WriteRoot::lock_holder(root.path()) {
        Ok(None) => {
            Ok(server_elsewhere(root).map_or(Presence::Free, |server| Presence::Elsewhere { server }))
        }
        Ok(Some(holder)) => Ok(Presence::Locked { holder: holder.map(|holder| holder.to_string()) }),
        // Somebody else's lock file that may not be opened: the inspection goes on, and a claim would fail.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(Presence::Free),
        Err(error) => Err(error),
    }
}

/// The process id in `postmaster.pid`, if it is a live server of this directory.
pub(crate) fn running_server(root: &ReadRoot) -> Option<i32> {
    let text = root.read_text("postmaster.pid", 4096).ok()??;
    let lock_file = PostmasterPid::parse(&text).ok()?;
    is_postmaster_of(lock_file.pid, root.path()).then_some(lock_file.pid)
}
