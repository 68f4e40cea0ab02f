//! A server that takes no writes: whether it is one, and whom it follows.

use super::control_file;
use super::own_settings::OwnSettings;
use crate::pg::control_file::{CONTROL_FILE, ClusterState};
use crate::sys::ReadRoot;

/// The file that makes a server a standby.
pub const STANDBY_SIGNAL: &str = "standby.signal";

/// The file that makes a server recover. The server looks at nothing but its name; its content, written by
/// pgbox, is the timeline to follow and where to end, so that it is known after a crash, too, and gone with the file
/// once the server has ended recovery.
pub const RECOVERY_SIGNAL: &str = "recovery.signal";

/// What a standby has to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Following {
    /// A primary, or an archive.
    Another,
    /// Nothing: neither `primary_conninfo` nor `restore_command` is set, so that `standby.signal` may only have been
    /// left behind.
    Nothing,
}

impl Following {
    /// What to tell a person of such a server, and what to do about it.
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Another => (
                "the server is a standby of another: it takes no writes",
                "to make it a primary of its own, run `SELECT pg_promote()` in it",
            ),
            Self::Nothing => (
                "the server is a standby that follows no primary: standby.signal is in the data directory, and it takes no \
                 writes",
                "if standby.signal was left there by mistake, remove it and run `maintenance restart`; if the server is \
                 to follow a primary, set primary_conninfo",
            ),
        }
    }
}

/// Returns what the running server of a data directory follows; `None` for one that is no standby, and where none runs.
///
/// The server removes the file when it is promoted, and only then says that it is in production (xlog.c,
/// `StartupXLOG()`). A file that was made while a primary runs counts from its next start.
pub fn of_running(root: &ReadRoot) -> Option<Following> {
    let is_there = |name: &str| matches!(root.facts(name), Ok(Some(_)));
    if !is_there(STANDBY_SIGNAL) || !is_there("postmaster.pid") {
        return None;
    }
    let (_, control) = control_file::read_at(root, CONTROL_FILE).ok()?;
    if control.state == ClusterState::InProduction {
        return None;
    }
    Some(if follows_another(root) { Following::Another } else { Following::Nothing })
}

/// Whether the configuration names a primary or an archive to follow, or may do so in a file that is not read here.
pub(super) fn follows_another(root: &ReadRoot) -> bool {
    let Ok(own) = OwnSettings::read(root) else { return true };
    let is_set = |name: &str| own.get(name).is_some_and(|value| !value.is_empty());
    own.takes_in_others || is_set("primary_conninfo") || is_set("restore_command")
}
