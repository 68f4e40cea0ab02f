//! A server that takes no writes: whether it is one, and whom it follows.

use super::control_file;
use super::own_settings::OwnSettings;
use super::session::{Login, ServerAddress};
use crate::pg::control_file::{CONTROL_FILE, ClusterState};
use crate::sys::ReadRoot;
use postgres::Client;

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

/// Whether the file that makes the server recover was written by pgbox, which then has all the WAL for it in `pg_wal`.
pub fn is_own_signal(root: &ReadRoot) -> bool {
    let Ok(Some(text)) = root.read_text(RECOVERY_SIGNAL, 4096) else { return false };
    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text).is_ok()
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

/// What to tell a person of a server whose recovery is paused, and what to do about it.
pub const PAUSED: (&str, &str) = (
    "the recovery of the server is paused: it replays nothing, and takes no writes",
    "run `SELECT pg_wal_replay_resume()` in it: a standby goes on then, and a recovery that has reached its target ends",
);

/// Whether the recovery of a running server is paused: by somebody, or at its target (xlogrecovery.c,
/// `recoveryPausesHere()`). Only a server that recovers is asked.
pub fn is_paused(root: &ReadRoot, address: &ServerAddress, login: &Login) -> bool {
    let recovers = control_file::read_served(root)
        .is_ok_and(|(_, control)| control.state == ClusterState::InArchiveRecovery);
    recovers && address.connect(login).is_ok_and(|mut client| is_replay_paused(&mut client))
}

fn is_replay_paused(client: &mut Client) -> bool {
    // Outside a recovery the second function raises an error (xlogfuncs.c, `pg_is_wal_replay_paused()`).
    const QUERY: &str = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() \
                         THEN pg_catalog.pg_is_wal_replay_paused() ELSE false END";
    client.query_one(QUERY, &[]).and_then(|row| row.try_get(0)).unwrap_or(false)
}

/// Whether the configuration names a primary or an archive to follow, or may do so in a file that is not read here.
pub(super) fn follows_another(root: &ReadRoot) -> bool {
    let Ok(own) = OwnSettings::read(root) else { return true };
    let is_set = |name: &str| own.get(name).is_some_and(|value| !value.is_empty());
    own.takes_in_others || is_set("primary_conninfo") || is_set("restore_command")
}
